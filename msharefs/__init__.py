"""What a Python client imports. It must not import the daemon's side (core, fuse, memory, daemon)."""

from msharefs._attachment import Attachment
from msharefs._errors import (
    AccessDenied,
    InvalidArgument,
    MappingExists,
    MountGone,
    MshareError,
    NotARegion,
    NotMounted,
    OutOfInodes,
    OutOfMemory,
    RegionExists,
    RegionNotFound,
    RegionTooLarge,
    SizeAlreadySet,
    SizeNotSet,
)
from msharefs._layout import Creator, Layout, Mapping
from msharefs._mountpoint import alignment, default_directory
from msharefs.client import Region

__version__ = "0.1.0"

__all__ = [
    "AccessDenied",
    "Attachment",
    "Creator",
    "InvalidArgument",
    "Layout",
    "Mapping",
    "MappingExists",
    "MountGone",
    "MshareError",
    "NotARegion",
    "NotMounted",
    "OutOfInodes",
    "OutOfMemory",
    "Region",
    "RegionExists",
    "RegionNotFound",
    "RegionTooLarge",
    "SizeAlreadySet",
    "SizeNotSet",
    "alignment",
    "default_directory",
]
