"""A region's memory beside its record: which pages were changed since region and file were last in step.

Owns the way through the memory: no page that is not there is made by the look at it, and what is a hole on
both sides is passed over. What becomes of changed pages is not decided here.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from msharefs.files.record import DIGEST, PAGE, Record, differing, next_data

WINDOW = 64 << 20
"""Bytes of a region that are mapped at a time."""
BATCH = 1 << 20
"""Bytes that are looked at in one go."""


class Changes(NamedTuple):
    """What was found in a batch: `pages` from `place` on in its window, of which the file has so much `inside`. Those at
    `changed`, counted from there, are not as they were. In bytes; the pages are good until the next batch."""

    place: int
    pages: memoryview
    inside: int
    changed: list[int]


class Window:
    """A part of a segment, and its place in the file. A context."""

    def __init__(self, segment: int, record: Record, start: int, offset: int, size: int) -> None:
        """`size` bytes in whole pages from `start` on of a segment (a descriptor, which stays the caller's), which belong
        into the file at `offset`. Raises OSError."""
        self.offset = offset
        self.size = size
        self._segment = segment
        self._record = record
        self._start = start
        self._memory = mmap.mmap(segment, size, prot=mmap.PROT_READ, offset=start)
        self._copy = memoryview(bytearray(min(size, BATCH)))
        # Up to here, in the segment, there is memory for each page, as far as that was looked for.
        self._solid = start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """What still looks at the memory keeps it for so long."""
        del self._memory

    def changes(self, length: Callable[[], int]) -> Iterator[Changes]:
        """Batch by batch, up to the end of the file, whose `length` it is at each moment. What the region has behind that
        belongs to no file. Raises OSError."""
        place = 0
        while (found := self._next(place)) is not None:
            place = found // BATCH * BATCH
            left = length() - self.offset - place
            if left <= 0:
                return
            with memoryview(self._memory) as memory, self._batch(memory, place) as batch:
                cut_page = self._cut_page(batch, left)
                with self._inside(batch, left) as pages:
                    noted = self._record.noted(self.offset + place, len(pages))
                    changed = differing(noted, self._record.digests(pages))
                    if changed and cut_page == noted[changed[-1] // PAGE * DIGEST :]:
                        changed.pop()
                    yield Changes(place, pages, min(left, len(pages)), changed)
            place += BATCH

    def _next(self, place: int) -> int | None:
        """Where, from here on, the region may have something else than zeros, or the file had."""
        memory = next_data(self._segment, self._start + place)
        noted = self._record.next_noted(self.offset + place)
        found = min(
            self.size if memory is None else memory - self._start,
            self.size if noted is None else noted - self.offset,
        )
        return found if found < self.size else None

    def _batch(self, memory: memoryview, place: int) -> memoryview:
        """The memory itself where there is some for each page, and else a copy: a look at a page that is not there
        would make it."""
        size = min(BATCH, self.size - place)
        start = self._start + place
        if start + size > self._solid:
            self._solid = os.lseek(self._segment, start, os.SEEK_HOLE)
        if start + size <= self._solid:
            return memory[place : place + size]
        return self._copy[: os.preadv(self._segment, [self._copy[:size]], start)]

    def _cut_page(self, batch: memoryview, left: int) -> bytes:
        """The digest of the page that the file ends in, whole, or nothing. A page that is as it was has not been changed
        because the file has been cut in it."""
        last = left // PAGE * PAGE
        if last == left or left >= len(batch):
            return b""
        return self._record.digests(batch[last : last + PAGE])

    def _inside(self, batch: memoryview, left: int) -> memoryview:
        """What of a batch is in the file, of whose last page only what it has is the region's."""
        if left >= len(batch):
            return batch[:]
        whole = -(-left // PAGE) * PAGE
        self._copy[:left] = batch[:left]
        self._copy[left:whole] = bytes(whole - left)
        return self._copy[:whole]


def counted(
    segment: int, record: Record, start: int, offset: int, size: int, length: Callable[[], int]
) -> Iterator[int]:
    """How much of a long part of a segment was changed, batch by batch: bytes, in whole pages. Raises OSError."""
    for window in windows(segment, record, start, offset, size):
        for found in window.changes(length):
            yield len(found.changed) * PAGE


def windows(segment: int, record: Record, start: int, offset: int, size: int) -> Iterator[Window]:
    """A long part of a segment, in windows."""
    for done in range(0, size, WINDOW):
        length = min(WINDOW, size - done)
        with Window(segment, record, start + done, offset + done, length) as window:
            yield window
