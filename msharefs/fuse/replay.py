"""Requests that the kernel sends again after the server died: answered once, applied once.

Owns the way from a request that an earlier process applied, but did not answer, to its
answer. One that was not applied is none of its business: it is served like any other.
"""

from __future__ import annotations

from msharefs.core.manager import RegionManager
from msharefs.fuse import kernel, messages
from msharefs.fuse.attributes import attr_answer, entry_answer
from msharefs.fuse.handles import open_answer
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.planes.plane import DataPlane

_ENTRY = frozenset({Opcode.MKNOD, Opcode.MKDIR, Opcode.LINK})


class Replay:
    """Knows the answers to requests that an earlier server applied."""

    def __init__(self, manager: RegionManager, plane: DataPlane) -> None:
        self._manager = manager
        self._plane = plane
        self.resent = 0

    def answer(self, header: Header, body: memoryview) -> bytes | None:
        """The payload for a request that was applied before, or None."""
        if not header.unique & kernel.FUSE_UNIQUE_RESEND:
            return None
        self.resent += 1
        unique = header.unique & ~kernel.FUSE_UNIQUE_RESEND
        if header.opcode in (Opcode.OPEN, Opcode.RELEASE):
            if not self._manager.handle_was_counted(unique):
                return None
            if header.opcode == Opcode.RELEASE:
                return b""
            inode = self._manager.getattr(header.nodeid)
            return open_answer(inode, messages.decode_open(body), self._plane)
        applied = self._manager.applied(unique)
        if applied is None or applied.opcode != header.opcode:
            return None
        return self._applied(header, body, applied.result)

    def _applied(self, header: Header, body: memoryview, result: int) -> bytes:
        if header.opcode == Opcode.IOCTL:
            return messages.encode_ioctl()
        if header.opcode == Opcode.SETATTR:
            return attr_answer(self._manager.getattr(result))
        if header.opcode in _ENTRY:
            return entry_answer(self._manager.getattr(result))
        if header.opcode == Opcode.CREATE:
            flags, _mode, _name = messages.decode_create(body)
            region = self._manager.getattr(result)
            return entry_answer(region) + open_answer(region, flags, self._plane)
        # UNLINK, RMDIR, RENAME, FALLOCATE: success says it all.
        return b""
