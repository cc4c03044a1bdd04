"""Changes of a region's memory, as plans: prepared at once, worked anywhere, then settled.

Owns the order of the steps of CREATE_MAPPING and UNMAP that makes them whole or not at
all: `acquire` gets what may not be there and can fail, `clear` cannot. Both touch the
segment alone, never a shared table, so that they may run in a worker thread while the
loop serves others; the manager makes and settles plans.
"""

from __future__ import annotations

from dataclasses import dataclass

from msharefs.core.layout import Mapping, Range
from msharefs.core.ports import Segment
from msharefs.core.region import Region


@dataclass(frozen=True, slots=True)
class MapPlan:
    """A CREATE_MAPPING that every rule allows and whose memory is promised.

    `need` is the number of bytes that the promise covers; `gaps` have nothing mapped
    now; `replaced` is what is mapped there, cut to the range; `stray` says that gaps
    may hold pages that somebody touched while budget was free.
    """

    region: Region
    segment: Segment
    mapping: Mapping
    need: int
    gaps: tuple[Range, ...]
    replaced: tuple[Mapping, ...]
    stray: bool

    @property
    def cost(self) -> int:
        """How many bytes are to be cleared, at most."""
        return self.mapping.size if self.mapping.reserve else 0

    @property
    def stale(self) -> tuple[Range, ...]:
        """The bytes that are not what they were once this is done."""
        return tuple(Range(old.start, old.end) for old in self.replaced)

    @property
    def readable(self) -> bool:
        """Whether what is stale can be read again: as zeros."""
        return True

    def acquire(self) -> None:
        """Get the memory. OSError leaves all as it was."""
        if self.stray:
            self._punch_gaps()
        if self.mapping.reserve:
            self._reserve()

    def clear(self) -> None:
        """Make what was mapped before read as zeros. Does not fail."""
        for old in self.replaced:
            if self.mapping.reserve:
                self.segment.zero(old.start, old.size)
            else:
                self.segment.punch(old.start, old.size)

    def _reserve(self) -> None:
        unreserved = [Range(old.start, old.end) for old in self.replaced if not old.reserve]
        try:
            for part in (*self.gaps, *unreserved):
                self.segment.reserve(part.start, part.size)
            if self.mapping.huge:
                self.segment.make_huge(self.mapping.start, self.mapping.size)
        except OSError:
            self._punch_gaps()
            raise

    def _punch_gaps(self) -> None:
        for gap in self.gaps:
            self.segment.punch(gap.start, gap.size)


@dataclass(frozen=True, slots=True)
class UnmapPlan:
    """An UNMAP that every rule allows. The whole range `gone` is punched, stray pages with
    it; `removed` is what is mapped there, cut to it."""

    region: Region
    segment: Segment
    gone: Range
    removed: tuple[Mapping, ...]

    @property
    def cost(self) -> int:
        """How many bytes are to be freed, at most."""
        return self.gone.size

    @property
    def stale(self) -> tuple[Range, ...]:
        """The bytes that are not what they were once this is done."""
        return tuple(Range(old.start, old.end) for old in self.removed)

    @property
    def readable(self) -> bool:
        """Whether what is stale can be read again."""
        return False

    def acquire(self) -> None:
        """Nothing is needed."""

    def clear(self) -> None:
        """Take the memory away, from every process at once. Does not fail."""
        self.segment.punch(self.gone.start, self.gone.size)


Plan = MapPlan | UnmapPlan
