"""Which bytes of a region are mapped, and by what.

Owns `Mapping` and `Layout`, an ordered set of mappings that never overlap. Pure
arithmetic on byte offsets: it knows no segment, no budget and no errno; the
manager asks what an operation would do, does it in memory and then commits it here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from msharefs.abi import PROT_EXEC, PROT_READ, PROT_WRITE

LOST = -1
"""In the place of a record that is gone: what was changed does not go back to the file any more."""

_start_of = attrgetter("start")
_end_of = attrgetter("end")
_file_of = attrgetter("file")


class Range(NamedTuple):
    """Bytes `start` to `end` (exclusive) of a region; never empty."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start


class MappedFile(NamedTuple):
    """The file that a mapping's bytes came from, as it was seen when it was mapped.

    `device` and `inode` are its st_dev and st_ino, `offset` is where in it the mapping begins,
    in bytes. `uid` is who mapped it, `path` what the kernel called it then.

    `record` is the number by which what is needed to write it back is kept, 0 where nothing is
    written back, LOST where that is over. `unwritten` bytes could not be written the last time,
    for the reason `error` (an errno, 0 for none).
    """

    device: int
    inode: int
    offset: int
    uid: int
    path: str
    record: int = 0
    unwritten: int = 0
    error: int = 0

    @property
    def goes_back(self) -> bool:
        """Whether changes of the mapping are written to the file."""
        return self.record > 0


class Mapping(NamedTuple):
    """One mapped range of a region. `prot` is recorded and shown, not enforced.

    `reserve` is False for MAP_NORESERVE: its pages come at first touch. `file` is None for
    memory that began as zeros.
    """

    start: int
    end: int
    prot: int
    reserve: bool = True
    huge: bool = False
    file: MappedFile | None = None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    def between(self, start: int, end: int) -> Mapping:
        """What of it lies in `start` to `end`, which it overlaps."""
        if start <= self.start and self.end <= end:
            return self
        low, high = max(self.start, start), min(self.end, end)
        file = self.file
        if file is not None:
            file = file._replace(offset=file.offset + low - self.start)
        return Mapping(low, high, self.prot, self.reserve, self.huge, file)

    @property
    def prot_text(self) -> str:
        """The protection as in /proc/PID/maps, such as "rw-"."""
        bits = ((PROT_READ, "r"), (PROT_WRITE, "w"), (PROT_EXEC, "x"))
        return "".join(letter if self.prot & bit else "-" for bit, letter in bits)


class Cut(NamedTuple):
    """A range of a layout, looked up once: what is there, and what a change leaves of it.

    `old` are the mappings that share a byte with the range, whole; `inside` is what of them
    is in it, `left` what is outside. All are in order. `mapped` and `reserved` are the bytes of
    what is inside, `files` says how many of the old ones are of files. Good until the layout
    changes.
    """

    start: int
    end: int
    where: slice
    old: list[Mapping]
    inside: list[Mapping]
    left: list[Mapping]
    mapped: int
    reserved: int
    files: int

    def gaps(self) -> Iterator[Range]:
        """The parts of the range with nothing mapped, in order."""
        position = self.start
        for mapping in self.inside:
            if position < mapping.start:
                yield Range(position, mapping.start)
            position = mapping.end
        if position < self.end:
            yield Range(position, self.end)

    def growth(self, *, added: int) -> int:
        """How many mappings more there are once `added` ones take the range's place."""
        return len(self.left) + added - len(self.old)

    def file_growth(self, *, added: int) -> int:
        """The same of those that are of files."""
        return files_in(self.left) + added - self.files if self.files else added


class Fill(NamedTuple):
    """A range that is to be mapped without a hole: what `cut` finds becomes `mappings`, in order.

    `fresh` is what had nothing, `late` what was not reserved and is to be, both in order. What is
    mapped keeps its bytes. Good until the layout changes.
    """

    cut: Cut
    mappings: list[Mapping]
    fresh: list[Range]
    late: list[Range]

    @classmethod
    def nothing(cls, at: int) -> Fill:
        """Of a range in which nothing is missing: no mapping is touched."""
        return cls(Cut(at, at, slice(0, 0), [], [], [], 0, 0, 0), [], [], [])


