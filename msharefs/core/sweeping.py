"""Pages in holes, taken back region by region; and all regions gone over, some at a time.

Owns what a sweep is and how far the look at all regions has come: there may be very many, and to look at
one takes microseconds, so that nobody is kept waiting for more than some of them. When it is worth
while is for the ledger to say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

from msharefs.core.ports import OpenSegment
from msharefs.core.region import Region

log = logging.getLogger(__name__)

SLICE = 256
"""Regions that are looked at in one go: a millisecond."""
HOLES = 512
"""Holes whose pages are taken back in one go: some 3 ms. A region that has more goes on in the next."""


def sweep(regions: Iterable[Region]) -> int:
    """Take back pages in holes, touched while budget was free; of a region with very many holes, in
    the next few of them (`Region.swept`). Returns their bytes."""
    swept = 0
    for region in regions:
        segment, layout = region.segment, region.layout
        if segment is None:
            continue
        begin, region.swept = region.swept, 0
        before = segment.allocated()
        if before <= layout.reserved:
            continue
        try:
            opened = segment.open()
        except OSError as error:
            log.warning("cannot sweep region %d now: %s", region.ino, error)
            continue
        holes = region.holes(begin)
        for gap in islice(holes, HOLES):
            opened.punch(gap.start, gap.size)
        if (following := next(holes, None)) is not None:
            region.swept = following.start
        elif region.reserving is None:
            _cut_off(region, opened)
        # More may be touched meanwhile than was there before.
        swept += max(0, before - opened.allocated())
    if swept:
        log.debug("swept %d bytes that were touched outside of mappings", swept)
    return swept


def _cut_off(region: Region, opened: OpenSegment) -> None:
    """What a process has put behind the end that was killed before the region had its new size."""
    try:
        opened.set_size(region.size)
    except OSError as error:
        log.warning("cannot set the length of region %d now: %s", region.ino, error)


def slices(regions: Mapping[int, Region], count: int) -> Iterator[Iterator[Region]]:
    """All regions that there are now, `count` at a time. What goes meanwhile is left out."""
    numbers = list(regions)
    for begin in range(0, len(numbers), count):
        found = map(regions.get, numbers[begin : begin + count])
        yield (region for region in found if region is not None)


class Rounds(Iterable[Region]):
    """All regions, again and again: each iteration gives the next few. Where there are few in all,
    that is all of them each time."""

    def __init__(self, regions: Mapping[int, Region], over: Callable[[], None]) -> None:
        """`regions` may change meanwhile. `over` is told when each of a round has been given."""
        self._regions = regions
        self._over = over
        self._left: list[int] = []

    @property
    def unfinished(self) -> bool:
        """Whether there are more in this round."""
        return bool(self._left)

    def __iter__(self) -> Iterator[Region]:
        left = self._left = self._left or list(self._regions)
        holes = 0
        for _ in range(min(SLICE, len(left))):
            ino = left.pop()
            if (region := self._regions.get(ino)) is not None:
                yield region
                if region.swept:
                    left.append(ino)
                holes += len(region.layout)
                if holes >= HOLES:
                    break
        if not left:
            self._over()


def sweep_all(regions: Mapping[int, Region]) -> Iterator[int]:
    """One round over all of them, in steps, each with the bytes that it took back."""
    rounds = Rounds(regions, lambda: None)
    more = bool(regions)
    while more:
        yield sweep(rounds)
        more = rounds.unfinished
