"""Names: LOOKUP, MKNOD, MKDIR, LINK, UNLINK, RMDIR, RENAME, SYMLINK, and FORGET.

Owns the decoding and encoding of these over RegionManager. Whatever changes a name is
answered here and not by pyfuse3, which does not tell for which request of the kernel it calls.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping

import trio

from msharefs.core.errors import NotPermitted
from msharefs.core.inode import Caller
from msharefs.core.manager import RegionManager
from msharefs.fuse import messages
from msharefs.fuse.attributes import FOR_EVER, entry_answer
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.payload import request_of

_DONE = object()


class NameHandlers:
    """Handlers for the switchboard. Each gives the payload of its reply, or raises RefusedError
    with nothing changed. Permissions and sticky directories were checked by the kernel before it
    asks (default_permissions)."""

    def __init__(self, manager: RegionManager) -> None:
        self._manager = manager

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], bytes | Awaitable[bytes]]]:
        """Which request each of them answers."""
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.LINK: self.link,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
            Opcode.SYMLINK: self.symlink,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
        }

    def lookup(self, header: Header, body: memoryview) -> bytes:
        """LOOKUP; a name that is not there is remembered, too."""
        inode = self._manager.lookup(header.nodeid, messages.decode_name(body))
        if inode is None:
            return messages.encode_entry(None, FOR_EVER, 0)
        return entry_answer(inode)

    def mknod(self, header: Header, body: memoryview) -> bytes:
        """MKNOD: a new region, not opened."""
        mode, name = messages.decode_mknod(body)
        made = self._manager.mknod(request_of(header), header.nodeid, name, mode, caller_of(header))
        return entry_answer(made)

    def mkdir(self, header: Header, body: memoryview) -> bytes:
        """MKDIR: a new directory of the caller's; the umask has been applied (no FUSE_DONT_MASK)."""
        mode, name = messages.decode_mkdir(body)
        made = self._manager.mkdir(request_of(header), header.nodeid, name, mode, caller_of(header))
        return entry_answer(made)

    def link(self, header: Header, body: memoryview) -> bytes:
        """LINK: the request is about the directory, and names the inode."""
        ino, name = messages.decode_link(body)
        return entry_answer(self._manager.link(request_of(header), ino, header.nodeid, name))

    def unlink(self, header: Header, body: memoryview) -> bytes:
        """UNLINK of a region. Its memory goes with the last handle and the last mapping."""
        self._manager.unlink(request_of(header), header.nodeid, messages.decode_name(body))
        return b""

    def rmdir(self, header: Header, body: memoryview) -> bytes:
        """RMDIR of an empty directory."""
        self._manager.rmdir(request_of(header), header.nodeid, messages.decode_name(body))
        return b""

    def rename(self, header: Header, body: memoryview) -> bytes:
        """RENAME, which renameat2(2) without flags is sent as."""
        return self._rename(header, messages.decode_rename(body))

    def rename2(self, header: Header, body: memoryview) -> bytes:
        """RENAME2: NOREPLACE or EXCHANGE."""
        return self._rename(header, messages.decode_rename2(body))

    def symlink(self, header: Header, body: memoryview) -> bytes:
        """SYMLINK. Answered here because it may be long (see outstanding.py)."""
        raise NotPermitted("symbolic links are not offered")

    def forget(self, header: Header, body: memoryview) -> bytes:
        """FORGET, which awaits no answer."""
        self._manager.forget([(header.nodeid, messages.decode_forget(body))])
        return b""

    def batch_forget(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """BATCH_FORGET: of as many inodes as one request can hold (some 65,000). Others are
        served between steps of many: counts are taken off one by one, and what is left when
        the process dies the next one asks the kernel about."""
        # The buffer of the request is used for the next one.
        counts = messages.decode_batch_forget(memoryview(bytes(body)))
        steps = self._manager.forget_in_steps(counts)
        if next(steps, _DONE) is _DONE:
            return b""
        return self._forget_the_rest(steps)

    async def _forget_the_rest(self, steps: Iterator[None]) -> bytes:
        await trio.lowlevel.checkpoint()
        for _between in steps:
            await trio.lowlevel.checkpoint()
        return b""

    def _rename(self, header: Header, rename: messages.RenameIn) -> bytes:
        self._manager.rename(
            request_of(header),
            header.nodeid,
            rename.name,
            rename.new_parent,
            rename.new_name,
            rename.flags,
        )
        return b""


def caller_of(header: Header) -> Caller:
    """Who asks: the thread and its file-system credentials, in the namespaces of the mount."""
    return Caller(header.pid, header.uid, header.gid)
