"""A region: a file that is shared memory, and the table of its life.

Owns what a region remembers and when its size may be set. It does not move memory:
the manager does, through the segment that is kept here.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from enum import IntEnum, auto

from msharefs.abi import PAGE_SIZE
from msharefs.core.errors import (
    FileTooLarge,
    InvalidArgument,
    NothingMapped,
    RefusedError,
    SizeAlreadySet,
    SizeNotSet,
)
from msharefs.core.inode import Caller, Inode
from msharefs.core.layout import Layout, Range
from msharefs.core.ports import OpenSegment, Segment
from msharefs.core.quotas import Share
from msharefs.core.ways import Way

NO_GROWTH = Share()


class State(IntEnum):
    """Where a region is in its life; names and handles are counted apart from it."""

    UNSIZED = auto()
    SIZED = auto()


class Event(IntEnum):
    """What can happen to a region's size and memory."""

    SIZE_ZERO = auto()  # ftruncate to 0, and the O_TRUNC of an open
    SIZE = auto()  # ftruncate or fallocate to anything else
    MAP = auto()  # CREATE_MAPPING and UNMAP


TRANSITIONS: dict[tuple[State, Event], State | type[RefusedError]] = {
    # An O_TRUNC open of a new file must not spoil it, so 0 changes nothing.
    (State.UNSIZED, Event.SIZE_ZERO): State.UNSIZED,
    (State.UNSIZED, Event.SIZE): State.SIZED,
    (State.UNSIZED, Event.MAP): SizeNotSet,
    (State.SIZED, Event.SIZE_ZERO): SizeAlreadySet,
    (State.SIZED, Event.SIZE): SizeAlreadySet,
    (State.SIZED, Event.MAP): State.SIZED,
}
"""The whole life of a region: (state, event) to the next state, or to the refusal."""


class Region(Inode):
    """A regular file whose bytes are a segment. The segment comes with the first open."""

    __slots__ = (
        "_size",
        "creator",
        "growth",
        "layout",
        "maps",
        "owes_nothing",
        "registration",
        "reserving",
        "segment",
        "slot",
        "state",
        "swept",
        "unmaps",
        "way",
    )

    def __init__(
        self, ino: int, mode: int, uid: int, gid: int, now_ns: int, creator: Caller
    ) -> None:
        super().__init__(ino, stat.S_IFREG | mode, uid, gid, now_ns)
        self.creator = creator
        self.state = State.UNSIZED
        self.layout = Layout()
        self.segment: Segment | None = None
        # A worker may be getting memory for this range, which no mapping shows yet.
        self.reserving: Range | None = None
        # Where a sweep of its holes goes on, 0 for from the start.
        self.swept = 0
        # What a change that is on its way may add to it, at most.
        self.growth = NO_GROWTH
        self.maps = 0
        self.unmaps = 0
        # Nothing more is written to its files.
        self.owes_nothing = False
        # What the kernel knows the segment by, 0 for not yet; and where handles are counted.
        self.registration = 0
        self.slot = 0
        self.way = Way.OPEN
        self._size = 0

    @property
    def size(self) -> int:
        """st_size in bytes: 0 until the size is set."""
        return self._size

    @property
    def share(self) -> Share:
        """What it is of its owner's share of the mount, with what it may grow by now."""
        layout, growth = self.layout, self.growth
        return Share(
            layout.mapped + growth.size,
            self.names,
            len(layout) + growth.mappings,
            layout.files + growth.files,
        )

    @property
    def blocks(self) -> int:
        """The reserved memory; with MAP_NORESERVE what was touched counts, too."""
        if self.cacheable or self.segment is None:
            return self.layout.reserved // 512
        return min(self.segment.allocated(), self.layout.mapped) // 512

    @property
    def cacheable(self) -> bool:
        """False with MAP_NORESERVE: a touch changes st_blocks without a request."""
        return self.layout.mapped == self.layout.reserved

    @property
    def goes_back(self) -> bool:
        """Whether changes of any part of it are written to a file."""
        if self.owes_nothing or not self.layout.files:
            return False
        return any(mapping.file and mapping.file.goes_back for mapping in self.layout)

    def holes(self, start: int = 0) -> Iterator[Range]:
        """Where nothing is mapped, nor being mapped, from `start` on, in order."""
        reserving = self.reserving or Range(self._size, self._size)
        yield from self.layout.gaps(start, reserving.start)
        yield from self.layout.gaps(max(start, reserving.end), self._size)

    def next_state(self, event: Event) -> State:
        """The state after `event`. Raises SizeAlreadySet or SizeNotSet."""
        following = TRANSITIONS[self.state, event]
        if isinstance(following, State):
            return following
        raise following(f"region {self.ino} is {self.state.name.lower()}")

    def check_size(self, size: int, *, align: int, largest: int) -> Event:
        """Whether the size may become `size` bytes now. Returns the event that it is.

        Raises SizeAlreadySet, FileTooLarge (more than `largest`) and InvalidArgument
        (negative, or not a multiple of `align`).
        """
        event = Event.SIZE if size else Event.SIZE_ZERO
        self.next_state(event)
        if size < 0 or size % align:
            raise InvalidArgument(f"size {size} is not a multiple of {align}")
        if size > largest:
            raise FileTooLarge(f"size {size} is beyond max_region={largest}")
        return event

    def become_sized(self, size: int) -> None:
        """Record the size, after the segment has it."""
        self.state = self.next_state(Event.SIZE)
        self._size = size

    def grow(self, size: int) -> None:
        """Record a size that is no less than before, after the segment has it."""
        self.state = State.SIZED
        self._size = size

    def was_sized(self, size: int) -> None:
        """The region comes back with the size that it had."""
        self.state = State.SIZED
        self._size = size

    def touchable(self, start: int, end: int) -> OpenSegment:
        """The open segment, if all of `start` to `end` (bytes) may be touched: mapped, and its
        memory there. For a data plane that is the pager. Raises NothingMapped."""
        if self.segment is None or end > self._size or any(self.layout.gaps(start, end)):
            raise NothingMapped(f"{start:#x}-{end:#x} of region {self.ino} is not mapped")
        try:
            segment = self.segment.open_for_page()
            # Whole pages: a read of a descriptor with O_DIRECT may begin and end anywhere.
            low, high = start // PAGE_SIZE * PAGE_SIZE, -(-end // PAGE_SIZE) * PAGE_SIZE
            for mapping in self.layout.clipped(low, high):
                if not mapping.reserve:
                    segment.reserve(mapping.start, mapping.size)
        except OSError as cause:
            raise NothingMapped(f"no page of region {self.ino} can be had: {cause}") from cause
        return segment
