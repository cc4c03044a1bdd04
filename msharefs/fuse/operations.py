"""pyfuse3's Operations over RegionManager: the requests that change nothing.

Each handler decodes, makes one call on RegionManager and encodes. What pyfuse3 cannot carry is in
control.py; what changes names, handles and attributes has to be remembered for its request, and is
in names.py, handles.py and attributes.py.
"""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from msharefs.abi import LAYOUT_ATTRIBUTE, PAGE_SIZE, STATUS_ATTRIBUTE
from msharefs.core import reports
from msharefs.core.errors import RefusedError
from msharefs.core.inode import DOT_COOKIES, ROOT_INO, Directory, Inode
from msharefs.core.manager import RegionManager
from msharefs.core.namespace import NAME_MAX
from msharefs.core.region import Region
from msharefs.fuse.attributes import FOR_EVER, attribute_lifetime, refuse_attribute_change

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
        """STATFS."""
        size = reports.file_system_size(self._manager)
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = PAGE_SIZE
        data.f_blocks = size.pages
        data.f_bfree = data.f_bavail = size.pages_free
        data.f_files = size.inodes
        data.f_ffree = data.f_favail = size.inodes_free
        data.f_namemax = NAME_MAX
        return data

    @answered
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """ACCESS does not come: the kernel checks permissions (default_permissions)."""
        return True

    # Directories: a handle is the inode number, so that it means the same to any process.

    @answered
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """OPENDIR."""
        return inode

    @answered
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """READDIRPLUS: each name that the kernel takes counts as a look-up."""
        directory = self._manager.getattr(fh)
        if not isinstance(directory, Directory):
            return
        for name, ino, cookie in ((b".", fh, 1), (b"..", directory.parent, DOT_COOKIES)):
            if start_id < cookie:
                entry = _entry(self._manager.getattr(ino))
                if not pyfuse3.readdir_reply(token, name, entry, cookie):
                    return
        for listed, inode in self._manager.listing(fh, start_id):
            if not pyfuse3.readdir_reply(token, listed.name, _entry(inode), listed.cookie):
                return
            inode.lookups += 1

    @answered
    async def releasedir(self, fh: int) -> None:
        """RELEASEDIR."""

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """FSYNCDIR: there is nothing that a directory could lose."""

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        """FSYNC and msync: anonymous memory is where it belongs."""

    # Extended attributes

    @answered
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """LISTXATTR."""
        if isinstance(self._manager.getattr(inode), Region):
            return [LAYOUT_ATTRIBUTE]
        return [STATUS_ATTRIBUTE] if inode == ROOT_INO else []

    @answered
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """REMOVEXATTR."""
        refuse_attribute_change(name)


def _entry(inode: Inode) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode.ino
    entry.entry_timeout = FOR_EVER
    entry.attr_timeout = attribute_lifetime(inode)
    entry.st_mode = inode.mode
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_size = inode.size
    entry.st_blksize = PAGE_SIZE
    entry.st_blocks = inode.blocks
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry
