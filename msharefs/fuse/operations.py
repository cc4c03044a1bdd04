"""pyfuse3's Operations over RegionManager: the requests that change nothing.

Each handler decodes, makes one call on RegionManager and encodes. What pyfuse3 cannot carry is in
control.py; what changes names, handles and attributes has to be remembered for its request, and is
in names.py, handles.py and attributes.py; fsync may take long, and is in write_back.py; listings, which pyfuse3 would not tell enough of, in
directories.py.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from msharefs.abi import AUTOMAP_ATTRIBUTE, LAYOUT_ATTRIBUTE, PAGE_SIZE, STATUS_ATTRIBUTE
from msharefs.core import reports
from msharefs.core.errors import RefusedError
from msharefs.core.inode import ROOT_INO
from msharefs.core.manager import RegionManager
from msharefs.core.namespace import NAME_MAX
from msharefs.core.region import Region

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def answered(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let nothing but FUSEError out of a handler: anything else ends pyfuse3's main loop."""
    name = getattr(handler, "__name__", "request").upper()

    @functools.wraps(handler)
    async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except RefusedError as refusal:
            log.debug("%s %r: %s: %s", name, args[1:3], refusal.code, refusal)
            raise pyfuse3.FUSEError(refusal.errno) from refusal
        except pyfuse3.FUSEError:
            raise
        except Exception as error:
            log.exception("%s %r failed", name, args[1:3])
            raise pyfuse3.FUSEError(errno.EIO) from error

    return guarded


class Operations(pyfuse3.Operations):
    """What pyfuse3 asks of a file system."""

    def __init__(self, manager: RegionManager) -> None:
        super().__init__()
        self._manager = manager

    @answered
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """STATFS: the arena's pages and the mount's inodes, used and free, so that df is true.
        What is available is that to who asks."""
        size = reports.file_system_size(self._manager, ctx.uid)
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = PAGE_SIZE
        data.f_blocks = size.pages
        data.f_bfree, data.f_bavail = size.pages_free, size.pages_available
        data.f_files = size.inodes
        data.f_ffree = data.f_favail = size.inodes_free
        data.f_namemax = NAME_MAX
        return data

    @answered
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """ACCESS does not come: the kernel checks permissions (default_permissions)."""
        return True

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """FSYNCDIR: there is nothing that a directory could lose."""

    # Extended attributes

    @answered
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """LISTXATTR: the layout of a region, the status of the mount on the root directory, and
        automap where it is not the mount's."""
        found = self._manager.getattr(inode)
        names = [AUTOMAP_ATTRIBUTE] if found.automap is not None else []
        if isinstance(found, Region):
            return [LAYOUT_ATTRIBUTE, *names]
        return [STATUS_ATTRIBUTE, *names] if inode == ROOT_INO else names
