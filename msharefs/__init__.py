"""Shared memory with names, owners and rights, on a mounted msharefs.

    with msharefs.Region.create("/mnt/mshare/grid", 1 << 30, map=True) as region:
        with region.attach() as attachment:
            attachment.buf[:5] = b"hello"   # seen at once by every process

`msharefs.shared_memory` has a class with the interface of multiprocessing's. docs/python.md tells
the rest.

For who changes this: names come from their modules in client/ when they are first used, because
the daemon is in this package, too, and each start of a server counts. Nothing of the daemon's
side (core, fuse, memory, daemon) is imported here.
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
        NotMappable,
        NotMounted,
        OutOfInodes,
        OutOfMemory,
        QuotaExceeded,
        RegionExists,
        RegionNotFound,
        RegionTooLarge,
        SizeAlreadySet,
        SizeNotSet,
    )
    from msharefs.client.layout import Creator, Layout, MappedFile, Mapping
    from msharefs.client.mount import alignment, default_directory
    from msharefs.client.region import Region

__all__ = [
    "AccessDenied",
    "Attachment",
    "Creator",
    "InvalidArgument",
    "Layout",
    "MappedFile",
    "Mapping",
    "MappingExists",
    "MountGone",
    "MshareError",
    "NotARegion",
    "NotMappable",
    "NotMounted",
    "OutOfInodes",
    "OutOfMemory",
    "QuotaExceeded",
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
    "MappedFile": "layout",
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
    """What a program may use, and what Python itself looks for."""
    own = {name for name in globals() if name.startswith("__")}
    return sorted({*own, *__all__})
