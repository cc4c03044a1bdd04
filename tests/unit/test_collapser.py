"""The work on huge pages beside the changes of regions: who waits for whom, and when it is tried again.

The work is held in its thread, as that of a change in test_control.py.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing

from msharefs import abi
from msharefs.core.collapsing import Step
from msharefs.core.inode import ROOT_INO
from msharefs.core.region import Region
from msharefs.fuse import collapser
from msharefs.fuse.changes import SLOW_WORK, Changes
from msharefs.fuse.collapser import Collapser
from tests.unit.support.planes import FakePlane
from tests.unit.support.worlds import (
    ANONYMOUS,
    MIB,
    READ_WRITE,
    make_world,
    segment_of,
)

HUGE = abi.HUGE_PAGE_SIZE
SIZE = 64 * MIB
SECONDS = 10


class Bench:
    """A mount whose memory is to be huge, and the changes and the work on it."""

    def __init__(self) -> None:
        self.world = make_world(huge="always", capacity=256 * MIB)
        self.book = self.world.tables.collapsing
        self.changes = Changes(self.world.manager, FakePlane())
        self.collapser = Collapser(self.book, self.changes)
        self.held: set[str] = set()
        self.begun: set[str] = set()
        self.failing: list[int] = []
        self._go_on = threading.Event()
        self.world.memory.before = self._step

    def hold(self, step: str) -> None:
        """This step of the memory's work begins, and stops there."""
        self._go_on.clear()
        self.held.add(step)

    def let_go(self) -> None:
        """All steps go on."""
        self.held.clear()
        self._go_on.set()

    def map(self, region: Region, start: int, size: int) -> object:
        """CREATE_MAPPING, as the handler of ioctls makes it."""
        wanted = abi.CreateMapping(start, size, 0, READ_WRITE, ANONYMOUS)
        return self.changes.make(0, region, lambda: self.world.plan(region, wanted), bytes)

    def unmap(self, region: Region, start: int, size: int) -> object:
        """UNMAP."""
        plan_unmap, unwanted = self.world.manager.mappings.plan_unmap, abi.Unmap(start, size)
        return self.changes.make(
            0, region, lambda: plan_unmap(None, region, unwanted, writable=True), bytes
        )

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[trio.Nursery]:
        """The collapser runs, as in a server, and ends as there."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.collapser.run)
            yield nursery
            self.let_go()
            nursery.cancel_scope.cancel()

    def _step(self, step: str, ino: int) -> None:
        self.begun.add(step)
        if step in self.held:
            assert self._go_on.wait(SECONDS)
        if step == "collapse" and self.failing:
            code = self.failing.pop(0)
            raise OSError(code, os.strerror(code))


@pytest.fixture
def bench() -> Bench:
    """Nothing is held and nothing fails."""
    return Bench()


async def until(condition: Callable[[], object]) -> None:
    """What other tasks and threads do takes a moment."""
    with trio.fail_after(SECONDS):
        while not condition():
            await trio.lowlevel.checkpoint()


async def test_what_is_mapped_becomes_huge(bench: Bench) -> None:
    """All of it, and the work ends then."""
    region = bench.world.region(size=SIZE)
    async with bench.at_work():
        bench.map(region, 0, 6 * HUGE)
        await until(lambda: bench.book.size_of(region.ino) == 6 * HUGE)
        await until(lambda: not bench.book.has_work)
    assert segment_of(region).huge == set(range(6))


async def test_other_ranges_of_the_region_do_not_wait(bench: Bench) -> None:
    """A CREATE_MAPPING and an UNMAP beside the range that is worked on are done at once."""
    region = bench.world.region(size=SIZE)
    bench.world.map(region, 0, 4 * HUGE)
    bench.hold("collapse")
    async with bench.at_work():
        await until(lambda: "collapse" in bench.begun)
        assert bench.map(region, 8 * HUGE, HUGE) == b""
        assert bench.unmap(region, 2 * HUGE, HUGE) == b""
        assert region.layout.mapped == 4 * HUGE
        bench.let_go()
        await until(lambda: bench.book.size_of(region.ino) == 4 * HUGE)
    assert segment_of(region).huge == {0, 1, 3, 8}


async def test_a_change_of_the_very_range_waits(bench: Bench) -> None:
    """Else the work would fill the hole that an UNMAP has made."""
    region = bench.world.region(size=SIZE)
    bench.world.map(region, 0, HUGE)
    bench.hold("collapse")
    async with bench.at_work() as nursery:
        await until(lambda: "collapse" in bench.begun)
        answer = bench.unmap(region, 0, 4096)
        assert not isinstance(answer, bytes)
        nursery.start_soon(_answered, answer)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert "punch" not in bench.begun
        bench.let_go()
        await until(lambda: len(segment_of(region).pages) == HUGE // 4096 - 1)
        await until(lambda: region.layout.mapped == HUGE - 4096)
        assert bench.book.size_of(region.ino) == 0


async def test_who_waits_for_the_range_is_given_up(bench: Bench) -> None:
    """The caller was killed: nothing has changed, and others have their turn."""
    region = bench.world.region(size=SIZE)
    bench.world.map(region, 0, HUGE)
    bench.hold("collapse")
    async with bench.at_work() as nursery:
        await until(lambda: "collapse" in bench.begun)
        with trio.move_on_after(0.02) as scope:
            with suppress(Exception):
                await bench.unmap(region, 0, HUGE)  # type: ignore[misc]
        assert scope.cancel_called
        assert region.layout.mapped == HUGE
        nursery.start_soon(_answered, bench.unmap(region, 0, HUGE))
        bench.let_go()
        await until(lambda: region.layout.mapped == 0)


async def test_a_region_that_is_being_changed_comes_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work on others goes on meanwhile."""
    monkeypatch.setattr(collapser, "CHANGING_SECONDS", 0.001)
    region, other = bench.world.region(b"1", size=SIZE), bench.world.region(b"2", size=SIZE)
    bench.world.map(region, 0, 2 * HUGE)
    bench.world.map(other, 0, 2 * HUGE)
    bench.hold("reserve")
    async with bench.at_work() as nursery:
        nursery.start_soon(_answered, bench.map(region, 8 * HUGE, SLOW_WORK))
        await until(lambda: bench.book.size_of(other.ino) == 2 * HUGE)
        assert bench.book.size_of(region.ino) == 0
        bench.let_go()
        await until(lambda: bench.book.size_of(region.ino) == 2 * HUGE + SLOW_WORK)


