"""Which memory of regions is in pages of 2 MiB, and what is to be put into such, step by step.

Owns which ranges may be collapsed (those that are reserved as a whole, so that nothing comes into
a hole by it), how far that has come, what the kernel has said to it, and when it is not asked
again for now. Who does the work, and when, is not known here. What is said of huge pages is what
was seen: the kernel may split one later, where memory is short say. Nothing of it is in the
journal: a server that begins looks at all again, and what is huge already takes it microseconds.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Container
from collections.abc import Mapping as Table
from itertools import islice
from typing import NamedTuple

from msharefs.abi import HUGE_PAGE_SIZE
from msharefs.core.layout import Layout, Mapping, Range
from msharefs.core.region import Region

SLICE = 1024
"""Mappings that are looked at in one go: half a millisecond. More than the small pages of a huge
one, so that each look comes further."""
REFUSALS = 8
"""After so many ranges in a row that the kernel has refused for good it is not asked for more."""
NO_ATTACHMENTS = "programs reach regions through the page cache, where huge pages save nothing"
_WHOLE = frozenset({"always", "within_size"})
"""Policies by which all that is reserved is to be huge; by the others what MAP_HUGETLB asked for."""
_NOTHING = Layout()


class Step(NamedTuple):
    """A range of a region, of whole huge pages, that may be collapsed."""

    region: Region
    part: Range


class Collapsing:
    """The huge pages of all regions of a mount."""

    def __init__(
        self, regions: Table[int, Region], policy: str, attached: Container[int] | None
    ) -> None:
        """`regions` may change meanwhile. `policy` is that of the memory (huge=); `attached` are
        those of the regions whose segments programs map themselves, so that their huge pages are
        theirs, as of the moment when it is asked; None where there never are any."""
        self._regions = regions
        self._all = policy in _WHOLE
        self._attached = attached
        self._wake: Callable[[], None] = _nobody
        # What of each region is huge, the ranges as mappings of a layout of their own.
        self._huge: dict[int, Layout] = {}
        # Regions to be looked at, each with where to go on; and those that are left for later.
        self._todo: OrderedDict[int, int] = OrderedDict()
        self._later: set[int] = set()
        self._refused = 0
        self._obstacle: str | None = None
        self.total = 0
        """Bytes of all regions."""

    @property
    def obstacle(self) -> str | None:
        """Why there are no more huge pages for now, in a few words; None while there is nothing
        to be said."""
        return NO_ATTACHMENTS if self._attached is None else self._obstacle

    @property
    def has_work(self) -> bool:
        """Whether `next` is to be asked."""
        return bool(self._todo)

    @property
    def has_rest(self) -> bool:
        """Whether something was left for `try_again`: regions, or what was in the way of one that
        is gone since, and would be in that of others for good."""
        return bool(self._later) or self._obstacle is not None

    def call_for_work(self, wake: Callable[[], None]) -> None:
        """Have `wake` called each time that there is something to do."""
        self._wake = wake

    def size_of(self, ino: int) -> int:
        """How many bytes of a region are in huge pages."""
        huge = self._huge.get(ino)
        return huge.mapped if huge is not None else 0

    def changed(self, region: Region, start: int, end: int) -> None:
        """What is mapped in a range is another than before: pages there were split, or are new."""
        if not self._is_attached(region.ino) or region.size < HUGE_PAGE_SIZE:
            return
        first, last = _floor(start), _ceiling(end)
        huge = self._huge.get(region.ino)
        if huge is not None:
            before = huge.mapped
            huge.remove(first, last)
            self.total += huge.mapped - before
        self._look_at(region.ino, first)

    def gone(self, ino: int) -> None:
        """A region is there no more."""
        self._todo.pop(ino, None)
        self._later.discard(ino)
        huge = self._huge.pop(ino, None)
        if huge is not None:
            self.total -= huge.mapped

    def next(self, most: int) -> Step | None:
        """What to do next, of one region `most` huge pages at most; regions take turns. None where
        only a part was looked at and nothing found in it. The step must be reported by
        `succeeded`, `failed` or `put_off`."""
        ino, position = self._todo.popitem(last=False)
        if not self._is_attached(ino):
            return None
        region = self._regions[ino]
        found, position = self._find(region, position, most)
        if found is not None:
            return Step(region, found)
        if position < region.size:
            self._todo[ino] = position
        return None

    def succeeded(self, step: Step) -> None:
        """All of its range is in huge pages."""
        self._refused = 0
        ino, part = step.region.ino, step.part
        if self._regions.get(ino) is not step.region:
            return
        huge = self._huge.setdefault(ino, Layout())
        before = huge.mapped
        fill = huge.fill(part.start, part.end, 0, reserve=True)
        huge.apply(fill.cut, fill.mappings)
        self.total += huge.mapped - before
        self._go_on(ino, part.end)

    def failed(self, step: Step, code: int) -> None:
        """The kernel has refused it with this errno. A step of several huge pages, of which some may
        be there, should be tried again one by one; with one, it is left for later."""
        ino, part = step.region.ino, step.part
        if self._regions.get(ino) is not step.region:
            return
        if part.size > HUGE_PAGE_SIZE:
            self._go_on(ino, part.start)
            return
        self._later.add(ino)
        self._go_on(ino, part.end)
        self._refused = self._refused + 1 if code == errno.EINVAL else 0
        if code != errno.EAGAIN and (code != errno.EINVAL or self._refused == REFUSALS):
            self._stop(_why(code))

    def put_off(self, step: Step) -> None:
        """It cannot be done at this moment, because the region is being changed."""
        self._go_on(step.region.ino, step.part.start)

    def try_again(self) -> None:
        """Let what was left be done, from the start."""
        left, self._later = self._later, set()
        self._obstacle, self._refused = None, 0
        for ino in left:
            self._look_at(ino, 0)

    def _is_attached(self, ino: int) -> bool:
        return self._attached is not None and ino in self._attached

    def _find(self, region: Region, position: int, most: int) -> tuple[Range | None, int]:
        """A range to be collapsed from `position` on, or None and where to look on."""
        huge = self._huge.get(region.ino, _NOTHING)
        start = end = position
        looked_at = 0
        for mapping in islice(region.layout.from_offset(position), SLICE):
            looked_at += 1
            if not self._fits(mapping):
                start = end = mapping.end
                continue
            if mapping.start > end:
                start = mapping.start
            end = mapping.end
            first, last = _ceiling(max(start, position)), _floor(end)
            if first >= last:
                continue
            small = next(huge.gaps(first, last), None)
            if small is not None:
                limit = small.start + most * HUGE_PAGE_SIZE
                return Range(small.start, min(small.end, limit)), position
            start = last
        return None, _ceiling(start) if looked_at == SLICE else region.size

    def _fits(self, mapping: Mapping) -> bool:
        """Not memory that comes at the first touch: it would all come now."""
        return mapping.reserve and (self._all or mapping.huge)

    def _look_at(self, ino: int, position: int) -> None:
        if self._obstacle is not None:
            self._later.add(ino)
            return
        self._go_on(ino, position)
        self._wake()

    def _go_on(self, ino: int, position: int) -> None:
        self._todo[ino] = min(self._todo.get(ino, position), position)

    def _stop(self, why: str) -> None:
        self._obstacle = why
        self._later.update(self._todo)
        self._todo.clear()


def _nobody() -> None:
    """Nobody waits for work yet."""


def _floor(offset: int) -> int:
    return offset // HUGE_PAGE_SIZE * HUGE_PAGE_SIZE


def _ceiling(offset: int) -> int:
    return -(-offset // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE


def _why(code: int) -> str:
    if code == errno.EINVAL:
        return "this kernel does not collapse shared memory here (EINVAL)"
    if code in {errno.ENOMEM, errno.EBUSY}:
        return f"there is no free memory in blocks of 2 MiB ({errno.errorcode[code]})"
    return f"it cannot be had: {os.strerror(code)}"
