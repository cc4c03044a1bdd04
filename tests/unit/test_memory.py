"""The same checks of memory on the fakes, on POSIX segments and on the arena.

What is checked stands in memory_checks.py. The arena needs a private mount namespace, so
its checks run in a child process; where the system does not allow that they are skipped,
unless mounts are required.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msharefs.linux import syscalls
from msharefs.memory import shared
from msharefs.memory.headroom import KEPT_BACK, Headroom
from msharefs.memory.objects import SharedObjects
from msharefs.memory.segment import PosixSegment
from msharefs.memory.shared import SharedArena
from tests.helpers.fixtures import strict
from tests.unit.support import arena_child, memory_checks
from tests.unit.support.fakes import FakeMemory
from tests.unit.support.memory_checks import (
    HUGE_CHECKS,
    MEMORY_CHECKS,
    PAGE,
    SEGMENT_CHECKS,
    Bench,
    FakeClient,
    KernelClient,
    fails_with,
)

ROOT = Path(__file__).parents[2]
CAPACITY = 32 << 20

Check = Callable[[Bench], None]
ARENA_CHECKS: list[Check] = [
    arena_child.check_what_was_mounted,
    *SEGMENT_CHECKS,
    *MEMORY_CHECKS,
    *HUGE_CHECKS,
    arena_child.check_an_aligned_range_becomes_huge_at_once,
]


def name_of(check: Check) -> str:
    """How a check is called in the list of tests."""
    return check.__name__.removeprefix("check_")


class SystemMemory:
    """POSIX segments on the machine's /dev/shm, for the checks of a single one. There is
    no limit; other users' segments are there, too."""

    capacity = CAPACITY
    huge = "never"

    def __init__(self) -> None:
        self.prefix = f"msharefs-test-{uuid.uuid4().hex}-"
        self.objects = SharedObjects()

    def create(self, ino: int) -> PosixSegment:
        """A segment whose name nobody else uses."""
        name = f"{self.prefix}{ino}"
        self.objects.create(name)
        return PosixSegment(name, self.objects)

    def set_capacity(self, capacity: int) -> None:
        """Nobody asks for it."""
        raise NotImplementedError

    def stored(self) -> dict[int, PosixSegment]:
        """The segments that there are."""
        return {
            int(name.removeprefix(self.prefix)): PosixSegment(name, self.objects)
            for name in self.left()
        }

    def used(self) -> int:
        """Not known."""
        raise NotImplementedError

    def set_limit(self, limit: int) -> None:
        """There is none."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """Names that are still there."""
        return [name for name in os.listdir("/dev/shm") if name.startswith(self.prefix)]


@pytest.fixture
def system_memory() -> Iterator[SystemMemory]:
    """Fails the test if it leaves a name behind."""
    memory = SystemMemory()
    yield memory
    assert memory.left() == []


@pytest.fixture(scope="module")
def arena_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What the child found: the traceback of each check that failed."""
    child = subprocess.run(
        [sys.executable, "-m", arena_child.__name__, tmp_path_factory.mktemp("arena")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if child.returncode == arena_child.EXIT_NOT_ALLOWED and not strict():
        pytest.skip(f"no private mount namespace here: {child.stderr.strip()}")
    assert child.returncode == 0, child.stderr
    results: dict[str, str | None] = json.loads(child.stdout)
    return results


@pytest.mark.parametrize("check", [*SEGMENT_CHECKS, *MEMORY_CHECKS, *HUGE_CHECKS], ids=name_of)
def test_fake_memory(check: Check) -> None:
    """The fake does what the checks say, and holds nothing afterwards."""
    memory = FakeMemory(CAPACITY)
    memory.set_limit(CAPACITY)
    check(Bench(memory, FakeClient()))
    assert memory.used() == 0


@pytest.mark.parametrize("check", SEGMENT_CHECKS, ids=name_of)
def test_posix_segment(check: Check, system_memory: SystemMemory) -> None:
    """A segment on the system's /dev/shm does what the checks say, for any user."""
    check(Bench(system_memory, KernelClient()))


@pytest.mark.parametrize("check", ARENA_CHECKS, ids=name_of)
def test_arena(check: Check, arena_results: dict[str, str | None]) -> None:
    """A segment in the arena, and the arena's limit, do what the checks say."""
    problem = arena_results[check.__name__]
    assert problem is None, problem


@pytest.mark.parametrize("check", SEGMENT_CHECKS, ids=name_of)
def test_shared_arena(check: Check) -> None:
    """An ordinary user's segments do what the checks say, and are counted to the last."""
    arena = SharedArena(CAPACITY, shared.new_prefix())
    check(Bench(arena, KernelClient()))
    assert arena.stored() == {}


def test_a_shared_arena_keeps_its_capacity_by_counting() -> None:
    """The machine's /dev/shm has room, the mount has not: ENOSPC, in a range of which a part
    is there already, too; what was there stays."""
    arena = SharedArena(4 * PAGE, shared.new_prefix())
    bench = Bench(arena, KernelClient())
    with bench.segment(64 * PAGE, ino=8) as one, bench.segment(64 * PAGE, ino=9) as other:
        one.open().reserve(0, 3 * PAGE)
        with fails_with(errno.ENOSPC):
            other.open().reserve(0, 2 * PAGE)
        assert arena.used() <= 4 * PAGE
        other.open().punch(0, 2 * PAGE)
        with fails_with(errno.ENOSPC):
            one.open().reserve(0, 5 * PAGE)
        one.open().punch(3 * PAGE, 2 * PAGE)
        assert (one.allocated(), arena.used()) == (3 * PAGE, 3 * PAGE)
        one.open().reserve(0, 4 * PAGE)
        assert arena.used() == 4 * PAGE
        one.open().punch(0, 4 * PAGE)
        other.open().reserve(0, 4 * PAGE)
    assert arena.used() == 0


def test_a_shared_arena_counts_pages_that_are_written() -> None:
    """However the segment was opened for them."""
    arena = SharedArena(4 * PAGE, shared.new_prefix())
    bench = Bench(arena, KernelClient())
    with bench.segment(64 * PAGE) as segment:
        for number, opened in enumerate((segment.open(), segment.open_for_page()), start=1):
            opened.write(memoryview(b"page"), number * PAGE)
            assert arena.used() == number * PAGE


def test_a_shared_arena_counts_what_it_takes_up() -> None:
    """The segments of an earlier process are in use from the start."""
    prefix = shared.new_prefix()
    earlier = SharedArena(CAPACITY, prefix).create(7)
    earlier.open().set_size(16 * PAGE)
    earlier.open().reserve(0, 3 * PAGE)
    arena = SharedArena(CAPACITY, prefix)
    segment = arena.stored()[7]
    segment.open().reserve(0, 4 * PAGE)
    assert arena.used() == 4 * PAGE
    shared.remove_segments(prefix)
    assert arena.stored() == {}


def test_names_of_a_shared_arena_cannot_be_guessed() -> None:
    """128 bits at random for each mount, and one mount's segments are not another's."""
    prefixes = {shared.new_prefix() for _ in range(100)}
    assert len(prefixes) == 100
    assert {len(prefix) for prefix in prefixes} == {len("msharefs-") + 32 + 1}
    one, other = (SharedArena(CAPACITY, prefix) for prefix in sorted(prefixes)[:2])
    segment = one.create(7)
    assert (list(one.stored()), list(other.stored())) == ([7], [])
    segment.destroy()


def test_a_shared_arena_over_its_capacity_keeps_what_is_there() -> None:
    """A mount that is smaller than the one before: what has memory is reserved again without a
    byte of it being touched, a page more is ENOSPC."""
    prefix = shared.new_prefix()
    earlier = SharedArena(CAPACITY, prefix).create(7)
    earlier.open().set_size(16 * PAGE)
    earlier.open().reserve(0, 6 * PAGE)
    earlier.open().write(memoryview(b"kept"), 5 * PAGE)
    segment = SharedArena(4 * PAGE, prefix).stored()[7]
    try:
        segment.open().reserve(0, 6 * PAGE)
        with fails_with(errno.ENOSPC):
            segment.open().reserve(5 * PAGE, 2 * PAGE)
        kept = bytearray(4)
        segment.open().read_into(memoryview(kept), 5 * PAGE)
        assert (bytes(kept), segment.allocated()) == (b"kept", 6 * PAGE)
    finally:
        segment.destroy()


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EBUSY])
def test_huge_pages_are_tried_again(
    system_memory: SystemMemory, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A page that was locked for a moment is no reason to refuse; one that stays locked is."""
    busy = [code, 0, code, code, code]

    def collapse(fd: int, start: int, size: int, unit: int) -> None:
        number = busy.pop(0)
        if number:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(syscalls, "collapse", collapse)
    segment = system_memory.create(1)
    segment.open().make_huge(0, 2 << 20)
    assert busy == [code, code, code]
    with fails_with(errno.ENOMEM):
        segment.open().make_huge(0, 2 << 20)
    assert busy == []
    segment.destroy()


def test_every_check_of_memory_is_run() -> None:
    """A check that stands in no list would be one that nothing has to pass."""
    written = {name for name in vars(memory_checks) if name.startswith("check_")}
    listed = {check.__name__ for check in [*SEGMENT_CHECKS, *MEMORY_CHECKS, *HUGE_CHECKS]}
    assert listed == written


def test_segments_are_for_their_owner_alone(system_memory: SystemMemory) -> None:
    """Mode 0600, whatever the umask."""
    old = os.umask(0)
    try:
        segment = system_memory.create(1)
    finally:
        os.umask(old)
    assert os.fstat(segment.open().fileno()).st_mode & 0o777 == 0o600
    segment.destroy()


def test_a_segment_whose_name_somebody_removed(system_memory: SystemMemory) -> None:
    """It can be used while it is kept open, and destroyed all the same."""
    segment = system_memory.create(1)
    segment.open().set_size(1 << 20)
    (name,) = system_memory.left()
    os.unlink(f"/dev/shm/{name}")
    segment.open().reserve(0, 4096)
    assert segment.allocated() == 0
    segment.destroy()


def test_a_reservation_beyond_the_machine_is_refused_at_once(system_memory: SystemMemory) -> None:
    """ENOMEM before the kernel starts to swap or to kill, and no page is taken."""
    system_memory.objects.headroom = Headroom(lambda: 100 << 20)
    segment = system_memory.create(1)
    segment.open().set_size(1 << 30)
    with fails_with(errno.ENOMEM):
        segment.open().reserve(0, 128 << 20)
    assert segment.allocated() == 0
    segment.destroy()


def test_small_reservations_are_refused_as_well(system_memory: SystemMemory) -> None:
    """However many there are: what is left is asked for again before it can be used up."""
    left = [KEPT_BACK + (8 << 20)]
    system_memory.objects.headroom = Headroom(lambda: left[0] - segment.allocated())
    segment = system_memory.create(1)
    segment.open().set_size(1 << 30)
    start = 0
    with fails_with(errno.ENOMEM):
        for start in range(0, 64 << 20, 3 * PAGE):
            segment.open().reserve(start, PAGE)
    assert (8 << 20) - 2 * PAGE <= segment.allocated() <= 8 << 20
    # What is there can be reserved again, and what becomes free taken anew.
    segment.open().reserve(start - 3 * PAGE, PAGE)
    segment.open().punch(0, 1 << 20)
    segment.open().reserve(start, PAGE)
    segment.destroy()


def test_a_large_reservation_sees_what_others_take(system_memory: SystemMemory) -> None:
    """It stops where the memory ends that was there when it began, before the kernel kills."""
    looks = iter([1 << 30, 1 << 30, 80 << 20, 30 << 20])
    system_memory.objects.headroom = Headroom(lambda: next(looks))
    segment = system_memory.create(1)
    segment.open().set_size(1 << 30)
    with fails_with(errno.ENOMEM):
        segment.open().reserve(0, 256 << 20)
    assert segment.allocated() == 128 << 20
    segment.destroy()


def test_what_is_punched_is_reserved_again_without_a_look(system_memory: SystemMemory) -> None:
    """To ask the machine takes longer than the reservation; what had no memory frees none."""
    looks = iter([KEPT_BACK + (32 << 20), 0])
    system_memory.objects.headroom = Headroom(lambda: next(looks))
    segment = system_memory.create(1)
    segment.open().set_size(1 << 30)
    for start in range(0, 100 << 20, 1 << 20):
        segment.open().reserve(start, 1 << 20)
        segment.open().punch(start, 1 << 20)
    segment.open().punch(512 << 20, 64 << 20)
    segment.open().reserve(0, 8 << 20)
    with fails_with(errno.ENOMEM):
        segment.open().reserve(8 << 20, PAGE)
    segment.destroy()


@pytest.mark.parametrize("prefix", ["", "msharefs-", "msharefs-other-"])
def test_no_segments_of_others_are_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, prefix: str
) -> None:
    """A torn configuration may name anything."""
    monkeypatch.setattr(shared, "SHM", str(tmp_path))
    stranger = tmp_path / "msharefs-other-7"
    stranger.touch()
    shared.remove_segments(prefix)
    assert stranger.exists()
