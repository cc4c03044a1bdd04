"""What every implementation of core's Memory and Segment must do, as plain functions.

`test_memory.py` runs them on the in-memory fakes, on POSIX segments of the system's
/dev/shm, and on the arena: so the fakes are proved, and the rest of the tests may trust
them. A check raises AssertionError, and leaves nothing in the memory that it was given.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest

from msharefs.core.ports import Memory, Segment
from tests.unit.support.fakes import FakeSegment

PAGE = 4096
HUGE = 2 << 20


class Client(Protocol):
    """How a check stands in for a process that has a segment mapped."""

    def read(self, segment: Segment, start: int, size: int) -> bytes:
        """The bytes there; zeros where there is no memory."""

    def write(self, segment: Segment, start: int, data: bytes) -> None:
        """Store bytes; pages appear. OSError(ENOSPC) over the limit."""


class FakeClient:
    """Reaches into the fake."""

    def read(self, segment: Segment, start: int, size: int) -> bytes:
        """From the fake's pages."""
        assert isinstance(segment, FakeSegment)
        return segment.peek(start, size)

    def write(self, segment: Segment, start: int, data: bytes) -> None:
        """To the fake's pages."""
        assert isinstance(segment, FakeSegment)
        segment.poke(start, data)


class KernelClient:
    """Reads and writes the segment's descriptor, as a touch of a mapping would."""

    def read(self, segment: Segment, start: int, size: int) -> bytes:
        """pread(2); it adds no page to a tmpfs file."""
        opened = segment.open()
        return os.pread(opened.fileno(), size, start)

    def write(self, segment: Segment, start: int, data: bytes) -> None:
        """pwrite(2)."""
        opened = segment.open()
        assert os.pwrite(opened.fileno(), data, start) == len(data)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where the checks run."""

    memory: Memory
    client: Client

    @contextmanager
    def segment(self, size: int = 0, ino: int = 7) -> Iterator[Segment]:
        """A segment that is gone afterwards."""
        segment = self.memory.create(ino)
        try:
            if size:
                segment.open().set_size(size)
            yield segment
        finally:
            segment.destroy()


@contextmanager
def fails_with(code: int) -> Iterator[None]:
    """The body must raise OSError with exactly this errno."""
    with pytest.raises(OSError, check=lambda error: error.errno == code):
        yield


# A single segment


def check_a_new_segment_is_empty(bench: Bench) -> None:
    """Size 0, no memory, and it can be opened."""
    with bench.segment() as segment:
        assert segment.allocated() == 0
        assert segment.open().fileno() >= 0


def check_size_costs_nothing(bench: Bench) -> None:
    """A large segment is sparse."""
    with bench.segment(1 << 40) as segment:
        assert segment.allocated() == 0


def check_reserve_gives_every_page_of_the_range(bench: Bench) -> None:
    """Exactly the range, and it reads as zeros."""
    with bench.segment(64 * PAGE) as segment:
        segment.open().reserve(3 * PAGE, 5 * PAGE)
        assert segment.allocated() == 5 * PAGE
        assert bench.client.read(segment, 0, 16 * PAGE) == bytes(16 * PAGE)


def check_reserve_keeps_what_is_there(bench: Bench) -> None:
    """Pages that have memory keep their contents and are not counted twice."""
    with bench.segment(64 * PAGE) as segment:
        segment.open().reserve(2 * PAGE, PAGE)
        bench.client.write(segment, 2 * PAGE, b"kept")
        segment.open().reserve(0, 4 * PAGE)
        assert bench.client.read(segment, 2 * PAGE, 4) == b"kept"
        assert segment.allocated() == 4 * PAGE


def check_punch_takes_exactly_the_range(bench: Bench) -> None:
    """Memory and contents of the range are gone, those beside it stay."""
    with bench.segment(64 * PAGE) as segment:
        segment.open().reserve(0, 8 * PAGE)
        for page in range(8):
            bench.client.write(segment, page * PAGE, b"full")
        segment.open().punch(2 * PAGE, 3 * PAGE)
        assert segment.allocated() == 5 * PAGE
        contents = [bench.client.read(segment, page * PAGE, 4) for page in range(8)]
        assert contents == [b"full"] * 2 + [bytes(4)] * 3 + [b"full"] * 3


def check_punch_of_nothing_is_harmless(bench: Bench) -> None:
    """A hole may be punched, also one much larger than what the segment holds."""
    with bench.segment(1 << 40) as segment:
        segment.open().reserve(0, PAGE)
        segment.open().punch(PAGE, (1 << 40) - PAGE)
        assert segment.allocated() == PAGE


def check_a_punched_range_can_be_reserved_again(bench: Bench) -> None:
    """It starts with zeros."""
    with bench.segment(16 * PAGE) as segment:
        segment.open().reserve(0, 4 * PAGE)
        bench.client.write(segment, PAGE, b"old")
        segment.open().punch(0, 4 * PAGE)
        segment.open().reserve(0, 4 * PAGE)
        assert bench.client.read(segment, PAGE, 3) == bytes(3)
        assert segment.allocated() == 4 * PAGE


def check_zero_clears_and_keeps_the_pages(bench: Bench) -> None:
    """Zeros in the range, contents beside it, and the same memory as before."""
    with bench.segment(16 * PAGE) as segment:
        segment.open().reserve(0, 4 * PAGE)
        bench.client.write(segment, 0, b"x" * 4 * PAGE)
        segment.open().zero(PAGE, 2 * PAGE)
        assert segment.allocated() == 4 * PAGE
        expected = b"x" * PAGE + bytes(2 * PAGE) + b"x" * PAGE
        assert bench.client.read(segment, 0, 4 * PAGE) == expected


def check_zero_clears_a_range_larger_than_one_write(bench: Bench) -> None:
    """Several MiB with an odd rest."""
    size = 3 * HUGE + PAGE
    with bench.segment(4 * HUGE) as segment:
        segment.open().reserve(0, 4 * HUGE)
        for at in (0, HUGE, size - 1, size):
            bench.client.write(segment, at, b"x")
        segment.open().zero(0, size)
        assert bench.client.read(segment, 0, size + 1) == bytes(size) + b"x"


def check_a_touch_adds_its_page(bench: Bench) -> None:
    """What a client writes to a hole is counted."""
    with bench.segment(16 * PAGE) as segment:
        bench.client.write(segment, 5 * PAGE - 2, b"over")
        assert segment.allocated() == 2 * PAGE
        assert bench.client.read(segment, 5 * PAGE - 2, 4) == b"over"


def check_a_number_is_taken_until_destroyed(bench: Bench) -> None:
    """EEXIST for a second segment of the same number; afterwards it is free again."""
    with bench.segment(), fails_with(errno.EEXIST):
        bench.memory.create(7)
    with bench.segment() as segment:
        assert segment.allocated() == 0


def check_what_is_open_stays_open(bench: Bench) -> None:
    """Whoever uses it does so to the end, also when it is destroyed meanwhile; a late one
    finds nothing, and no other file."""
    with bench.segment(16 * PAGE) as segment:
        opened = segment.open()
    opened.reserve(0, 2 * PAGE)
    assert opened.allocated() == 2 * PAGE
    opened.punch(0, 2 * PAGE)
    with fails_with(errno.ENOENT):
        segment.open()


def check_segments_are_apart(bench: Bench) -> None:
    """The contents of one number are not those of another."""
    with bench.segment(PAGE, ino=8) as one, bench.segment(PAGE, ino=9) as other:
        bench.client.write(one, 0, b"one")
        bench.client.write(other, 0, b"two")
        assert bench.client.read(one, 0, 3) == b"one"


def check_bytes_go_in_and_out(bench: Bench) -> None:
    """What a data plane that is the pager copies, across pages and at odd places."""
    with bench.segment(16 * PAGE) as segment:
        segment.open().reserve(0, 4 * PAGE)
        segment.open().write(memoryview(b"ab" * PAGE), PAGE - 1)
        buffer = bytearray(b"?" * (2 * PAGE + 2))
        segment.open().read_into(memoryview(buffer), PAGE - 2)
        assert bytes(buffer) == b"\0" + b"ab" * PAGE + b"\0"
        assert segment.allocated() == 4 * PAGE


def check_a_window_shows_the_bytes_themselves(bench: Bench) -> None:
    """What a data plane that is the pager hands on without a copy: whole pages, to be read,
    also after the segment is gone."""
    segment = bench.memory.create(7)
    segment.open().set_size(16 * PAGE)
    segment.open().reserve(PAGE, 2 * PAGE)
    segment.open().write(memoryview(b"shown"), 2 * PAGE)
    window = segment.open().window(PAGE, 2 * PAGE)
    segment.destroy()
    assert bytes(window) == bytes(PAGE) + b"shown" + bytes(PAGE - 5)
    assert window.readonly


def check_a_segment_can_be_taken_up(bench: Bench) -> None:
    """By a process that comes later: the same bytes; it may destroy it."""
    segment = bench.memory.create(7)
    segment.open().set_size(16 * PAGE)
    segment.open().reserve(0, 2 * PAGE)
    bench.client.write(segment, PAGE, b"kept")
    later = bench.memory.stored()[7]
    assert bench.client.read(later, 0, PAGE + 4) == bytes(PAGE) + b"kept"
    assert later.allocated() == 2 * PAGE
    later.destroy()
    assert 7 not in bench.memory.stored()


def check_stored_segments_are_listed(bench: Bench) -> None:
    """By their numbers, until they are destroyed."""
    assert list(bench.memory.stored()) == []
    with bench.segment(ino=8):
        bench.memory.create(9)
        assert sorted(bench.memory.stored()) == [8, 9]
        bench.memory.stored()[9].destroy()
        assert list(bench.memory.stored()) == [8]
    assert list(bench.memory.stored()) == []


SEGMENT_CHECKS: list[Callable[[Bench], None]] = [
    check_a_new_segment_is_empty,
    check_size_costs_nothing,
    check_reserve_gives_every_page_of_the_range,
    check_reserve_keeps_what_is_there,
    check_punch_takes_exactly_the_range,
    check_punch_of_nothing_is_harmless,
    check_a_punched_range_can_be_reserved_again,
    check_zero_clears_and_keeps_the_pages,
    check_zero_clears_a_range_larger_than_one_write,
    check_a_touch_adds_its_page,
    check_a_number_is_taken_until_destroyed,
    check_what_is_open_stays_open,
    check_segments_are_apart,
    check_bytes_go_in_and_out,
    check_a_window_shows_the_bytes_themselves,
    check_a_segment_can_be_taken_up,
    check_stored_segments_are_listed,
]
"""They need no limit; the memory must allow 16 MiB."""


# The limit


def check_used_is_the_sum_of_the_segments(bench: Bench) -> None:
    """Reserved, touched, and back to nothing once all are destroyed."""
    bench.memory.set_limit(16 * PAGE)
    assert bench.memory.used() == 0
    with bench.segment(8 * PAGE, ino=8) as one, bench.segment(8 * PAGE, ino=9) as other:
        one.open().reserve(0, 3 * PAGE)
        bench.client.write(other, 0, b"x")
        assert bench.memory.used() == 4 * PAGE
        one.open().punch(0, 2 * PAGE)
        assert bench.memory.used() == 2 * PAGE
    assert bench.memory.used() == 0


def check_the_limit_is_exact(bench: Bench) -> None:
    """The last page within the limit can be had, the next cannot: ENOSPC."""
    bench.memory.set_limit(4 * PAGE)
    with bench.segment(64 * PAGE) as segment:
        segment.open().reserve(0, 4 * PAGE)
        with fails_with(errno.ENOSPC):
            segment.open().reserve(8 * PAGE, PAGE)
        assert segment.allocated() == 4 * PAGE


def check_a_limit_of_0_allows_nothing(bench: Bench) -> None:
    """0 is no memory; it does not mean "unlimited"."""
    bench.memory.set_limit(0)
    with bench.segment(PAGE) as segment, fails_with(errno.ENOSPC):
        segment.open().reserve(0, PAGE)
    assert bench.memory.used() == 0


def check_a_reservation_over_the_limit_keeps_what_was_there(bench: Bench) -> None:
    """It may leave a part of the range with memory, but takes none away, touched or not."""
    bench.memory.set_limit(4 * HUGE)
    with bench.segment(16 * HUGE, ino=8) as other, bench.segment(16 * HUGE) as segment:
        other.open().reserve(0, HUGE)
        segment.open().reserve(HUGE, 2 * HUGE)
        bench.client.write(segment, 2 * HUGE, b"kept")
        with fails_with(errno.ENOSPC):
            segment.open().reserve(0, 4 * HUGE)
        assert bench.memory.used() <= 4 * HUGE
        assert bench.client.read(segment, 0, 2 * HUGE + 4) == bytes(2 * HUGE) + b"kept"
        segment.open().punch(0, HUGE)
        segment.open().punch(3 * HUGE, HUGE)
        assert segment.allocated() == 2 * HUGE


def check_a_touch_over_the_limit_fails(bench: Bench) -> None:
    """No page for a hole once the limit is reached (SIGBUS for a real client)."""
    bench.memory.set_limit(2 * PAGE)
    with bench.segment(64 * PAGE) as segment:
        segment.open().reserve(0, 2 * PAGE)
        with fails_with(errno.ENOSPC):
            bench.client.write(segment, 9 * PAGE, b"x")
        assert segment.allocated() == 2 * PAGE


def check_a_raised_limit_is_used(bench: Bench) -> None:
    """What failed before is then there."""
    bench.memory.set_limit(PAGE)
    with bench.segment(64 * PAGE) as segment:
        with fails_with(errno.ENOSPC):
            segment.open().reserve(0, 2 * PAGE)
        bench.memory.set_limit(2 * PAGE)
        segment.open().reserve(0, 2 * PAGE)
        assert segment.allocated() == 2 * PAGE


def check_a_limit_below_what_is_used_is_refused(bench: Bench) -> None:
    """EINVAL, and the old limit stands."""
    bench.memory.set_limit(4 * PAGE)
    with bench.segment(64 * PAGE) as segment:
        segment.open().reserve(0, 3 * PAGE)
        with fails_with(errno.EINVAL):
            bench.memory.set_limit(2 * PAGE)
        segment.open().reserve(3 * PAGE, PAGE)
        with fails_with(errno.ENOSPC):
            segment.open().reserve(4 * PAGE, PAGE)


MEMORY_CHECKS: list[Callable[[Bench], None]] = [
    check_used_is_the_sum_of_the_segments,
    check_the_limit_is_exact,
    check_a_limit_of_0_allows_nothing,
    check_a_reservation_over_the_limit_keeps_what_was_there,
    check_a_touch_over_the_limit_fails,
    check_a_raised_limit_is_used,
    check_a_limit_below_what_is_used_is_refused,
]
"""They need a memory that is theirs alone."""


def check_huge_pages_keep_the_contents(bench: Bench) -> None:
    """A reserved range becomes huge, its contents and its size in memory stay."""
    with bench.segment(4 * HUGE) as segment:
        segment.open().reserve(HUGE, 2 * HUGE)
        bench.client.write(segment, 2 * HUGE + 5, b"kept")
        segment.open().make_huge(HUGE, 2 * HUGE)
        assert segment.allocated() == 2 * HUGE
        assert bench.client.read(segment, 2 * HUGE + 5, 4) == b"kept"


HUGE_CHECKS: list[Callable[[Bench], None]] = [check_huge_pages_keep_the_contents]
"""They need a kernel that collapses shared memory into huge pages."""
