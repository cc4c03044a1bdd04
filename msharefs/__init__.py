"""What a Python client imports. It must not import the daemon's side (core, fuse, memory, daemon).

Names come from their modules when they are first used: the daemon is in this package, too,
and each start of a server counts.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from msharefs.client.attachment import Attachment
    from msharefs.client.errors import (
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
    from msharefs.client.layout import Creator, Layout, Mapping
    from msharefs.client.mount import alignment, default_directory
    from msharefs.client.region import Region

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

_MODULES = {
    "Attachment": "attachment",
    "Creator": "layout",
    "Layout": "layout",
    "Mapping": "layout",
    "Region": "region",
    "alignment": "mount",
    "default_directory": "mount",
}


def __getattr__(name: str) -> object:
    """A public name, from its module in client/; the exceptions are all in one."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.client.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