class Layout:
    """The mappings of one region in order of their offset.

    One sorted list and bisection: an insertion moves at most max_mappings pointers
    (some microseconds at 60,000), which a tree in Python would not beat.
    """

    __slots__ = ("_mappings", "files", "mapped", "reserved")

    def __init__(self) -> None:
        self._mappings: list[Mapping] = []
        # How many of them are of files.
        self.files = 0
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
        """The parts of `start` to `end` with nothing mapped, in order. They are looked up one
        by one, so that the first few of many take no longer than those of few."""
        position = start
        for mapping in self.from_offset(start):
            if mapping.start >= end:
                break
            if position < mapping.start:
                yield Range(position, mapping.start)
            position = mapping.end
        if position < end:
            yield Range(position, end)

    def clipped(self, start: int, end: int) -> list[Mapping]:
        """What is mapped in `start` to `end`, cut to it, in order."""
        found = self._mappings[self._slice(start, end)]
        _clip(found, start, end)
        return found

    def cut(self, start: int, end: int) -> Cut:
        """Look `start` to `end` up, to change it later by `apply`."""
        where = self._slice(start, end)
        old = self._mappings[where]
        if not old:
            return Cut(start, end, where, [], [], [], 0, 0, 0)
        inside = old.copy()
        left: list[Mapping] = []
        first, last = old[0], old[-1]
        if first.start < start:
            left.append(first.between(first.start, start))
        if last.end > end:
            left.append(last.between(end, last.end))
        _clip(inside, start, end)
        files = files_in(old) if self.files else 0
        return Cut(start, end, where, old, inside, left, *_sizes(inside), files)

    def count(self, start: int, end: int) -> int:
        """How many mappings share a byte with `start` to `end`. They are not looked at."""
        found = self._slice(start, end)
        count: int = found.stop - found.start
        return count

    def is_filled(self, start: int, end: int, *, reserve: bool) -> bool:
        """Whether all of `start` to `end` is mapped, and with `reserve` reserved."""
        cut = self.cut(start, end)
        return cut.mapped == end - start and (cut.reserved == cut.mapped or not reserve)

    def fill(self, start: int, end: int, prot: int, *, reserve: bool) -> Fill:
        """Look `start` to `end` up, to map it without a hole later: what has nothing gets `prot`,
        and with `reserve` all of it will be reserved. What is the same side by side is one."""
        inner = self.cut(start, end)
        fresh = list(inner.gaps())
        late = [Range(m.start, m.end) for m in inner.inside if reserve and not m.reserve]
        middle = [mapping._replace(reserve=mapping.reserve or reserve) for mapping in inner.inside]
        middle += [Mapping(gap.start, gap.end, prot, reserve) for gap in fresh]
        middle.sort(key=_start_of)
        # With those that touch it, which may become one with what comes.
        near = self._mappings[self._slice(start - 1, end + 1)] if middle else []
        if not near:
            return Fill(inner, middle, fresh, late)
        cut = self.cut(min(start, near[0].start), max(end, near[-1].end))
        before = [m.between(m.start, start) for m in near[:1] if m.start < start]
        after = [m.between(end, m.end) for m in near[-1:] if m.end > end]
        return Fill(cut, _joined([*before, *middle, *after]), fresh, late)

    def apply(self, cut: Cut, new: Sequence[Mapping]) -> list[Mapping]:
        """Put `new` in the place of what `cut` found. Returns what there is now instead of
        `cut.old`."""
        fresh = sorted([*cut.left, *new], key=_start_of)
        self._mappings[cut.where] = fresh
        self.mapped -= cut.mapped
        self.reserved -= cut.reserved
        self.files += files_in(cut.left) - cut.files
        for mapping in new:
            self._count(mapping)
        return fresh

    def append(self, mapping: Mapping) -> None:
        """Put `mapping` in, which lies behind all others."""
        self._mappings.append(mapping)
        self._count(mapping)

    def insert(self, mapping: Mapping) -> None:
        """Put `mapping` in; what it overlaps is cut or replaced."""
        self.apply(self.cut(mapping.start, mapping.end), [mapping])

    def remove(self, start: int, end: int) -> None:
        """Take `start` to `end` out: mappings are removed, cut or split."""
        self.apply(self.cut(start, end), [])

    def _slice(self, start: int, end: int) -> slice:
        first = bisect_right(self._mappings, start, key=_end_of)
        last = bisect_left(self._mappings, end, lo=first, key=_start_of)
        return slice(first, last)

    def _count(self, mapping: Mapping) -> None:
        size = mapping.end - mapping.start
        self.mapped += size
        if mapping.reserve:
            self.reserved += size
        self.files += mapping.file is not None


def _clip(mappings: list[Mapping], start: int, end: int) -> None:
    """Cut what stands out of the range, which can only be the first and the last."""
    if mappings:
        mappings[0] = mappings[0].between(start, end)
        mappings[-1] = mappings[-1].between(start, end)


def _joined(mappings: Sequence[Mapping]) -> list[Mapping]:
    """The same, with what touches and differs in nothing else made one. A file may be mapped twice
    from the same place on, side by side."""
    found: list[Mapping] = []
    for mapping in mappings:
        last = found[-1] if found else None
        alike = last and last.end == mapping.start and last[2:] == mapping[2:]
        if last and alike and mapping.file is None:
            found[-1] = last._replace(end=mapping.end)
        else:
            found.append(mapping)
    return found


def _sizes(mappings: list[Mapping]) -> tuple[int, int]:
    """The bytes of all, and of those that are reserved. There may be tens of thousands."""
    mapped = _sum(mappings)
    return mapped, mapped - _sum([mapping for mapping in mappings if not mapping.reserve])


def files_in(mappings: Sequence[Mapping]) -> int:
    """How many of them are of files."""
    return len(mappings) - list(map(_file_of, mappings)).count(None)


def _sum(mappings: list[Mapping]) -> int:
    total: int = sum(map(_end_of, mappings)) - sum(map(_start_of, mappings))
    return total
