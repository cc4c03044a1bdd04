"""Segments in the system's /dev/shm, for a mount without root.

Owns their names, which nobody can guess, and the count of what they hold: here no limit
of a tmpfs is ours to move, so the capacity is kept by counting. That holes stay empty is
up to the data plane: processes never reach these segments themselves.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Callable

from msharefs.abi import PAGE_SIZE
from msharefs.memory.segment import PosixSegment, create_object, open_object

SHM = "/dev/shm"
PREFIX = "msharefs-"


def new_prefix() -> str:
    """The beginning of the names of one mount's segments."""
    return PREFIX + secrets.token_hex(16) + "-"


def remove_segments(prefix: str) -> None:
    """Unlink what a mount left, whether its server could or not."""
    for name in os.listdir(SHM):
        if name.startswith(prefix):
            os.unlink(os.path.join(SHM, name))


class SharedArena:
    """Segments that the system's tmpfs holds among others."""

    def __init__(self, capacity: int, prefix: str) -> None:
        """At most `capacity` bytes in all."""
        self._capacity = capacity
        self._prefix = prefix
        self._used = 0
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """The most that all segments together may hold, in bytes."""
        return self._capacity

    @property
    def huge(self) -> str:
        """The policy is the system's, not ours."""
        return "system"

    def create(self, ino: int) -> CountedSegment:
        """A new segment of size 0 for this number. Raises OSError."""
        return self._segment(ino, create_object)

    def stored(self) -> list[int]:
        """The numbers of the segments that there are."""
        begin = len(self._prefix)
        names = [name[begin:] for name in os.listdir(SHM) if name.startswith(self._prefix)]
        return [int(number) for number in names if number.isdecimal()]

    def open(self, ino: int) -> CountedSegment:
        """The segment of this number that is there. Raises OSError."""
        return self._segment(ino, open_object)

    def discard(self, ino: int) -> None:
        """Remove a segment without opening it."""
        os.unlink(os.path.join(SHM, f"{self._prefix}{ino}"))

    def used(self) -> int:
        """Bytes in use in all segments."""
        return self._used

    def set_limit(self, limit: int) -> None:
        """The limit is not the kernel's to keep here: `add` keeps the capacity."""

    def add(self, size: int) -> None:
        """Count bytes of either sign, from any thread."""
        with self._lock:
            self._used += size

    def room_for(self, size: int) -> bool:
        """Whether that many bytes more are within the capacity."""
        return self._used + size <= self._capacity

    def _segment(self, ino: int, descriptor_of: Callable[[str], int]) -> CountedSegment:
        name = f"/{self._prefix}{ino}"
        return CountedSegment(name, descriptor_of(name), self)


class CountedSegment(PosixSegment):
    """A segment that tells its arena what it holds after each change."""

    __slots__ = ("_arena", "_counted", "_lock")

    def __init__(self, name: str, fd: int, arena: SharedArena) -> None:
        super().__init__(name, fd)
        self._arena = arena
        self._counted = 0
        self._lock = threading.Lock()
        self._count()

    def reserve(self, start: int, size: int) -> None:
        """Give every page of the range memory, within the arena's capacity. OSError (ENOSPC)
        beyond it; pages that were there before do not count again."""
        if self._arena.room_for(size):
            self._reserve_and_count(start, size)
            return
        # Some of the pages may be there already: only new ones are over the capacity.
        for page in range(start, start + size, PAGE_SIZE):
            before = self._counted
            self._reserve_and_count(page, PAGE_SIZE)
            if self._counted > before and not self._arena.room_for(0):
                self.punch(page, PAGE_SIZE)
                raise OSError(errno.ENOSPC, "over the size of the mount")

    def _reserve_and_count(self, start: int, size: int) -> None:
        try:
            super().reserve(start, size)
        finally:
            self._count()

    def punch(self, start: int, size: int) -> None:
        """Take the range's memory away, and count what is left."""
        super().punch(start, size)
        self._count()

    def write(self, data: memoryview, start: int) -> None:
        """Write the bytes, and count the pages that they made."""
        super().write(data, start)
        self._count()

    def destroy(self) -> None:
        """Unlink and close; the arena holds that much less."""
        super().destroy()
        with self._lock:
            self._arena.add(-self._counted)
            self._counted = 0

    def _count(self) -> None:
        with self._lock:
            now = self.allocated()
            self._arena.add(now - self._counted)
            self._counted = now
