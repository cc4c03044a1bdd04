"""Names of regions and handles on them: look up, create, unlink, open, release.

Owns the decoding and encoding of these over RegionManager and the data plane. They are
hot, so the switchboard answers them and pyfuse3 never sees them. A handle is the access
mode of its open, so that it means the same to any process that serves the mount.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from msharefs.core.errors import InvalidArgument, NotPermitted, Unanswered
from msharefs.core.inode import Caller, Inode
from msharefs.core.manager import RegionManager
from msharefs.core.region import Region
from msharefs.fuse import kernel, messages
from msharefs.fuse.attributes import FOR_EVER, entry_answer
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.payload import Payload
from msharefs.fuse.planes.plane import DataPlane


class FileHandlers:
    """Handlers for the switchboard."""

    def __init__(self, manager: RegionManager, plane: DataPlane) -> None:
        self._manager = manager
        self._plane = plane

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], Payload]]:
        """By opcode."""
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.CREATE: self.create,
            Opcode.UNLINK: self.unlink,
            Opcode.SYMLINK: self.symlink,
            Opcode.OPEN: self.open,
            Opcode.RELEASE: self.release,
            Opcode.FLUSH: self.flush,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.COPY_FILE_RANGE: self.refuse,
            Opcode.COPY_FILE_RANGE_64: self.refuse,
        }

    def lookup(self, header: Header, body: memoryview) -> bytes:
        """LOOKUP; a name that is not there is remembered, too."""
        inode = self._manager.lookup(header.nodeid, messages.decode_name(body))
        if inode is None:
            return messages.encode_entry(None, FOR_EVER, 0)
        return entry_answer(inode)

    def create(self, header: Header, body: memoryview) -> bytes:
        """CREATE: a new region, opened."""
        flags, mode, name = messages.decode_create(body)
        caller = Caller(header.pid, header.uid, header.gid)
        region = self._manager.create(header.nodeid, name, mode, caller)
        return entry_answer(region) + open_answer(region, flags, self._plane)

    def unlink(self, header: Header, body: memoryview) -> bytes:
        """UNLINK."""
        self._manager.unlink(header.nodeid, messages.decode_name(body))
        return b""

    def symlink(self, header: Header, body: memoryview) -> bytes:
        """SYMLINK. Answered here because it may be long (see outstanding.py)."""
        raise NotPermitted("symbolic links are not offered")

    def open(self, header: Header, body: memoryview) -> bytes:
        """OPEN of a region or mshare_info."""
        flags = messages.decode_open(body)
        inode = self._manager.open(header.nodeid, flags)
        return open_answer(inode, flags, self._plane)

    def release(self, header: Header, body: memoryview) -> bytes:
        """RELEASE: the last descriptor of an open is closed."""
        self._manager.release(header.nodeid)
        return b""

    def flush(self, header: Header, body: memoryview) -> bytes:
        """FLUSH at each close has nothing to do: ENOSYS, and the kernel asks no more."""
        raise Unanswered("close has nothing to flush")

    def read(self, header: Header, body: memoryview) -> Payload:
        """READ: the text of mshare_info; of a region what the data plane gives."""
        request = messages.decode_read(body)
        inode = self._manager.getattr(header.nodeid)
        if isinstance(inode, Region):
            return self._plane.read(inode, request)
        return self._manager.info_text(inode)[request.offset : request.offset + request.size]

    def write(self, header: Header, body: memoryview) -> bytes:
        """WRITE to a region: what the data plane takes."""
        request, data = messages.decode_write(body)
        inode = self._manager.getattr(header.nodeid)
        if not isinstance(inode, Region):
            raise InvalidArgument(f"inode {header.nodeid} is not for writing")
        self._plane.write(inode, request, data)
        return messages.encode_write(request.size)

    def refuse(self, header: Header, body: memoryview) -> bytes:
        """copy_file_range(2) from or to a region."""
        raise InvalidArgument(f"inode {header.nodeid} is not for reading and writing")


def open_answer(inode: Inode, flags: int, plane: DataPlane) -> bytes:
    """The answer that gives a handle for an open(2) with these flags."""
    handle = flags & os.O_ACCMODE
    if isinstance(inode, Region):
        return messages.encode_open(handle, *plane.open_flags(inode.ino))
    return messages.encode_open(handle, kernel.FOPEN_KEEP_CACHE)
