"""Changes of a region's memory, as plans: checked at once, worked anywhere, then committed.

Owns the order of the steps of CREATE_MAPPING and UNMAP that makes them whole or not at
all, and of sizes that come with memory: `acquire` gets what may not be there and can fail, `clear` cannot. Both touch the
segment alone, never a shared table, so that they may run in a worker thread while the
loop serves others. The manager makes plans and commits them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from msharefs.core.contents import Contents
from msharefs.core.journal import FEW, MAPPINGS_A_STATEMENT, Request
from msharefs.core.layout import Cut, Fill, Mapping, Range
from msharefs.core.ports import IsInterrupted, OpenSegment, never
from msharefs.core.region import Region

STATEMENTS = 1 + 2 * FEW
"""Of the record of a plan, at most: few mappings go one by one, more by the range, three come, and the
request is remembered."""
EXTRAS = tuple((1 << 20) << attempt for attempt in range(1, 8))
"""Bytes. Processes that touch holes can take pages that were charged for a plan, while the
limit of the memory includes them. So each further try lets twice as many bytes more be
taken; what was taken is swept afterwards."""

A_CALL = 32 << 10
"""Bytes. A system call for a range of its own takes about as long as to clear so many."""
SLOW_BYTES = 8
"""A byte that is overwritten, or put into a huge page, takes as long as so many that are cleared: 3 to 4 ms
a MiB where the memory came in huge pages and nobody has touched it, or came in small ones."""

MakeRoom = Callable[[int], bool]
"""Sweeps holes and lets so many bytes more than is charged be taken; False where it cannot."""


class MapPlan(NamedTuple):
    """A CREATE_MAPPING for `request` that every rule allows and whose memory is charged.

    `cut` is its range as it was found; `need` is the number of bytes that were charged;
    `stray` says that gaps may hold pages that somebody touched while budget was free. What is
    in `contents` is read, if it is to be, after `acquire` and before `clear`.
    """

    request: Request | None
    region: Region
    segment: OpenSegment
    mapping: Mapping
    cut: Cut
    need: int
    stray: bool
    contents: Contents

    @property
    def mappings(self) -> list[Mapping]:
        """What takes the place of what `cut` found."""
        return [self.mapping]

    @property
    def cost(self) -> int:
        """The work: bytes that are to be cleared or freed, and what the slow ones and calls cost
        more, in bytes."""
        size = slow = self.mapping.size
        if not self.mapping.reserve:
            size, slow = self.cut.mapped, 0
        elif not self.mapping.huge:
            slow = self.cut.mapped
        # One for each mapping that is replaced, and one for the gap behind it.
        return size + (SLOW_BYTES - 1) * slow + 2 * len(self.cut.inside) * A_CALL

    @property
    def stale(self) -> Range | None:
        """Where bytes are not what they were once this is done; None where nothing was."""
        return _stale(self.cut)

    @property
    def readable(self) -> bool:
        """Whether what is stale can be read again, with new contents."""
        return True

    @property
    def statements(self) -> int:
        """Of its record in the journal, at most."""
        return STATEMENTS + len(self.cut.old) // MAPPINGS_A_STATEMENT + self.cut.files

    def acquire(self, make_room: MakeRoom, interrupted: IsInterrupted = never) -> None:
        """Get the memory. It was charged, so where there is none others have touched holes,
        and `make_room` is called before the next try. OSError leaves all as it was, also EINTR
        where it was `interrupted`."""
        try:
            _until_there_is_room(partial(self._acquire, interrupted), make_room)
        except OSError:
            self.contents.drop()
            raise

    def give_up(self) -> None:
        """Undo `acquire`: what it got is not wanted any more. Does not fail."""
        self._punch_gaps()
        self.contents.drop()

    def clear(self) -> None:
        """Put the new contents in the place of what was mapped before. Does not fail."""
        if self.mapping.reserve:
            for old in self.cut.inside:
                self.contents.fill(self.segment, old.start, old.size)
        elif self.cut.inside:
            # In one go, however many there were: nothing is in the gaps.
            self.segment.punch(self.mapping.start, self.mapping.size)
        else:
            # What was read of a file took memory where it had data.
            self.segment.count()
        self.contents.drop()

    def finish(self) -> None:
        """What else changes with the layout."""
        self.region.maps += 1

    def _acquire(self, interrupted: IsInterrupted) -> None:
        if self.stray:
            self._punch_gaps()
        try:
            if self.mapping.reserve:
                self._reserve(interrupted)
            self.contents.prepare(self.segment, self.cut)
        except OSError:
            self._punch_gaps()
            raise

    def _reserve(self, interrupted: IsInterrupted) -> None:
        unreserved = [Range(old.start, old.end) for old in self.cut.inside if not old.reserve]
        for part in (*self.cut.gaps(), *unreserved):
            if interrupted():
                raise OSError(errno.EINTR, os.strerror(errno.EINTR))
            self.segment.reserve(part.start, part.size, interrupted)
        if self.mapping.huge:
            self.segment.make_huge(self.mapping.start, self.mapping.size)

    def _punch_gaps(self) -> None:
        for gap in self.cut.gaps():
            self.segment.punch(gap.start, gap.size)


class UnmapPlan(NamedTuple):
    """An UNMAP for `request` that every rule allows. All of `cut`'s range is punched, stray
    pages in its gaps with it."""

    request: Request | None
    region: Region
    segment: OpenSegment
    cut: Cut
    need: int = 0
    """Memory is only given back."""

    @property
    def mappings(self) -> list[Mapping]:
        """What takes the place of what `cut` found: nothing."""
        return []

    @property
    def cost(self) -> int:
        """The work: bytes that are to be freed, and what each mapping costs, in bytes."""
        return self.cut.mapped + len(self.cut.inside) * A_CALL

    @property
    def stale(self) -> Range | None:
        """Where bytes are not what they were once this is done; None where nothing was."""
        return _stale(self.cut)

    @property
    def readable(self) -> bool:
        """Whether what is stale can be read again."""
        return False

    @property
    def statements(self) -> int:
        """Of its record in the journal, at most."""
        return STATEMENTS + len(self.cut.old) // MAPPINGS_A_STATEMENT + self.cut.files

    def acquire(self, make_room: MakeRoom, interrupted: IsInterrupted = never) -> None:
        """Nothing is needed: memory is only given back."""

    def clear(self) -> None:
        """Take the memory away, from every process at once. Does not fail."""
        self.segment.punch(self.cut.start, self.cut.end - self.cut.start)

    def finish(self) -> None:
        """What else changes with the layout."""
        self.region.unmaps += 1


class FillPlan(NamedTuple):
    """A new size of a region that comes with memory, for `request`, every rule kept and its memory
    charged. What is mapped keeps its bytes.

    `size` is that of the region afterwards, `need` the number of bytes that were charged, and
    `stray` says that gaps may hold pages that somebody touched. `finish` changes what else is
    changed with the size, when all that can fail is done.
    """

    request: Request | None
    region: Region
    segment: OpenSegment
    fill: Fill
    reserve: bool
    size: int
    need: int
    stray: bool
    finish: Callable[[], None]

    @property
    def cut(self) -> Cut:
        """Its range, and what touches it, as they were found."""
        return self.fill.cut

    @property
    def mappings(self) -> list[Mapping]:
        """What takes the place of what `cut` found."""
        return self.fill.mappings

    @property
    def cost(self) -> int:
        """The work: bytes that are to get memory."""
        return self.need

    @property
    def stale(self) -> Range | None:
        """Nothing that was mapped changes."""
        return None

    @property
    def readable(self) -> bool:
        """Whether what is stale can be read again."""
        return True

    @property
    def statements(self) -> int:
        """Of its record in the journal, at most."""
        old = len(self.cut.old) // MAPPINGS_A_STATEMENT + self.cut.files
        return STATEMENTS + old + 2 * len(self.mappings)

    def acquire(self, make_room: MakeRoom, interrupted: IsInterrupted = never) -> None:
        """Set the length and get the memory, as `MapPlan.acquire`."""
        _until_there_is_room(partial(self._acquire, interrupted), make_room)

    def clear(self) -> None:
        """Nothing was there."""

    def _acquire(self, interrupted: IsInterrupted) -> None:
        before = self.region.size
        if self.size != before:
            self.segment.set_size(self.size)
        try:
            if self.stray:
                self._punch()
            if self.reserve:
                for part in (*self.fill.fresh, *self.fill.late):
                    self.segment.reserve(part.start, part.size, interrupted)
        except OSError:
            self._punch()
            if self.size != before:
                self.segment.set_size(before)
            raise

    def _punch(self) -> None:
        for part in self.fill.fresh:
            self.segment.punch(part.start, part.size)


Plan = MapPlan | UnmapPlan | FillPlan


def _until_there_is_room(acquire: Callable[[], None], make_room: MakeRoom) -> None:
    for extra in EXTRAS:
        try:
            acquire()
        except OSError as cause:
            if cause.errno != errno.ENOSPC or not make_room(extra):
                raise
        else:
            return
    acquire()


def _stale(cut: Cut) -> Range | None:
    return Range(cut.inside[0].start, cut.inside[-1].end) if cut.inside else None
