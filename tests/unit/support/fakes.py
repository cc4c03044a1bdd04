"""Memory and Kernel without a kernel: what core's ports promise, kept in plain sets and lists.

`FakeMemory` counts every page and keeps the limit as tmpfs does; `test_memory.py` runs the
same checks on it and on the real one. Any call that may fail by contract can be made to
fail: see `Faults`. Sizes and offsets are bytes.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator

from msharefs.abi import HUGE_PAGE_SIZE, PAGE_SIZE
from msharefs.core.errors import Busy
from msharefs.core.ports import IsInterrupted, OpenSegment, Segment, never
from msharefs.core.ways import Giving

FIRST_REGISTRATION = 5000


def failure(code: int, what: str) -> OSError:
    """The OSError that a system call gives."""
    return OSError(code, os.strerror(code), what)


class Faults:
    """Lets the n-th call from now on that may fail by contract fail with an errno.

    `calls` names the calls since `reset`, in order, so that a test can see which steps an
    operation has and then break each of them. `observe` is told of each call, too.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.observe: Callable[[str], None] | None = None
        self._at: int | None = None
        self._code = 0

    def reset(self) -> None:
        """Count from here, and fail nothing."""
        self.calls.clear()
        self._at = None

    def arm(self, index: int, code: int) -> None:
        """Count from here; the call with this index, the first being 0, fails once."""
        self.reset()
        self._at = index
        self._code = code

    def step(self, name: str) -> None:
        """A call that may fail begins."""
        if self.observe is not None:
            self.observe(name)
        index = len(self.calls)
        self.calls.append(name)
        if index == self._at:
            raise failure(self._code, name)


