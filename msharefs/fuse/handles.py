"""Handles on regions: CREATE, OPEN, RELEASE, and what comes through one: READ, WRITE.

Owns the decoding and encoding of these over RegionManager and the data plane. A handle is
the access mode of its open, so that it means the same to any process that serves the mount.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Mapping

from msharefs.core.errors import InvalidArgument, Unanswered
from msharefs.core.inode import Inode
from msharefs.core.manager import RegionManager
from msharefs.core.region import Region
from msharefs.core.ways import Giving
from msharefs.fuse import kernel, messages
from msharefs.fuse.attributes import entry_answer
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.names import caller_of
from msharefs.fuse.payload import Handler, Payload, request_of
from msharefs.fuse.planes.plane import DataPlane
from msharefs.fuse.write_back import WriteBack


class HandleHandlers:
    """Handlers for the switchboard. Each gives the payload of its reply, or raises RefusedError
    with nothing changed."""

    def __init__(self, manager: RegionManager, plane: DataPlane, write_back: WriteBack) -> None:
        self._manager = manager
        self._plane = plane
        self._write_back = write_back

    def handlers(self) -> Mapping[int, Handler]:
        """Which request each of them answers."""
        return {
            Opcode.CREATE: self.create,
            Opcode.OPEN: self.open,
            Opcode.RELEASE: self.release,
            Opcode.FLUSH: self.flush,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.COPY_FILE_RANGE: self.refuse,
            Opcode.COPY_FILE_RANGE_64: self.refuse,
        }

    def create(self, header: Header, body: memoryview) -> bytes:
        """CREATE: a new region, opened."""
        flags, mode, name = messages.decode_create(body)
        region = self._manager.create(
            request_of(header), header.nodeid, name, mode, caller_of(header)
        )
        return entry_answer(region) + open_answer(region, flags, self._plane)

    def open(self, header: Header, body: memoryview) -> bytes:
        """OPEN of a region or mshare_info."""
        flags = messages.decode_open(body)
        inode = self._manager.open(request_of(header), header.nodeid, flags)
        return open_answer(inode, flags, self._plane)

    def release(self, header: Header, body: memoryview) -> bytes:
        """RELEASE: the last descriptor of an open is closed. Files that the region goes back to get
        what was changed soon after the last of all."""
        self._manager.release(request_of(header), header.nodeid)
        self._write_back.after_close(header.nodeid)
        return b""

    def flush(self, header: Header, body: memoryview) -> bytes:
        """FLUSH at each close has nothing to do: ENOSYS, and the kernel asks no more."""
        raise Unanswered("close has nothing to flush")

    def read(self, header: Header, body: memoryview) -> Payload | Awaitable[Payload]:
        """READ: the text of mshare_info; of a region what the data plane gives."""
        request = messages.decode_read(body)
        inode = self._manager.getattr(header.nodeid)
        if isinstance(inode, Region):
            # read(2) of a handle for direct I/O touches nothing, and is refused.
            gives = self._plane.gives is not Giving.NOBODY
            if gives and not request.read_flags & kernel.FUSE_READ_LOCKOWNER:
                self._manager.attaching.touch(inode)
            return self._plane.read(inode, request, header.pid)
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
        return messages.encode_open(handle, plane.open_flags(inode), inode.registration)
    return messages.encode_open(handle, kernel.FOPEN_KEEP_CACHE)
