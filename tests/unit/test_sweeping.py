"""Going over all regions, some at a time; what a sweep takes is in test_ledger.py."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from msharefs import abi
from msharefs.core import sweeping, tables
from msharefs.core.errors import OutOfMemory
from msharefs.core.inode import ROOT_INO
from msharefs.core.plan import MapPlan
from msharefs.core.region import Region
from msharefs.core.sweeping import Rounds
from tests.unit.support.worlds import PAGE, World, attempt, make_world, refused, segment_of

MANY = 40


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Forty regions, of which eight are looked at in one go; a page is mapped in each, and that is
    all that there is."""
    monkeypatch.setattr(sweeping, "SLICE", 8)
    world = make_world(capacity=MANY * PAGE)
    for number in range(MANY):
        world.map(world.region(b"%d" % number), 0, PAGE)
    return world


@pytest.fixture
def looks(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The regions that were looked at since the world was made."""
    seen: list[int] = []
    given = Rounds.__iter__

    def give(rounds: Rounds) -> Iterator[Region]:
        for region in given(rounds):
            seen.append(region.ino)
            yield region

    monkeypatch.setattr(Rounds, "__iter__", give)
    return seen


def stray(world: World, *numbers: int) -> None:
    """Touch a page in a hole of each of these regions."""
    regions = list(world.tables.regions.values())
    for number in numbers:
        segment_of(regions[number]).pages.add(7)


def test_each_iteration_gives_some(world: World) -> None:
    """Each once in a round, and then it begins anew; what has gone meanwhile is left out."""
    over: list[str] = []
    rounds = Rounds(world.tables.regions, lambda: over.append("over"))
    for _ in range(2):
        seen = [region.ino for _ in range(5) for region in rounds]
        assert sorted(seen) == sorted(world.tables.regions)
        assert not rounds.unfinished
        over.remove("over")
    first = [region.ino for region in rounds]
    assert rounds.unfinished
    gone = next(ino for ino in world.tables.regions if ino not in first)
    del world.tables.regions[gone]
    seen = first + [region.ino for _ in range(4) for region in rounds]
    assert sorted(seen) == sorted(world.tables.regions)
    assert over == ["over"]


def test_few_are_all_given_each_time() -> None:
    """So that a small mount is swept in one go."""
    world = make_world()
    regions = [world.region(b"%d" % number) for number in range(3)]
    over: list[str] = []
    rounds = Rounds(world.tables.regions, lambda: over.append("over"))
    for _ in range(2):
        assert {region.ino for region in rounds} == {region.ino for region in regions}
        assert not rounds.unfinished
    assert over == ["over", "over"]


def test_a_change_looks_at_some_regions_only(world: World, looks: list[int]) -> None:
    """Where more is in use than may be, however many regions there are: three slices at most. The
    limit is what is in use then, so that no hole finds a page."""
    stray(world, 0)
    region = next(reversed(world.tables.regions.values()))
    world.unmap(region, 0, PAGE)
    assert len(looks) == 3 * 8
    assert world.memory.limit == world.memory.used() == MANY * PAGE
    assert world.tables.sweeping
    # The timer's task goes on until all have been looked at.
    while not world.tables.settle() and world.tables.sweeping:
        pass
    assert world.memory.limit == world.memory.used() == (MANY - 1) * PAGE


def test_what_no_look_finds_is_not_looked_for_at_each_change(
    world: World, looks: list[int]
) -> None:
    """Memory of a region that is gone and that a process has attached still. The timer looks again."""
    first, *others = world.tables.regions.values()
    world.memory.held = PAGE
    world.unmap(first, 0, PAGE)
    while not world.tables.settle() and world.tables.sweeping:
        pass
    looks.clear()
    for region in others[:3]:
        world.unmap(region, 0, PAGE)
        assert world.memory.limit == world.memory.used()
    assert looks == []
    world.tables.look_again()
    while not world.tables.settle() and world.tables.sweeping:
        pass
    assert set(looks) == set(world.tables.regions)


def test_memory_that_a_further_look_finds_is_waited_for(world: World) -> None:
    """A charge is refused for now, says that there may be more in a moment, and gets it then."""
    region = next(iter(world.tables.regions.values()))
    world.unmap(region, 0, PAGE)
    stray(world, 0)
    wanted = abi.CreateMapping(PAGE, PAGE, 0, 3, 0x31)
    refusals = 0
    while isinstance(plan := attempt(lambda: world.plan(region, wanted)), OutOfMemory):
        refusals += 1
        assert world.tables.may_come
    assert 1 <= refusals <= 5
    assert isinstance(plan, MapPlan)
    world.manager.mappings.perform(plan)
    with refused(errno.ENOMEM):
        world.plan(region, abi.CreateMapping(2 * PAGE, PAGE, 0, 3, 0x31))
    while world.tables.sweeping:
        with refused(errno.ENOMEM):
            world.plan(region, abi.CreateMapping(2 * PAGE, PAGE, 0, 3, 0x31))
    assert not world.tables.may_come


def with_holes(world: World, count: int) -> Region:
    """A region whose every second page is mapped, with a stray page in each hole."""
    region = world.region(b"holes", 2 * count * PAGE)
    for number in range(count):
        world.map(region, 2 * number * PAGE, PAGE)
    for number in range(count):
        segment_of(region).pages.add(2 * number + 1)
    return region


def test_very_many_holes_of_a_region_are_swept_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are served between them. What is mapped meanwhile stays, and others have their turn."""
    monkeypatch.setattr(sweeping, "HOLES", 3)
    world = make_world(capacity=64 * PAGE, align=PAGE)
    other = world.region(b"other")
    world.map(other, 0, PAGE)
    region = with_holes(world, 8)
    segment_of(other).pages.add(7)
    pages = segment_of(region).pages
    more, steps = True, []
    while more:
        before = len(pages)
        more = world.tables.sweep_some()
        steps.append(before - len(pages))
        if len(steps) == 2:
            # Behind where the sweep has come to, and where it has not been.
            for page in (1, 15):
                world.map(region, page * PAGE, PAGE)
    assert max(steps) <= 3
    assert segment_of(region).pages == {*range(0, 16, 2), 1, 15}
    assert segment_of(other).pages == {0}


def test_a_sweep_in_the_middle_of_a_region_ends_where_it_cannot_be_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It begins anew in the next round."""
    monkeypatch.setattr(sweeping, "HOLES", 3)
    world = make_world(capacity=64 * PAGE, align=PAGE)
    region = with_holes(world, 8)
    assert world.tables.sweep_some()
    world.memory.faults.arm(0, errno.EMFILE)
    assert not world.tables.sweep_some()
    assert world.tables.sweep() == 5 * PAGE
    assert segment_of(region).pages == set(range(0, 16, 2))


def test_many_regions_that_the_kernel_has_still_are_not_all_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before a request is refused; the latest are."""
    monkeypatch.setattr(tables, "ASKED_ABOUT", 4)
    world = make_world(capacity=8 * PAGE, align=PAGE)
    for number in range(9):
        region = world.region(b"%d" % number)
        world.manager.release(None, region.ino)
        world.manager.unlink(None, ROOT_INO, b"%d" % number)
    asked: list[int] = []

    def ask(ino: int) -> bool:
        asked.append(ino)
        return True

    monkeypatch.setattr(world.kernel, "is_known", ask)
    last = world.region(b"last", 16 * PAGE)
    with refused(errno.ENOMEM):
        world.map(last, 0, 9 * PAGE)
    assert asked == list(range(last.ino - 1, last.ino - 5, -1))
