"""Changes of a region's memory, as plans: prepared at once, worked anywhere, then settled.

Owns the order of the steps of CREATE_MAPPING and UNMAP that makes them whole or not at
all. `work` touches the segment alone, never a shared table, so that it may run in a
worker thread while the loop serves others; the manager makes and settles plans.
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

    def work(self) -> None:
        """Get the memory, then clear what was mapped before. OSError leaves all as it was."""
        if self.stray:
            self._punch_gaps()
        if self.mapping.reserve:
            self._reserve()
            for old in self.replaced:
                self.segment.zero(old.start, old.size)
        else:
            for old in self.replaced:
                self.segment.punch(old.start, old.size)

    def _reserve(self) -> None:
        start, size = self.mapping.start, self.mapping.size
        try:
            self.segment.reserve(start, size)
            if self.mapping.huge:
                self.segment.make_huge(start, size)
        except OSError:
            self._punch_gaps()
            raise

    def _punch_gaps(self) -> None:
        for gap in self.gaps:
            self.segment.punch(gap.start, gap.size)


@dataclass(frozen=True, slots=True)
class UnmapPlan:
    """An UNMAP that every rule allows. The whole range is punched, stray pages with it."""

    region: Region
    segment: Segment
    gone: Range

    @property
    def cost(self) -> int:
        """How many bytes are to be freed, at most."""
        return self.gone.size

    def work(self) -> None:
        """Take the memory away, from every process at once."""
        self.segment.punch(self.gone.start, self.gone.size)


Plan = MapPlan | UnmapPlan
