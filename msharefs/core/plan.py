"""Changes of a region's memory, as plans: checked at once, worked anywhere, then committed.

Owns the order of the steps of CREATE_MAPPING and UNMAP that makes them whole or not at
all: `acquire` gets what may not be there and can fail, `clear` cannot. Both touch the
segment alone, never a shared table, so that they may run in a worker thread while the
loop serves others. The manager makes plans and commits them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from msharefs.core.journal import Request
from msharefs.core.layout import Cut, Mapping, Range
from msharefs.core.ports import OpenSegment
from msharefs.core.region import Region

EXTRAS = tuple((1 << 20) << attempt for attempt in range(1, 8))
"""Bytes. Processes that touch holes can take pages that were charged for a plan, while the
limit of the memory includes them. So each further try lets twice as many bytes more be
taken; what was taken is swept afterwards."""

MakeRoom = Callable[[int], bool]
"""Sweeps holes and lets so many bytes more than is charged be taken; False where it cannot."""


@dataclass(frozen=True, slots=True)
class MapPlan:
    """A CREATE_MAPPING for `request` that every rule allows and whose memory is charged.

    `cut` is its range as it was found; `need` is the number of bytes that were charged;
    `stray` says that gaps may hold pages that somebody touched while budget was free.
    """

    request: Request | None
    region: Region
    segment: OpenSegment
    mapping: Mapping
    cut: Cut
    need: int
    stray: bool

    @property
    def cost(self) -> int:
        """How many bytes are to be cleared, at most."""
        return self.mapping.size if self.mapping.reserve else 0

    @property
    def stale(self) -> tuple[Range, ...]:
        """The bytes that are not what they were once this is done."""
        return _ranges(self.cut.inside)

    @property
    def readable(self) -> bool:
        """Whether what is stale can be read again: as zeros."""
        return True

    def acquire(self, make_room: MakeRoom) -> None:
        """Get the memory. It was charged, so where there is none others have touched holes,
        and `make_room` is called before the next try. OSError leaves all as it was."""
        for extra in EXTRAS:
            try:
                self._acquire()
            except OSError as cause:
                if cause.errno != errno.ENOSPC or not make_room(extra):
                    raise
            else:
                return
        self._acquire()

    def clear(self) -> None:
        """Make what was mapped before read as zeros. Does not fail."""
        for old in self.cut.inside:
            if self.mapping.reserve:
                self.segment.zero(old.start, old.size)
            else:
                self.segment.punch(old.start, old.size)

    def _acquire(self) -> None:
        if self.stray:
            self._punch_gaps()
        if self.mapping.reserve:
            self._reserve()

    def _reserve(self) -> None:
        unreserved = [Range(old.start, old.end) for old in self.cut.inside if not old.reserve]
        try:
            for part in (*self.cut.gaps(), *unreserved):
                self.segment.reserve(part.start, part.size)
            if self.mapping.huge:
                self.segment.make_huge(self.mapping.start, self.mapping.size)
        except OSError:
            self._punch_gaps()
            raise

    def _punch_gaps(self) -> None:
        for gap in self.cut.gaps():
            self.segment.punch(gap.start, gap.size)


@dataclass(frozen=True, slots=True)
class UnmapPlan:
    """An UNMAP for `request` that every rule allows. All of `cut`'s range is punched, stray
    pages in its gaps with it."""

    request: Request | None
    region: Region
    segment: OpenSegment
    cut: Cut

    @property
    def cost(self) -> int:
        """How many bytes are to be freed, at most."""
        return self.cut.end - self.cut.start

    @property
    def stale(self) -> tuple[Range, ...]:
        """The bytes that are not what they were once this is done."""
        return _ranges(self.cut.inside)

    @property
    def readable(self) -> bool:
        """Whether what is stale can be read again."""
        return False

    def acquire(self, make_room: MakeRoom) -> None:
        """Nothing is needed: memory is only given back."""

    def clear(self) -> None:
        """Take the memory away, from every process at once. Does not fail."""
        self.segment.punch(self.cut.start, self.cut.end - self.cut.start)


Plan = MapPlan | UnmapPlan


def _ranges(mappings: list[Mapping]) -> tuple[Range, ...]:
    return tuple(Range(mapping.start, mapping.end) for mapping in mappings)
