"""The bytes of a region, copied out for a dump without surprises.

Owns what makes that safe: memory that is taken away meanwhile is an OSError and no signal, and
memory that nobody has touched is not touched by the copying either.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

from msharefs.abi import PAGE_SIZE
from msharefs.client.attachment import Attachment
from msharefs.client.layout import Mapping
from msharefs.linux import syscalls

CHUNK = 1 << 20
UNIT = 64 << 10
"""Zeros are told apart from data in pieces of this size."""
_ZEROS = bytes(CHUNK)
_PAGES_A_UNIT = UNIT // PAGE_SIZE


class Copier:
    """Copies what a region has in memory, chunk by chunk, through one buffer."""

    def __init__(self, fd: int, *, trust_residency: bool) -> None:
        """`fd` is the open region. With `trust_residency` what mincore(2) says is not in memory
        is zeros: so it is where mmap reaches the segment itself and nothing can be swapped out.
        """
        self._fd = fd
        self._trust = trust_residency
        # A write to a file from memory that is not there fails, where a load would end the
        # process. The file is in memory as well, so this is no more than a copy.
        self._copied = os.memfd_create("mshare-dump", os.MFD_CLOEXEC)
        os.ftruncate(self._copied, CHUNK)
        self._buffer = mmap.mmap(self._copied, CHUNK)

    def close(self) -> None:
        """Give back the memory of the buffer; no more chunks afterwards."""
        os.close(self._copied)

    def chunks(self, mapping: Mapping) -> Iterator[tuple[int, list[tuple[int, memoryview]]]]:
        """For each chunk of a mapping its length, and the runs in it that are not all zeros:
        offset in the region and bytes, which stay valid until the next chunk. Raises OSError."""
        # Read-only and by descriptor: what a mapping's prot forbids programs is saved as well.
        with Attachment(self._fd, mapping.offset, mapping.size, writable=False) as window:
            for start in range(0, mapping.size, CHUNK):
                length = min(CHUNK, mapping.size - start)
                with window.buf[start : start + length] as memory:
                    present = self._present(window.address + start, length)
                    runs = self._copied_runs(memory, present)
                yield length, [(mapping.offset + start + at, data) for at, data in runs]

    def _copied_runs(
        self, memory: memoryview, present: list[tuple[int, int]]
    ) -> list[tuple[int, memoryview]]:
        view = memoryview(self._buffer)
        runs: list[tuple[int, int]] = []
        for start, end in present:
            position = start
            while position < end:
                with memory[position:end] as rest:
                    position += os.pwrite(self._copied, rest, position)
            runs += _not_zero(view, start, end)
        return [(start, view[start:end]) for start, end in runs]

    def _present(self, address: int, length: int) -> list[tuple[int, int]]:
        """Which parts may hold something else than zeros."""
        if not self._trust:
            return [(0, length)]
        try:
            raw = syscalls.resident_pages(address, length)
        except OSError:
            return [(0, length)]
        units = (raw[at : at + _PAGES_A_UNIT] for at in range(0, len(raw), _PAGES_A_UNIT))
        return _joined([any(unit) for unit in units], 0, length)


def _not_zero(view: memoryview, start: int, end: int) -> list[tuple[int, int]]:
    if view[start:end] == memoryview(_ZEROS)[: end - start]:
        return []
    flags = [
        view[at : min(at + UNIT, end)] != memoryview(_ZEROS)[: min(UNIT, end - at)]
        for at in range(start, end, UNIT)
    ]
    return _joined(flags, start, end)


def _joined(flags: list[bool], start: int, end: int) -> list[tuple[int, int]]:
    """Ranges of neighbouring units whose flag is set."""
    ranges: list[tuple[int, int]] = []
    for number, wanted in enumerate(flags):
        first = start + number * UNIT
        last = min(first + UNIT, end)
        if wanted and ranges and ranges[-1][1] == first:
            ranges[-1] = (ranges[-1][0], last)
        elif wanted:
            ranges.append((first, last))
    return ranges


def nothing_is_swapped() -> bool:
    """Whether the machine has no swap space at all."""
    with open("/proc/swaps", encoding="utf-8", errors="replace") as lines:
        return len(lines.readlines()) <= 1
