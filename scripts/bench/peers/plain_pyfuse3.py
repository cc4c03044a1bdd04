"""Plain pyfuse3 doing nothing but its bookkeeping: what Python and trio cost by themselves.

One directory with regular files that can be created, sized, opened, closed and
unlinked. It owns a dictionary and nothing else: no memory behind the files, no
journal, no checks. There are no extended attributes, which is said each time. Entries and attributes are cached by the kernel without limit,
and flush is left to pyfuse3's default (refused once, never sent again), as in the
C peer and in msharefs, so that all get the same requests.

usage: plain_pyfuse3.py MOUNTPOINT   (foreground; says "mounted"; ends at umount)
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Sequence

import pyfuse3
import trio

FOR_EVER = 10**9  # seconds


class File:
    """A file: its attributes and what keeps it alive."""

    __slots__ = ("attr", "linked", "lookups")

    def __init__(self, attr: pyfuse3.EntryAttributes) -> None:
        self.attr = attr
        self.linked = True
        self.lookups = 0


def attributes(inode: int, mode: int) -> pyfuse3.EntryAttributes:
    """Attributes of a new file or directory."""
    entry = pyfuse3.EntryAttributes()
    now = time.time_ns()
    entry.st_ino = pyfuse3.InodeT(inode)
    entry.st_mode = pyfuse3.ModeT(mode)
    entry.st_nlink = 1
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = now
    entry.entry_timeout = entry.attr_timeout = FOR_EVER
    return entry


class Bookkeeping(pyfuse3.Operations):
    """The least that a file system in pyfuse3 does for these operations."""

    def __init__(self) -> None:
        super().__init__()
        root = File(attributes(pyfuse3.ROOT_INODE, stat.S_IFDIR | 0o777))
        self._files: dict[int, File] = {pyfuse3.ROOT_INODE: root}
        self._names: dict[bytes, int] = {}
        self._next = pyfuse3.ROOT_INODE + 1

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        inode = self._names.get(name)
        if inode is None:
            missing = pyfuse3.EntryAttributes()
            missing.st_ino = pyfuse3.InodeT(0)
            missing.entry_timeout = FOR_EVER
            return missing
        file = self._files[inode]
        file.lookups += 1
        return file.attr

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._files[inode].attr

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        file = self._files[inode]
        if fields.update_size:
            file.attr.st_size = attr.st_size
        return file.attr

    async def getxattr(
        self, inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> bytes:
        raise pyfuse3.FUSEError(errno.ENODATA)

    async def create(
        self,
        parent_inode: pyfuse3.InodeT,
        name: bytes,
        mode: pyfuse3.ModeT,
        flags: pyfuse3.FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        if name in self._names:
            raise pyfuse3.FUSEError(errno.EEXIST)
        inode = self._next
        self._next += 1
        file = File(attributes(inode, mode))
        file.attr.st_uid = ctx.uid
        file.attr.st_gid = ctx.gid
        file.lookups = 1
        self._files[inode] = file
        self._names[name] = inode
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode)), file.attr

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode))

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """A handle holds nothing here."""

    async def unlink(
        self, parent_inode: pyfuse3.InodeT, name: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        inode = self._names.pop(name, None)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        file = self._files[inode]
        file.linked = False
        self._drop_if_unused(inode, file)

    async def forget(self, inode_list: Sequence[tuple[pyfuse3.InodeT, int]]) -> None:
        for inode, count in inode_list:
            file = self._files[inode]
            file.lookups -= count
            self._drop_if_unused(inode, file)

    def _drop_if_unused(self, inode: int, file: File) -> None:
        if not file.linked and file.lookups == 0:
            del self._files[inode]


def main() -> int:
    """Mount, serve until umount."""
    if len(sys.argv) != 2:
        print("usage: plain_pyfuse3.py MOUNTPOINT", file=sys.stderr)
        return 2
    options = set(pyfuse3.default_options)
    options |= {"fsname=plain_pyfuse3", "subtype=plain_pyfuse3", "allow_other"}
    pyfuse3.init(Bookkeeping(), os.path.abspath(sys.argv[1]), options)
    print("mounted", flush=True)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
