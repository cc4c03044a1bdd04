"""Which bytes of a region are mapped, and by what.

Owns `Mapping` and `Layout`, an ordered set of mappings that never overlap. Pure
arithmetic on byte offsets: it knows no segment, no budget and no errno; the
manager asks what an operation would do, does it in memory and then commits it here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import attrgetter

from msharefs.abi import PROT_EXEC, PROT_READ, PROT_WRITE

_start_of = attrgetter("start")
_end_of = attrgetter("end")


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes `start` to `end` (exclusive) of a region; never empty."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapped range of a region. `prot` is recorded and shown, not enforced.

    `reserve` is False for MAP_NORESERVE: its pages come at first touch.
    """

    start: int
    end: int
    prot: int
    reserve: bool = True
    huge: bool = False

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    @property
    def prot_text(self) -> str:
        """The protection as in /proc/PID/maps, such as "rw-"."""
        bits = ((PROT_READ, "r"), (PROT_WRITE, "w"), (PROT_EXEC, "x"))
        return "".join(letter if self.prot & bit else "-" for bit, letter in bits)


class Layout:
    """The mappings of one region in order of their offset.

    One sorted list and bisection: an insertion moves at most max_mappings pointers
    (some microseconds at 60,000), which a tree in Python would not beat.
    """

    __slots__ = ("_mappings", "mapped", "reserved")

    def __init__(self) -> None:
        self._mappings: list[Mapping] = []
        self.mapped = 0
        self.reserved = 0

    def __len__(self) -> int:
        return len(self._mappings)

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._mappings)

    def from_offset(self, offset: int) -> Iterator[Mapping]:
        """Mappings that end after `offset`, in order."""
        first = bisect_right(self._mappings, offset, key=_end_of)
        for index in range(first, len(self._mappings)):
            yield self._mappings[index]

    def overlapping(self, start: int, end: int) -> list[Mapping]:
        """The mappings that share at least one byte with `start` to `end`, whole, in order."""
        return self._mappings[self._slice(start, end)]

    def gaps(self, start: int, end: int) -> Iterator[Range]:
        """The parts of `start` to `end` with nothing mapped, in order."""
        position = start
        for mapping in self.overlapping(start, end):
            if position < mapping.start:
                yield Range(position, mapping.start)
            position = mapping.end
        if position < end:
            yield Range(position, end)

    def clipped(self, start: int, end: int) -> list[Mapping]:
        """What is mapped in `start` to `end`, cut to it, in order."""
        return [
            replace(m, start=max(m.start, start), end=min(m.end, end))
            for m in self.overlapping(start, end)
        ]

    def growth(self, start: int, end: int, *, added: int) -> int:
        """How many mappings more there are after `start` to `end` is replaced by `added` ones."""
        old = self.overlapping(start, end)
        return len(self._remnants(old, start, end)) + added - len(old)

    def insert(self, mapping: Mapping) -> None:
        """Put `mapping` in; what it overlaps is cut or replaced."""
        self._replace(mapping.start, mapping.end, mapping)

    def remove(self, start: int, end: int) -> None:
        """Take `start` to `end` out: mappings are removed, cut or split."""
        self._replace(start, end, None)

    def _slice(self, start: int, end: int) -> slice:
        first = bisect_right(self._mappings, start, key=_end_of)
        last = bisect_left(self._mappings, end, lo=first, key=_start_of)
        return slice(first, last)

    @staticmethod
    def _remnants(old: list[Mapping], start: int, end: int) -> list[Mapping]:
        """What is left of `old`, all overlapping `start` to `end`, once that range is gone."""
        left: list[Mapping] = []
        if old and old[0].start < start:
            left.append(replace(old[0], end=start))
        if old and old[-1].end > end:
            left.append(replace(old[-1], start=end))
        return left

    def _replace(self, start: int, end: int, new: Mapping | None) -> None:
        where = self._slice(start, end)
        old = self._mappings[where]
        fresh = self._remnants(old, start, end)
        if new is not None:
            fresh.append(new)
            fresh.sort(key=_start_of)
        self._mappings[where] = fresh
        for mapping in old:
            self._count(mapping, -1)
        for mapping in fresh:
            self._count(mapping, 1)

    def _count(self, mapping: Mapping, sign: int) -> None:
        self.mapped += sign * mapping.size
        if mapping.reserve:
            self.reserved += sign * mapping.size
