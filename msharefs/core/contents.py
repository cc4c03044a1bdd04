"""What the bytes of a new mapping are: zeros, or those of a file.

Owns how a file's bytes come into a region so that a failure leaves what was mapped there before:
where nothing is mapped they are read straight into the segment, and in the place of a mapping
into a scratch segment first, from which they are copied when nothing can fail any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msharefs.core.layout import Cut, MappedFile, Mapping
from msharefs.core.ports import OpenSegment, Piece, Segment

SCRATCH = 1 << 61
"""Added to a region's inode number it is the number of its scratch segment, which no inode has."""

COPIED_AT_ONCE = 1 << 20
"""Bytes."""


class Contents(Protocol):
    """How memory gets the bytes that a mapping begins with."""

    @property
    def pieces(self) -> Sequence[Piece]:
        """What somebody else reads into memory after `prepare`."""

    def prepare(self, segment: OpenSegment, cut: Cut) -> None:
        """Get what is needed for the rest. Raises OSError; may be called again then."""

    def fill(self, segment: OpenSegment, start: int, size: int) -> None:
        """Put the new bytes in the place of a mapping in the cut, which has memory. Does not
        fail."""

    def drop(self) -> None:
        """Give back what `prepare` got. May be called twice."""


class Zeros:
    """Memory that begins as zeros."""

    pieces: Sequence[Piece] = ()

    def prepare(self, segment: OpenSegment, cut: Cut) -> None:
        """Nothing is needed."""

    def fill(self, segment: OpenSegment, start: int, size: int) -> None:
        """Overwrite it."""
        segment.zero(start, size)

    def drop(self) -> None:
        """There is nothing to give back."""


class FileBytes:
    """Bytes of a file, which somebody reads between `prepare` and `fill`."""

    def __init__(self, mapping: Mapping, file: MappedFile, scratch: Segment | None) -> None:
        """`scratch` is new and has no size; None where nothing is mapped."""
        self.pieces: Sequence[Piece] = ()
        self._mapping = mapping
        self._file = file
        self._scratch = scratch
        self._opened: OpenSegment | None = None

    def prepare(self, segment: OpenSegment, cut: Cut) -> None:
        """Memory for what takes the place of mappings; and then all of the range, in pieces."""
        pieces = [self._piece(segment, gap.start, gap.start, gap.size) for gap in cut.gaps()]
        for old in cut.inside:
            start = old.start - self._mapping.start
            scratch = self._opened_scratch()
            scratch.reserve(start, old.size)
            pieces.append(self._piece(scratch, start, old.start, old.size))
        self.pieces = pieces

    def fill(self, segment: OpenSegment, start: int, size: int) -> None:
        """Copy what was read for a mapping. Not by a window, which takes a descriptor and an address
        and can fail for want of them."""
        scratch = self._opened_scratch()
        buffer = memoryview(bytearray(min(size, COPIED_AT_ONCE)))
        for place in range(start, start + size, COPIED_AT_ONCE):
            piece = buffer[: start + size - place]
            scratch.read_into(piece, place - self._mapping.start)
            segment.write(piece, place)

    def drop(self) -> None:
        """Give the memory of the scratch segment back."""
        self._opened = None
        scratch, self._scratch = self._scratch, None
        if scratch is not None:
            scratch.destroy()

    def _opened_scratch(self) -> OpenSegment:
        if self._opened is None:
            assert self._scratch is not None
            opened = self._scratch.open()
            opened.set_size(self._mapping.size)
            self._opened = opened
        return self._opened

    def _piece(self, target: OpenSegment, start: int, place: int, size: int) -> Piece:
        """Into `target` at `start` what belongs to `place` in the region."""
        file_offset = self._file.offset + place - self._mapping.start
        return Piece(target.fileno(), start, file_offset, size)
