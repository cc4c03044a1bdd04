"""Segments in the system's /dev/shm, for a mount without root.

Owns their names, which nobody can guess, and the count of what they hold: here no limit
of a tmpfs is ours to move, so the capacity is kept by counting. That holes stay empty is
up to the data plane: processes reach these segments themselves by its leave alone.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import threading

from msharefs.abi import PAGE_SIZE
from msharefs.memory.headroom import Headroom
from msharefs.memory.objects import SHM, Descriptor, SharedObjects
from msharefs.memory.segment import IsInterrupted, OpenPosixSegment, PosixSegment, never

PREFIX = "msharefs-"
_WHOLE_PREFIX = re.compile(rf"{PREFIX}[0-9a-f]{{32}}-")


def new_prefix() -> str:
    """The beginning of the names of one mount's segments."""
    return PREFIX + secrets.token_hex(16) + "-"


def remove_segments(prefix: str) -> None:
    """Unlink what a mount left, whether its server could or not. A prefix that is none of
    `new_prefix`, as a torn configuration may have it, would fit files of others: nothing goes."""
    if not _WHOLE_PREFIX.fullmatch(prefix):
        return
    for name in os.listdir(SHM):
        if name.startswith(prefix):
            os.unlink(os.path.join(SHM, name))


class SharedArena:
    """Segments that the system's tmpfs holds among others."""

    def __init__(
        self, capacity: int, prefix: str, huge: str = "always", *, readers: int | None = None
    ) -> None:
        """At most `capacity` bytes in all. `huge` says what is to be put into huge pages: those
        that come by themselves are the system's to give. `readers` is that of SharedObjects."""
        self._capacity = capacity
        self._huge = huge
        self._prefix = prefix
        self._objects = SharedObjects(readers=readers)
        self._used = 0
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """The most that all segments together may hold, in bytes."""
        return self._capacity

    def set_capacity(self, capacity: int) -> None:
        """Hold at most that many bytes from now on."""
        self._capacity = capacity

    @property
    def huge(self) -> str:
        """The huge= policy."""
        return self._huge

    def create(self, ino: int) -> CountedSegment:
        """A new segment of size 0 for this number. Raises OSError."""
        name = f"{self._prefix}{ino}"
        self._objects.create(name)
        return CountedSegment(name, self._objects, self)

    def stored(self) -> dict[int, CountedSegment]:
        """The segments that there are, by number, what they hold counted from now on."""
        begin = len(self._prefix)
        names = [name for name in os.listdir(SHM) if name.startswith(self._prefix)]
        return {
            int(name[begin:]): CountedSegment(name, self._objects, self)
            for name in names
            if name[begin:].isdecimal()
        }

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


class CountedSegment(PosixSegment):
    """A segment whose arena knows what it holds."""

    __slots__ = ("_arena", "_counted", "_lock")

    def __init__(self, name: str, objects: SharedObjects, arena: SharedArena) -> None:
        super().__init__(name, objects)
        self._arena = arena
        self._counted = 0
        self._lock = threading.Lock()
        self.count()

    def count(self) -> int:
        """Tell the arena what it holds now. Returns how many bytes more that is than before."""
        with self._lock:
            more = self.allocated() - self._counted
            self._arena.add(more)
            self._counted += more
        return more

    def destroy(self) -> None:
        """Unlink and close; the arena holds that much less."""
        super().destroy()
        self.count()

    def _opened(self, descriptor: Descriptor) -> OpenCountedSegment:
        return OpenCountedSegment(self._name, descriptor, self._objects.headroom, self, self._arena)


class OpenCountedSegment(OpenPosixSegment):
    """One that counts after each change."""

    __slots__ = ("_arena", "_segment")

    def __init__(
        self,
        name: str,
        descriptor: Descriptor,
        headroom: Headroom,
        segment: CountedSegment,
        arena: SharedArena,
    ) -> None:
        super().__init__(name, descriptor, headroom)
        self._segment = segment
        self._arena = arena

    def reserve(self, start: int, size: int, interrupted: IsInterrupted = never) -> None:
        """Give every page of the range memory, within the arena's capacity. OSError (ENOSPC)
        beyond it, and EINTR where it was `interrupted`; pages that were there before do not count again."""
        if self._arena.room_for(size):
            self._reserve_and_count(start, size, interrupted)
            return
        # Some of the pages may be there already: only new ones are over the capacity.
        for page in range(start, start + size, PAGE_SIZE):
            if self._reserve_and_count(page, PAGE_SIZE) > 0 and not self._arena.room_for(0):
                self.punch(page, PAGE_SIZE)
                raise OSError(errno.ENOSPC, "over the size of the mount")

    def collapse(self, start: int, size: int) -> None:
        """Put the range into 2 MiB pages, and count: pages come where a client gave some back."""
        super().collapse(start, size)
        self._segment.count()

    def punch(self, start: int, size: int) -> None:
        """Take the range's memory away, and count what is left."""
        super().punch(start, size)
        self._segment.count()

    def write(self, data: memoryview, start: int) -> None:
        """Write the bytes, and count the pages that they made."""
        super().write(data, start)
        self._segment.count()

    def count(self) -> None:
        """Tell the arena what it holds by now."""
        self._segment.count()

    def _reserve_and_count(self, start: int, size: int, interrupted: IsInterrupted = never) -> int:
        try:
            super().reserve(start, size, interrupted)
        except OSError:
            self._segment.count()
            raise
        return self._segment.count()
