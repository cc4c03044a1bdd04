"""Other limits on a mount in use: more at once, less only where it is not in use, all or none."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from msharefs.core import manager, sweeping
from msharefs.core.inode import ROOT_INO
from msharefs.core.mapper import Limits
from msharefs.core.region import Region
from tests.unit.support.worlds import ALICE, ALIGN, PAGE, World, make_world, refused, segment_of

CAPACITY = 8 * PAGE


@pytest.fixture
def world() -> World:
    """Eight pages, ten inodes."""
    return make_world(capacity=CAPACITY, max_region=2 * ALIGN, max_mappings=2, nr_inodes=10)


@pytest.fixture
def region(world: World) -> Region:
    """Of the largest size, with as many mappings as there may be, of two pages each."""
    made = world.region(b"r", 2 * ALIGN)
    for page in (0, 4):
        world.map(made, page * PAGE, 2 * PAGE)
    return made


def state(world: World) -> tuple[Limits, int, int, int]:
    """All that limits something."""
    return (
        world.manager.limits,
        world.tables.names.nr_inodes,
        world.tables.ledger.capacity,
        world.memory.limit,
    )


def test_more_at_once(world: World, region: Region) -> None:
    """What was refused before is not any more."""
    with refused(errno.ENOMEM):
        world.map(region, 8 * PAGE, PAGE)
    with refused(errno.EFBIG):
        world.region(b"larger", 4 * ALIGN)
    limits = replace(world.manager.limits, max_mappings=3, max_region=4 * ALIGN, nr_inodes=11)
    world.limit(limits, 16 * PAGE)
    world.map(region, 8 * PAGE, 10 * PAGE)
    world.region(b"larger still", 4 * ALIGN)
    assert state(world) == (limits, 11, 16 * PAGE, 14 * PAGE)


def test_less_down_to_what_is_in_use(world: World, region: Region) -> None:
    """To the page, the byte, the mapping and the inode; below that EBUSY and nothing changes."""
    world.close(world.region(b"another", ALIGN))
    limits = world.manager.limits
    in_use = len(world.tables.names)
    lowest = replace(limits, max_region=2 * ALIGN, max_mappings=2, nr_inodes=in_use)
    world.limit(lowest, 4 * PAGE)
    before = state(world)
    for busy, capacity in (
        (replace(lowest, max_region=2 * ALIGN - 1), 4 * PAGE),
        (replace(lowest, max_mappings=1), 4 * PAGE),
        (replace(lowest, nr_inodes=in_use - 1), 4 * PAGE),
        (lowest, 3 * PAGE),
        (replace(lowest, max_region=4 * ALIGN, nr_inodes=100), 3 * PAGE),
    ):
        with refused(errno.EBUSY):
            world.limit(busy, capacity)
        assert state(world) == before
    with refused(errno.ENOMEM):
        world.map(region, 20 * PAGE, PAGE)
    with refused(errno.ENOSPC):
        world.region(b"one too many")


def test_pages_of_holes_are_not_in_use(world: World, region: Region) -> None:
    """They are taken back before a limit is refused."""
    segment_of(region).pages.add(7)
    assert world.memory.used() == 5 * PAGE
    world.limit(world.manager.limits, 4 * PAGE)
    assert world.memory.used() == 4 * PAGE


def test_what_is_over_a_limit_already_stands_in_no_other_limits_way(world: World) -> None:
    """A mount that was made again with less than there was."""
    for number in range(3):
        world.region(b"%d" % number, ALIGN)
    world.limit(world.manager.limits, CAPACITY)
    world.manager.mappings.limits = replace(
        world.manager.limits, nr_inodes=2, max_region=PAGE, max_mappings=0
    )
    world.memory.set_capacity(0)
    world.limit(replace(world.manager.limits, max_mappings=9), CAPACITY)
    assert world.manager.limits.max_mappings == 9


def many(world: World, count: int) -> list[Region]:
    """Regions with one mapping each, and then a page in a hole."""
    made = [world.region(b"many-%d" % number, ALIGN) for number in range(count)]
    for region in made:
        world.map(region, 0, PAGE)
    for region in made:
        segment_of(region).pages.add(7)
    return made


@pytest.mark.parametrize("name", ["size", "max_region", "max_mappings"])
def test_others_are_served_between_two_looks(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """However many regions there are, no step looks at more than some of them."""
    monkeypatch.setattr(manager, "CHECKED_AT_ONCE", 3)
    monkeypatch.setattr(sweeping, "SLICE", 3)
    world.limit(replace(world.manager.limits, nr_inodes=100), 64 * PAGE)
    regions = many(world, 10)
    limits = world.manager.limits
    steps = {
        "size": world.manager.change_limits(limits, 10 * PAGE),
        "max_region": world.manager.change_limits(replace(limits, max_region=ALIGN), 64 * PAGE),
        "max_mappings": world.manager.change_limits(replace(limits, max_mappings=1), 64 * PAGE),
    }[name]
    count = 0
    for count, _ in enumerate(steps, 1):
        assert sum(7 not in segment_of(region).pages for region in regions) <= 3 * count
        # Somebody else has something done.
        world.manager.mkdir(None, ROOT_INO, b"%d" % count, 0o700, ALICE)
    assert count == -(-10 // 3)


def test_a_lower_limit_holds_while_regions_are_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was looked at already must not grow beyond it before the last step; and where the limit
    is refused, it may again."""
    monkeypatch.setattr(manager, "CHECKED_AT_ONCE", 1)
    world.limit(replace(world.manager.limits, max_mappings=3, nr_inodes=100), 64 * PAGE)
    small, large = world.region(b"small", ALIGN), world.region(b"large", ALIGN)
    for place in range(2):
        world.map(large, 2 * place * PAGE, PAGE)
    limits = world.manager.limits
    steps = world.manager.change_limits(replace(limits, max_mappings=1), 64 * PAGE)
    next(steps)
    world.map(small, 0, PAGE)
    with refused(errno.ENOMEM):
        world.map(small, 2 * PAGE, PAGE)
    with refused(errno.EBUSY):
        for _ in steps:
            pass
    assert world.manager.limits == limits
    world.map(small, 2 * PAGE, PAGE)


def test_a_change_that_is_given_up_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount may end in the middle, or its caller."""
    monkeypatch.setattr(manager, "CHECKED_AT_ONCE", 1)
    many(world, 2)
    before = state(world)
    steps = world.manager.change_limits(replace(world.manager.limits, max_mappings=1), 64 * PAGE)
    next(steps)
    steps.close()
    assert state(world) == before