class FakeSegment:
    """The memory of one region: which pages there are, and what is in those not zero.

    Opened it is itself. As with a POSIX segment its pages stay in use after `destroy` while a
    client has it attached: see `attach`.
    """

    def __init__(self, memory: FakeMemory, ino: int) -> None:
        self.ino = ino
        self.size = 0
        self.pages: set[int] = set()
        self.data: dict[int, bytes] = {}
        self.huge: set[int] = set()
        self.attachments = 0
        self.windows = 0
        self.destroyed = False
        self._memory = memory

    def open(self) -> FakeSegment:
        """To change it. ENOENT where it was destroyed."""
        self._memory.faults.step("open")
        if self.destroyed:
            raise failure(errno.ENOENT, "open")
        return self

    def open_for_page(self) -> FakeSegment:
        """The same."""
        return self.open()

    def open_for_readers(self) -> FakeSegment:
        """The same."""
        self._memory.faults.step("open_for_readers")
        return self.open()

    def fileno(self) -> int:
        """A number that is no real descriptor, but tells which segment it is of."""
        return 1000 + self.ino

    def set_size(self, size: int) -> None:
        """Set the length. After a crash that may come a second time."""
        self._memory.faults.step("set_size")
        self.pages = {page for page in self.pages if page < size // PAGE_SIZE}
        self.size = size

    def reserve(self, start: int, size: int, interrupted: IsInterrupted = never) -> None:
        """Give every page of the range memory. A failure comes as late as it may: half of
        what is missing is there by then."""
        self._memory.announce("reserve", self.ino)
        missing = [page for page in self._range(start, size) if page not in self.pages]
        room = max(0, self._memory.limit - self._memory.used()) // PAGE_SIZE
        try:
            self._memory.faults.step("reserve")
            if interrupted():
                raise failure(errno.EINTR, "reserve")
            if len(missing) > room:
                raise failure(errno.ENOSPC, "reserve")
        except OSError:
            self.pages.update(missing[: min(room, (len(missing) + 1) // 2)])
            raise
        self.pages.update(missing)

    def make_huge(self, start: int, size: int) -> None:
        """Remember the huge pages of a range that has memory."""
        self._memory.faults.step("make_huge")
        assert start % HUGE_PAGE_SIZE == 0
        assert size % HUGE_PAGE_SIZE == 0
        pages = self._range(start, size)
        assert self.pages.issuperset(pages), "only what is reserved becomes huge"
        self.huge.update(range(start // HUGE_PAGE_SIZE, (start + size) // HUGE_PAGE_SIZE))

    def collapse(self, start: int, size: int) -> None:
        """The same once, beside everything else."""
        self._memory.announce("collapse", self.ino)
        self._memory.faults.step("collapse")
        pages = self._range(start, size)
        assert self.pages.issuperset(pages), "a collapse fills no hole"
        self.huge.update(range(start // HUGE_PAGE_SIZE, (start + size) // HUGE_PAGE_SIZE))

    def punch(self, start: int, size: int) -> None:
        """Take the range's memory away."""
        self._memory.announce("punch", self.ino)
        pages = self._range(start, size)
        if len(pages) > len(self.pages):
            gone = {page for page in self.pages if page in pages}
        else:
            gone = self.pages.intersection(pages)
        self.pages -= gone
        for page in gone:
            self.data.pop(page, None)
            self.huge.discard(page * PAGE_SIZE // HUGE_PAGE_SIZE)

    def zero(self, start: int, size: int) -> None:
        """Make a range that has memory read as zeros."""
        self._memory.announce("zero", self.ino)
        pages = self._range(start, size)
        assert self.pages.issuperset(pages), "only what has memory can be cleared in place"
        for page in pages:
            self.data.pop(page, None)

    def count(self) -> None:
        """It always has."""

    def allocated(self) -> int:
        """How many bytes have memory."""
        return len(self.pages) * PAGE_SIZE

    def identity(self) -> tuple[int, int] | None:
        """Device and inode number."""
        return 7, self.ino

    def destroy(self) -> None:
        """Remove the name and let go."""
        assert not self.destroyed, "a segment is destroyed once"
        self.destroyed = True
        self._memory.dropped(self)

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill the buffer with the bytes from `start` on."""
        buffer[:] = self.peek(start, len(buffer))

    def window(self, start: int, size: int) -> memoryview:
        """The bytes of pages that have memory: a look at others would make them."""
        self._memory.faults.step("window")
        self.windows += 1
        assert self.pages.issuperset(self._range(start, size))
        return memoryview(self.peek(start, size))

    def write(self, data: memoryview, start: int) -> None:
        """Write the bytes at `start`; pages appear."""
        self.poke(start, bytes(data))

    # What a client does with the memory, past the daemon

    def attach(self) -> None:
        """A process maps the segment."""
        self.attachments += 1

    def detach(self) -> None:
        """A process unmaps the segment, or ends."""
        self.attachments -= 1
        self._memory.dropped(self)

    def poke(self, start: int, data: bytes) -> None:
        """A client stores `data`; pages appear. ENOSPC where a real client gets SIGBUS."""
        first, last = start // PAGE_SIZE, (start + len(data) - 1) // PAGE_SIZE
        assert start + len(data) <= self.size, "beyond the segment"
        fresh = set(range(first, last + 1)) - self.pages
        if self._memory.used() + len(fresh) * PAGE_SIZE > self._memory.limit:
            raise failure(errno.ENOSPC, "poke")
        self.pages |= fresh
        for page in range(first, last + 1):
            low, high = max(start, page * PAGE_SIZE), min(start + len(data), (page + 1) * PAGE_SIZE)
            content = bytearray(self.data.get(page, bytes(PAGE_SIZE)))
            content[low - page * PAGE_SIZE : high - page * PAGE_SIZE] = data[
                low - start : high - start
            ]
            self.data[page] = bytes(content)

    def peek(self, start: int, size: int) -> bytes:
        """What is there, zeros where nothing is. No page appears by it."""
        first, last = start // PAGE_SIZE, (start + size - 1) // PAGE_SIZE
        whole = b"".join(self.data.get(page, bytes(PAGE_SIZE)) for page in range(first, last + 1))
        return whole[start - first * PAGE_SIZE :][:size]

    def _range(self, start: int, size: int) -> range:
        assert start % PAGE_SIZE == 0
        assert size % PAGE_SIZE == 0
        assert size > 0, "an empty range is never asked for"
        assert start >= 0, "before the segment"
        assert start + size <= self.size, "beyond the segment"
        return range(start // PAGE_SIZE, (start + size) // PAGE_SIZE)


class FakeMemory:
    """Segments under one limit. `held` are bytes in use that no segment accounts for, such
    as those of a huge page that cannot be split now."""

    def __init__(self, capacity: int, *, huge: str = "never", faults: Faults | None = None) -> None:
        self.faults = Faults() if faults is None else faults
        # Called with the name of a step and the inode number before a segment is changed,
        # which may be in a worker thread.
        self.before: Callable[[str, int], None] | None = None
        self.held = 0
        self.limit = 0
        self.segments: dict[int, FakeSegment] = {}
        self.dying: list[FakeSegment] = []
        self._capacity = capacity
        self._huge = huge

    @property
    def capacity(self) -> int:
        """The most that all segments together may hold."""
        return self._capacity

    def set_capacity(self, capacity: int) -> None:
        """Hold at most that many from now on."""
        self._capacity = capacity

    @property
    def huge(self) -> str:
        """The huge page policy."""
        return self._huge

    def create(self, ino: int) -> FakeSegment:
        """A new segment of size 0. EEXIST where the number is in use."""
        self.faults.step("create")
        if ino in self.segments:
            raise failure(errno.EEXIST, "create")
        segment = self.segments[ino] = FakeSegment(self, ino)
        return segment

    def stored(self) -> dict[int, FakeSegment]:
        """The segments that there are, by number."""
        return dict(self.segments)

    def used(self) -> int:
        """Bytes in use, those of dying segments included."""
        return self.held + sum(
            s.allocated() for s in itertools.chain(self.segments.values(), self.dying)
        )

    def set_limit(self, limit: int) -> None:
        """Allow at most `limit` bytes. EINVAL where more is in use."""
        self.faults.step("set_limit")
        assert 0 <= limit <= self._capacity, "a limit that makes no sense"
        if self.used() > limit:
            raise failure(errno.EINVAL, "set_limit")
        self.limit = limit

    def announce(self, step: str, ino: int) -> None:
        """Let a test look, or wait, before a segment is changed."""
        if self.before is not None:
            self.before(step, ino)

    def dropped(self, segment: FakeSegment) -> None:
        """Somebody let go of a segment: it dies with the last one."""
        if not segment.destroyed:
            return
        if self.segments.get(segment.ino) is segment:
            del self.segments[segment.ino]
            self.dying.append(segment)
        if not segment.attachments and segment in self.dying:
            self.dying.remove(segment)


class FakeKernel:
    """Records what core tells. With `reclaim_later` the memory of a region that is gone is left to a
    worker, as the real one does with large regions."""

    maps_segments = True
    gives = Giving.ANYBODY

    def __init__(self, faults: Faults, *, reclaim_later: bool = False) -> None:
        self.reclaim_later = reclaim_later
        self.changed: list[int] = []
        self.registered: list[int] = []
        self.known: set[int] = set()
        self.registrations: dict[int, int] = {}
        self.gone: list[int] = []
        self.owed: list[int] = []
        self.reclaimable: list[tuple[int, Segment]] = []
        self._faults = faults

    def attributes_changed(self, ino: int) -> None:
        """The attributes of an inode are not what the kernel has."""
        self.changed.append(ino)

    def register(self, segment: OpenSegment) -> int:
        """A region can be opened from now on."""
        self._faults.step("register")
        assert isinstance(segment, FakeSegment)
        assert not segment.destroyed
        self.registered.append(segment.ino)
        self.registrations[segment.ino] = FIRST_REGISTRATION + len(self.registered)
        return self.registrations[segment.ino]

    def is_known(self, ino: int) -> bool:
        """Whether the kernel holds the inode: the test says so in `known`."""
        return ino in self.known

    def owes(self, ino: int) -> None:
        """A region goes when its files have been written."""
        self.owed.append(ino)

    def region_gone(self, ino: int, registration: int, segment: Segment | None, size: int) -> bool:
        """Destroy the region's segment, now or when a test takes it. Registration 0 stands for
        one that did not come to it."""
        assert registration in (0, self.registrations.get(ino))
        self.gone.append(ino)
        if segment is None:
            return True
        if self.reclaim_later:
            self.reclaimable.append((ino, segment))
            return False
        segment.destroy()
        return True

    def take_reclaimable(self) -> Iterator[int]:
        """The regions left to a worker, their segments destroyed by the time they come."""
        while self.reclaimable:
            ino, segment = self.reclaimable.pop(0)
            segment.destroy()
            yield ino


class FakeClock:
    """Nanoseconds that grow by one at each look, so that every change has its own time."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        self.now += 1
        return self.now


class StillClock:
    """Seconds that go by when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeOptions:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, int, bool]] = []

    def text(self) -> str:
        """As mount -o has them."""
        return "size=4096,metrics=off"

    async def change(self, text: bytes, uid: int, *, proven: bool) -> None:
        """EBUSY for one."""
        if text == b"size=1":
            raise Busy("more is in use")
        self.asked.append((text, uid, proven))