async def test_what_was_refused_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short, after a pause that grows."""
    monkeypatch.setattr(collapser, "FIRST_RETRY", 0.001)
    region = bench.world.region(size=SIZE)
    bench.failing = [errno.ENOMEM, errno.ENOMEM, errno.EAGAIN, errno.EBUSY]
    async with bench.at_work():
        bench.map(region, 0, 4 * HUGE)
        await until(lambda: bench.book.size_of(region.ino) == 4 * HUGE)
        await until(lambda: not bench.book.has_rest)
    assert (bench.failing, bench.book.obstacle) == ([], None)


async def test_others_are_worked_on_when_what_was_refused_is_gone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is asked again though its refusal has left nothing to be done."""
    monkeypatch.setattr(collapser, "FIRST_RETRY", 0.001)
    gone, other = (bench.world.region(name, size=SIZE) for name in (b"gone", b"other"))
    failed = bench.book.failed

    def fail_and_go(step: Step, code: int) -> None:
        failed(step, code)
        bench.world.manager.unlink(None, ROOT_INO, b"gone")
        bench.world.close(gone)

    monkeypatch.setattr(bench.book, "failed", fail_and_go)
    bench.failing = [errno.ENOMEM]
    async with bench.at_work():
        bench.map(gone, 0, HUGE)
        await until(lambda: gone.ino not in bench.world.tables.regions)
        await trio.testing.wait_all_tasks_blocked(0.02)
        bench.map(other, 0, HUGE)
        await until(lambda: bench.book.size_of(other.ino) == HUGE)
    assert bench.book.obstacle is None


async def test_the_pauses_grow(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without free memory is not asked for it all the time, by new mappings neither."""
    monkeypatch.setattr(collapser, "FIRST_RETRY", 1000.0)
    region = bench.world.region(size=SIZE)
    bench.failing = [errno.ENOMEM]
    async with bench.at_work():
        bench.map(region, 0, HUGE)
        await until(lambda: bench.book.obstacle)
        bench.map(region, HUGE, HUGE)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert bench.book.size_of(region.ino) == 0
        assert bench.book.has_rest


async def test_the_end_of_the_server_waits_for_a_step_alone(bench: Bench) -> None:
    """And for nothing of what is left."""
    region = bench.world.region(size=SIZE)
    bench.world.map(region, 0, 16 * HUGE)
    bench.hold("collapse")
    async with bench.at_work():
        await until(lambda: "collapse" in bench.begun)
    assert bench.book.size_of(region.ino) < 16 * HUGE


def test_a_step_takes_about_as_long_as_it_may() -> None:
    """One huge page at least; more where they are huge already."""
    size = 1
    for _ in range(10):
        size = collapser._next_size(size, 0.0001)
    assert size == collapser.MOST
    for _ in range(10):
        size = collapser._next_size(size, 1.0)
    assert size == 1
    assert collapser._next_size(4, 0.75 * collapser.STEP_SECONDS) == 4


async def _answered(answer: object) -> None:
    if not isinstance(answer, bytes):
        await answer  # type: ignore[misc]
