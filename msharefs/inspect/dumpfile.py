"""The file that a region is saved in: its form, and how a damaged one is told.

    magic     16 bytes
    header    u32 length, that many bytes (dumpheader.py), u32 CRC-32 of them
    blocks    u64 offset in the region, u32 length, u32 CRC-32 of the bytes, the bytes
    end       u64 number of blocks, u32 0, u32 CRC-32 of all of the file but the blocks' bytes

All numbers are little-endian. Blocks are in order of their offsets; bytes that no block has are
zeros. The last sum makes a file without its end, or with a block lost, doubled or moved, as
plain as one with a wrong byte.

This module reads and writes descriptors from front to end, pipes too. It knows no region.
"""

from __future__ import annotations

import os
import struct
import zlib

from msharefs.inspect.dumpheader import LARGEST as LARGEST_HEADER
from msharefs.inspect.errors import InspectError

MAGIC = b"MSHAREFS DUMP 1\n"
LARGEST_BLOCK = 1 << 20
_U32 = struct.Struct("<I")
_BLOCK = struct.Struct("<QII")
_END_BODY = struct.Struct("<QI")


class DamagedError(InspectError):
    """The file is no dump, or not all of one as it was written."""


class Writer:
    """Writes a dump to a descriptor, which stays the caller's."""

    def __init__(self, fd: int, header: bytes) -> None:
        """Begin with the header. Raises OSError, as every method does."""
        self._fd = fd
        self._blocks = 0
        self._sum = 0
        self._put(MAGIC + _U32.pack(len(header)) + header + _U32.pack(zlib.crc32(header)))

    def block(self, offset: int, data: memoryview) -> None:
        """Save up to LARGEST_BLOCK bytes of the region."""
        self._put(_BLOCK.pack(offset, len(data), zlib.crc32(data)))
        _write_all(self._fd, data)
        self._blocks += 1

    def end(self) -> None:
        """Without this the file counts as torn."""
        body = _END_BODY.pack(self._blocks, 0)
        _write_all(self._fd, body + _U32.pack(zlib.crc32(body, self._sum)))

    def _put(self, data: bytes) -> None:
        self._sum = zlib.crc32(data, self._sum)
        _write_all(self._fd, data)


class Reader:
    """Reads a dump from a descriptor, which stays the caller's."""

    def __init__(self, fd: int, name: str) -> None:
        """`name` is for messages. Raises OSError or DamagedError, as every method does."""
        self._fd = fd
        self._name = name
        self._sum = 0
        self._blocks = 0
        self._pending: tuple[int, int] | None = None
        # A short or foreign file is most likely no dump at all, so this is not called torn.
        if self._summed(self._some(len(MAGIC))) != MAGIC:
            raise DamagedError(f"{name} is not a dump of a region")
        length = int(_U32.unpack(self._summed(self._all(4)))[0])
        if length > LARGEST_HEADER:
            raise self.damaged("its header")
        text = self._summed(self._all(length))
        if zlib.crc32(text) != _U32.unpack(self._summed(self._all(4)))[0]:
            raise self.damaged("its header")
        self.header = text

    def next_block(self) -> tuple[int, int] | None:
        """Offset and length of the next block, whose bytes `read_into` gives; None at the end."""
        # Summed below, if it is not the end, which has the sum itself.
        head = self._all(_BLOCK.size)
        offset, length, check = _BLOCK.unpack(head)
        if length == 0:
            self._finish(head[: _END_BODY.size], offset, check)
            return None
        if length > LARGEST_BLOCK:
            raise self.damaged(f"its block {self._blocks + 1}")
        self._summed(head)
        self._blocks += 1
        self._pending = (length, check)
        return offset, length

    def read_into(self, target: memoryview) -> None:
        """Read the bytes of the block that `next_block` named straight into memory, checked.

        Memory that is not there is OSError(EFAULT), not a signal: the kernel does the copying.
        """
        assert self._pending is not None
        assert self._pending[0] == len(target)
        done = 0
        while done < len(target):
            # Released at once: a view that an exception keeps would keep the memory attached.
            with target[done:] as left:
                got = os.readv(self._fd, [left])
            if not got:
                raise self._torn()
            done += got
        if zlib.crc32(target) != self._pending[1]:
            raise self.damaged(f"its block {self._blocks}")
        self._pending = None

    def damaged(self, what: str) -> DamagedError:
        """The exception for something that is not as it was written."""
        return DamagedError(f"{self._name} is damaged: {what} is not as it was written")

    def _torn(self) -> DamagedError:
        return DamagedError(f"{self._name} is torn: its end is missing")

    def _finish(self, body: bytes, blocks: int, check: int) -> None:
        if blocks != self._blocks or zlib.crc32(body, self._sum) != check:
            raise self.damaged("the sum over all of it")
        if os.read(self._fd, 1):
            raise self.damaged("what comes after its end")

    def _some(self, length: int) -> bytes:
        """The next bytes, fewer where the file ends."""
        parts: list[bytes] = []
        while length and (part := os.read(self._fd, min(length, LARGEST_BLOCK))):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _all(self, length: int) -> bytes:
        """The next bytes, as many as asked for."""
        data = self._some(length)
        if len(data) < length:
            raise self._torn()
        return data

    def _summed(self, data: bytes) -> bytes:
        """The same bytes, counted in the sum over all."""
        self._sum = zlib.crc32(data, self._sum)
        return data


def _write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
