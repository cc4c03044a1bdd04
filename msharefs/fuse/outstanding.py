"""Requests that were read and are not answered: how they come to the next server.

Owns the buffer that requests are read into, and what the next server finds of them. Where
the kernel can be asked to send them again (Linux 6.9) nothing need be kept; elsewhere each
is kept in a file that is mapped shared, until it is answered. Knows nothing of what they ask.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Protocol

from msharefs.fuse import kernel, messages
from msharefs.fuse.device import Device
from msharefs.fuse.mounting import REQUEST_ROOM

SLOT_SIZE = 4096
"""Bytes. What is not answered before the next is read is small: at most two names and
structures. Whatever may be larger is answered by handlers that do not wait."""
SLOTS = 1024
AREA_SIZE = REQUEST_ROOM + SLOTS * SLOT_SIZE
_UNIQUE = slice(8, 16)
_LENGTH = slice(0, 4)
_NOTHING = bytes(4)


class Outstanding(Protocol):
    """What becomes of requests that nobody has answered yet."""

    @property
    def buffer(self) -> bytearray | memoryview:
        """Where the next request is read into. Valid until `before_read`."""

    def before_read(self) -> None:
        """What is in the buffer was answered, or is kept."""

    def keep(self, message: memoryview) -> None:
        """The request will be answered after others were read."""

    def as_asked(self, reply: bytes) -> bytes:
        """The reply as the kernel expects it."""

    def answered(self, reply: bytes) -> None:
        """The kernel has a reply."""

    def recover(self) -> Sequence[bytes]:
        """What an earlier process has read and not answered, marked as sent again; or
        nothing, if it comes by /dev/fuse."""


class ResentByKernel:
    """The kernel keeps what it has sent until it is answered (FUSE_NOTIFY_RESEND)."""

    def __init__(self, device: Device) -> None:
        self.buffer = bytearray(REQUEST_ROOM)
        self._device = device

    def before_read(self) -> None:
        """Nothing to forget: the kernel has what it sent."""

    def keep(self, message: memoryview) -> None:
        """Nothing to keep, for the same reason."""

    def as_asked(self, reply: bytes) -> bytes:
        """Unchanged: the kernel, which set the mark in the request, looks for it in the reply."""
        return reply

    def answered(self, reply: bytes) -> None:
        """Nothing to forget: the kernel forgets a request with its answer."""

    def recover(self) -> Sequence[bytes]:
        """Ask for it: what was not answered comes again by /dev/fuse, marked."""
        self._device.notify(messages.encode_resend())
        return ()


class KeptInFile:
    """Each request stays in memory that outlives the process: the one that was read last in
    the buffer, others in slots. A length of 0 means that nothing is there."""

    def __init__(self, area: memoryview) -> None:
        """`area` is AREA_SIZE bytes, mapped shared: zeros on a new connection, else what an
        earlier process kept there."""
        self.buffer = area[:REQUEST_ROOM]
        starts = range(REQUEST_ROOM, AREA_SIZE, SLOT_SIZE)
        self._slots = [area[start : start + SLOT_SIZE] for start in starts]
        self._used: dict[bytes, memoryview] = {}
        self._free: list[memoryview] = []
        for slot in self._slots:
            if slot[_LENGTH] != _NOTHING:
                self._used[bytes(slot[_UNIQUE])] = slot
            else:
                self._clear(slot)

    def before_read(self) -> None:
        """Forget what the buffer holds."""
        self.buffer[_LENGTH] = _NOTHING

    def keep(self, message: memoryview) -> None:
        """In a slot. One that fits in none is lost with the process."""
        unique = _unmarked(message)
        if unique in self._used or len(message) > SLOT_SIZE or not self._free:
            return
        slot = self._free.pop()
        slot[4 : len(message)] = message[4:]
        slot[_UNIQUE] = unique
        # The length last: from here on it is there, and until then in the buffer.
        slot[_LENGTH] = message[_LENGTH]
        self._used[unique] = slot

    def as_asked(self, reply: bytes) -> bytes:
        """Without the mark, which is ours alone."""
        return reply[:8] + _unmarked(reply) + reply[16:]

    def answered(self, reply: bytes) -> None:
        """It is forgotten, in the buffer and in its slot: a WRITE that came again would write
        what may be out of date by then."""
        unique = reply[_UNIQUE]
        if self.buffer[_UNIQUE] == unique:
            self.before_read()
        slot = self._used.pop(unique, None)
        if slot is not None:
            self._clear(slot)

    def recover(self) -> Sequence[bytes]:
        """In the order in which they came."""
        left = {unique: _marked(slot) for unique, slot in self._used.items()}
        if self.buffer[_LENGTH] != _NOTHING:
            left[bytes(self.buffer[_UNIQUE])] = _marked(self.buffer)
        found = sorted(left.values(), key=lambda message: messages.decode_header(message).unique)
        awaited = (m for m in found if messages.decode_header(m).opcode not in kernel.NO_REPLY)
        return tuple(awaited)

    def _clear(self, slot: memoryview) -> None:
        slot[_LENGTH] = _NOTHING
        self._free.append(slot)


def _marked(place: memoryview) -> bytes:
    """The request at the start of some memory, as the kernel would send it again."""
    header = messages.decode_header(place)
    unique = header.unique | kernel.FUSE_UNIQUE_RESEND
    return bytes(place[:8]) + unique.to_bytes(8, sys.byteorder) + bytes(place[16 : header.length])


def _unmarked(message: bytes | memoryview) -> bytes:
    unique = int.from_bytes(message[_UNIQUE], sys.byteorder) & ~kernel.FUSE_UNIQUE_RESEND
    return unique.to_bytes(8, sys.byteorder)
