"""The ledger of memory: what is charged, what may still be, and the limit that follows.

Owns the sums over all regions and the one number that keeps holes empty: the limit of
the memory is exactly what is charged, so that a touch of a hole finds no free page.
It decides nothing about a single region's layout.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Iterable

from msharefs.core.errors import (
    Busy,
    Interrupted,
    NoDescriptor,
    OutOfMemory,
    RefusedError,
    StorageFailed,
)
from msharefs.core.layout import Layout
from msharefs.core.ports import Memory
from msharefs.core.region import Region
from msharefs.core.sweeping import sweep

log = logging.getLogger(__name__)

SETTLE_TRIES = 3


class Totals:
    """The sizes of a layout at one moment, to tell later by how much it changed."""

    __slots__ = ("count", "files", "mapped", "reserved")

    def __init__(self, layout: Layout) -> None:
        self.count = len(layout)
        self.files = layout.files
        self.mapped = layout.mapped
        self.reserved = layout.reserved


class Ledger:
    """Reserved bytes are there for good; pending ones are being reserved by an operation;
    optional ones belong to MAP_NORESERVE mappings and come at first touch, if they come. Mappings
    that grow, and files among them, may be added by an operation that is on its way."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._limit: int | None = None
        self.mappings = 0
        self.growing = 0
        self.files = 0
        self.growing_files = 0
        self.reserved = 0
        self.pending = 0
        self.optional = 0
        # What is in use beyond what is reserved, and which a look at all regions did not find.
        self._not_found = 0

    @property
    def capacity(self) -> int:
        """The most that all regions together may use, in bytes."""
        return self._memory.capacity

    @property
    def limit(self) -> int:
        """How many bytes may be in use."""
        return min(self.capacity, self.reserved + self.pending + self.optional)

    @property
    def has_more_than_reserved(self) -> bool:
        """Whether more is in use than is reserved. If not, no page is in a hole, and no region
        need be looked at to know that."""
        return self._memory.used() > self.reserved

    def looked_at_all(self) -> None:
        """Every region has been swept. What is in use beyond what is reserved now is none of
        theirs: of regions that are gone and still attached, or touched without reservation."""
        self._not_found = self._memory.used() - self.reserved

    def look_again(self) -> None:
        """Sweep where more is in use than is reserved, whatever was found the last time."""
        self._not_found = 0

    def charge(self, need: int, regions: Iterable[Region]) -> None:
        """Set `need` bytes aside and raise the limit. Raises OutOfMemory."""
        if not need:
            return
        if self._left() < need:
            self._sweep(regions)
            if (left := self._left()) < need:
                raise OutOfMemory(f"{need} bytes wanted, {max(0, left)} of {self.capacity} left")
        self.pending += need
        try:
            self.settle(regions)
        except OSError as cause:
            self.pending -= need
            raise storage_error(cause) from cause

    def check_capacity(self, capacity: int) -> None:
        """Raises Busy where more than `capacity` bytes is charged or in use."""
        if self.is_above(capacity):
            raise Busy(f"size={capacity}: {self._in_use()} bytes are in use")

    def is_above(self, capacity: int) -> bool:
        """Whether more than `capacity` bytes is charged or in use."""
        return self._in_use() > capacity

    def uncharge(self, need: int) -> None:
        """What was charged is accounted now, or was not needed."""
        self.pending -= need

    def restore(self, layouts: Collection[Layout]) -> None:
        """Begin with the layouts that an earlier process left."""
        self.mappings = sum(map(len, layouts))
        self.files = sum(layout.files for layout in layouts)
        self.reserved = sum(layout.reserved for layout in layouts)
        self.optional = sum(layout.mapped for layout in layouts) - self.reserved

    def account(self, before: Totals, layout: Layout) -> None:
        """Add what changed in a layout."""
        reserved = layout.reserved - before.reserved
        self.mappings += len(layout) - before.count
        self.files += layout.files - before.files
        self.reserved += reserved
        self.optional += layout.mapped - before.mapped - reserved

    def settle(self, regions: Iterable[Region]) -> bool:
        """Let the memory's limit be what the sums say, sweeping `regions` where more is in
        use. Returns whether it is so now; if not, a later call tries again."""
        limit = self.limit
        if limit == self._limit:
            return True
        for _ in range(SETTLE_TRIES):
            if self._try_limit(limit):
                return True
            self._sweep(regions)
        # Pages that cannot be had back now: touched again each time, or part of a huge page
        # that is pinned.
        self._try_limit(min(self.capacity, self._memory.used() + self.pending))
        self._limit = None
        log.debug("more memory is in use than the mappings hold; will look again")
        return False

    def make_room(self, extra: int, regions: Iterable[Region]) -> None:
        """Let pending reservations win against touches of holes: sweep, then allow `extra`
        bytes more than is charged, until the next `settle`."""
        sweep(regions)
        self._try_limit(min(self.capacity, self._memory.used() + self.pending + extra))
        self._limit = None

    def _sweep(self, regions: Iterable[Region]) -> None:
        """Where it may find something."""
        beyond = self._memory.used() - self.reserved
        self._not_found = min(self._not_found, beyond)
        if beyond > max(0, self._not_found):
            sweep(regions)

    def _left(self) -> int:
        return self.capacity - self._in_use()

    def _in_use(self) -> int:
        # What a worker has got of a pending charge is in use, too, and counts once.
        return max(self.reserved + self.pending, self._memory.used())

    def _try_limit(self, limit: int) -> bool:
        """Whether no more than `limit` is in use, which is the limit then."""
        self._limit = None
        try:
            self._memory.set_limit(limit)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return False
        self._limit = limit
        return True


def storage_error(cause: OSError) -> RefusedError:
    """What a failure of the system's means to a caller: tmpfs says ENOSPC where users of mmap
    expect ENOMEM."""
    if cause.errno in (errno.ENOSPC, errno.ENOMEM):
        return OutOfMemory(f"no memory: {cause}")
    if cause.errno == errno.EINTR:
        return Interrupted(f"not done: {cause}")
    if cause.errno in (errno.EMFILE, errno.ENFILE):
        return NoDescriptor(f"no descriptor: {cause}")
    return StorageFailed(cause)
