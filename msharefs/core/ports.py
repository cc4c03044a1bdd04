"""What core needs from the outside, as Protocols.

Owns the shape of memory and of the kernel; implementations live in memory/ and fuse/,
in-memory ones in the tests. All offsets and sizes are bytes and page aligned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class OpenSegment(Protocol):
    """The memory of a region in use: open for as long as somebody refers to it. A method that
    raises OSError has not changed what is in memory; `punch` and `zero` do not fail."""

    def fileno(self) -> int:
        """The descriptor of the segment, valid while this is referred to."""

    def set_size(self, size: int) -> None:
        """Set the length to `size` bytes. It is set once; after a crash perhaps again to the same."""

    def reserve(self, start: int, size: int) -> None:
        """Give every page of the range memory, and none outside; pages that have some keep
        their contents. After an OSError a part may have memory."""

    def make_huge(self, start: int, size: int) -> None:
        """Put the range into 2 MiB pages, contents kept."""

    def punch(self, start: int, size: int) -> None:
        """Take the range's memory away, from every process at once."""

    def zero(self, start: int, size: int) -> None:
        """Make a range that has memory read as zeros."""

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill the buffer with the bytes from `start` on."""

    def window(self, start: int, size: int) -> memoryview:
        """The bytes themselves, to be read, of whole pages that have memory."""

    def write(self, data: memoryview, start: int) -> None:
        """Write the bytes at `start`. OSError where there is no memory for them."""

    def allocated(self) -> int:
        """How many bytes have memory."""


class Segment(Protocol):
    """The memory of one region, which takes nothing of the process until it is opened."""

    def open(self) -> OpenSegment:
        """To change it, or to look into it. Raises OSError, where the process may open no more
        say, so it comes before the first change."""

    def allocated(self) -> int:
        """How many bytes have memory."""

    def destroy(self) -> None:
        """Remove the name and let go; does not fail, but may take long for a large segment."""


class Memory(Protocol):
    """Where segments come from, and the limit on their sum."""

    @property
    def capacity(self) -> int:
        """The most that all segments together may hold, in bytes."""

    def set_capacity(self, capacity: int) -> None:
        """Hold at most that many bytes from now on."""

    @property
    def huge(self) -> str:
        """The huge page policy, as the huge= option names it."""

    def create(self, ino: int) -> Segment:
        """A new segment of size 0 for this inode number. Raises OSError."""

    def stored(self) -> Mapping[int, Segment]:
        """The segments that there are, also of an earlier process, by inode number."""

    def used(self) -> int:
        """Bytes in use in all segments."""

    def set_limit(self, limit: int) -> None:
        """Allow at most `limit` bytes. OSError(EINVAL) where more is in use."""


class Kernel(Protocol):
    """What the kernel has to be told, and can be asked, about inodes and segments. Called
    within a request that it waits for, so an implementation must not wait for it."""

    def attributes_changed(self, ino: int) -> None:
        """The attributes of a living inode are not what the kernel has cached."""

    def register(self, segment: OpenSegment) -> int:
        """A region can be opened with this segment from now on. Returns its registration,
        by which the kernel knows it for as long as the mount lives; 0 where it need not
        know. OSError if the region cannot be served from it."""

    def is_known(self, ino: int) -> bool:
        """Whether the kernel holds the inode: for its cache, a handle or a mapping."""

    def region_gone(self, ino: int, registration: int, segment: Segment | None, size: int) -> bool:
        """No name, handle or mapping refers to a region, of which `size` bytes are mapped:
        let go of its segment and destroy it. False where a worker will, and
        RegionManager.reclaimed be called later."""
