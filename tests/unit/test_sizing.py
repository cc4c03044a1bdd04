"""Sizes that come with memory: what they become, what is mapped, and what a failure leaves."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from msharefs import abi
from msharefs.core import mapper as mapper_module
from msharefs.core.attributes import AttributeChange
from msharefs.core.errors import RefusedError
from msharefs.core.inode import INFO_INO, ROOT_INO, Automap
from msharefs.core.region import Region
from tests.unit.support.worlds import (
    ALICE,
    MIB,
    PAGE,
    World,
    attempt,
    make_world,
    refused,
    segment_of,
)

UNIT = 4 * PAGE
"""The alignment."""
CAPACITY = 64 * PAGE


@pytest.fixture
def world() -> World:
    """A small mount, on which a region has what is asked for and keeps its size."""
    return make_world(capacity=CAPACITY, align=UNIT, max_region=MIB, automap=Automap.ON)


@pytest.fixture
def region(world: World) -> Region:
    """Of no size."""
    return world.region(size=0)


def shown(region: Region) -> list[tuple[int, int, bool]]:
    """First page, page behind the last and whether it is reserved, of each mapping."""
    return [(m.start // PAGE, m.end // PAGE, m.reserve) for m in region.layout]


def grows(world: World, region: Region) -> None:
    """From now on."""
    world.manager.sizing.set_automap(None, region.ino, Automap.GROW)


# What becomes of a size


@pytest.mark.parametrize(
    ("size", "pages"), [(1, 4), (UNIT, 4), (UNIT + 1, 8), (5 * PAGE + 7, 8), (0, 0)]
)
def test_truncate_maps_all_and_reserves_nothing(
    world: World, region: Region, size: int, pages: int
) -> None:
    """Rounded up to the alignment; 0 leaves it without a size."""
    world.truncate(region, size)
    assert region.size == segment_of(region).size == pages * PAGE
    assert shown(region) == ([(0, pages, False)] if pages else [])
    assert (segment_of(region).pages, world.tables.ledger.reserved) == (set(), 0)


def test_truncate_reserves_where_touches_are_not_seen() -> None:
    """As MAP_NORESERVE does there: memory that was promised is there."""
    world = make_world(align=UNIT, reserve_always=True, automap=Automap.ON)
    region = world.region(size=0)
    world.truncate(region, UNIT)
    assert shown(region) == [(0, 4, True)]
    assert segment_of(region).pages == {0, 1, 2, 3}


def test_fallocate_reserves_all(world: World, region: Region) -> None:
    """The bytes that it is asked for, and those to which the size is rounded up."""
    world.fallocate(region, 0, UNIT + 1)
    assert shown(region) == [(0, 8, True)]
    assert len(segment_of(region).pages) == 8
    assert world.tables.ledger.limit == 8 * PAGE


def test_fallocate_of_a_part_reserves_it_and_keeps_the_bytes(world: World, region: Region) -> None:
    """Of a region that ftruncate has sized."""
    world.truncate(region, 8 * PAGE)
    segment_of(region).reserve(0, 3 * PAGE)
    segment_of(region).poke(2 * PAGE, b"kept")
    world.fallocate(region, 2 * PAGE + 5, PAGE)
    assert shown(region) == [(0, 2, False), (2, 4, True), (4, 8, False)]
    assert segment_of(region).peek(2 * PAGE, 4) == b"kept"
    world.fallocate(region, 0, 8 * PAGE)
    assert shown(region) == [(0, 8, True)]
    assert segment_of(region).peek(2 * PAGE, 4) == b"kept"


def test_fallocate_maps_what_was_unmapped(world: World, region: Region) -> None:
    """It asks for memory, and there is none; ftruncate asks for a size, which is there."""
    world.fallocate(region, 0, 8 * PAGE)
    world.unmap(region, 2 * PAGE, PAGE)
    world.truncate(region, 8 * PAGE)
    assert shown(region) == [(0, 2, True), (3, 8, True)]
    world.fallocate(region, 0, 8 * PAGE)
    assert shown(region) == [(0, 8, True)]


def test_what_was_mapped_by_hand_stays_as_it_is(world: World, region: Region) -> None:
    """Its protection is what somebody has asked for."""
    world.truncate(region, 8 * PAGE)
    world.map(region, 0, PAGE, prot=abi.PROT_READ)
    world.fallocate(region, 0, 8 * PAGE)
    assert [(m.start, m.end, m.prot_text) for m in region.layout] == [
        (0, PAGE, "r--"),
        (PAGE, 8 * PAGE, "rw-"),
    ]


def test_nothing_missing_touches_no_mapping(world: World, region: Region) -> None:
    """However many there are, and whatever lies side by side."""
    world.fallocate(region, 0, 8 * PAGE)
    world.map(region, 2 * PAGE, PAGE)
    before = list(region.layout)
    world.fallocate(region, 0, 8 * PAGE)
    assert list(region.layout) == before
    assert segment_of(region).pages == set(range(8))


def test_very_many_mappings_are_filled_in_parts(
    world: World, region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOSPC for all at once, with nothing changed; a part at a time succeeds."""
    monkeypatch.setattr(mapper_module, "MOST_FILLED", 2)
    world.fallocate(region, 0, 16 * PAGE)
    for page in (3, 7, 11):
        world.unmap(region, page * PAGE, PAGE)
    before = world.snapshot()
    with refused(errno.ENOSPC):
        world.fallocate(region, 0, 16 * PAGE)
    assert world.snapshot() == before
    for page in (3, 7, 11):
        world.fallocate(region, page * PAGE, PAGE)
    assert shown(region) == [(0, 16, True)]


# What it may become


@pytest.mark.parametrize("size", [8 * PAGE, 8 * PAGE - 1, 4 * PAGE + 1])
def test_the_same_size_again_is_success(world: World, region: Region, size: int) -> None:
    """Also in other words for it."""
    world.truncate(region, 8 * PAGE)
    world.truncate(region, size)
    world.fallocate(region, 0, size)
    assert region.size == 8 * PAGE


@pytest.mark.parametrize("automap", [Automap.ON, Automap.GROW])
@pytest.mark.parametrize("size", [0, 1, 4 * PAGE])
def test_no_byte_is_lost(world: World, region: Region, automap: Automap, size: int) -> None:
    """Smaller is refused, whatever the option."""
    world.truncate(region, 8 * PAGE)
    world.manager.sizing.set_automap(None, region.ino, automap)
    before = world.snapshot()
    with refused(errno.EINVAL):
        world.truncate(region, size)
    assert world.snapshot() == before


def test_growth_is_allowed_where_the_option_says(world: World, region: Region) -> None:
    """The bytes stay, what is new is mapped, and it is one mapping where it can be."""
    world.fallocate(region, 0, UNIT)
    segment_of(region).poke(PAGE, b"kept")
    with refused(errno.EINVAL):
        world.truncate(region, UNIT + 1)
    with refused(errno.EINVAL):
        world.fallocate(region, 0, UNIT + 1)
    grows(world, region)
    world.truncate(region, UNIT + 1)
    assert (region.size, shown(region)) == (8 * PAGE, [(0, 4, True), (4, 8, False)])
    world.fallocate(region, 10 * PAGE, PAGE)
    assert (region.size, shown(region)) == (12 * PAGE, [(0, 4, True), (4, 8, False), (8, 12, True)])
    assert segment_of(region).peek(PAGE, 4) == b"kept"


@pytest.mark.parametrize("state", ["unsized", "sized"])
def test_what_is_no_size(world: World, region: Region, state: str) -> None:
    """Negative, too large, or another mode than to allocate."""
    if state == "sized":
        world.truncate(region, UNIT)
        grows(world, region)
    with refused(errno.EINVAL):
        world.truncate(region, -1)
    with refused(errno.EFBIG):
        world.truncate(region, MIB + 1)
    with refused(errno.EFBIG):
        world.fallocate(region, MIB, 1)
    with refused(errno.EOPNOTSUPP):
        world.fallocate(region, 0, PAGE, mode=1)


# Memory that is not there


def test_no_memory_is_no_space(world: World, region: Region) -> None:
    """What callers of fallocate expect. Nothing has changed; a smaller size can be had."""
    before = world.snapshot()
    with refused(errno.ENOSPC):
        world.fallocate(region, 0, CAPACITY + 1)
    assert world.snapshot() == before
    world.fallocate(region, 0, CAPACITY)
    grows(world, region)
    before = world.snapshot()
    with refused(errno.ENOSPC):
        world.fallocate(region, 0, CAPACITY + 1)
    assert world.snapshot() == before


def test_too_many_mappings_are_no_space() -> None:
    """The same word for the same kind of call."""
    world = make_world(align=UNIT, max_mappings=2, automap=Automap.ON)
    region = world.region(size=0)
    world.truncate(region, UNIT)
    with refused(errno.ENOSPC):
        world.fallocate(region, PAGE, PAGE)


CALLS: dict[str, Callable[[World, Region], None]] = {
    "truncate": lambda world, region: world.truncate(region, 2 * UNIT),
    "fallocate": lambda world, region: world.fallocate(region, 0, 2 * UNIT),
}


SAID = {errno.ENOMEM: errno.ENOSPC, errno.EMFILE: errno.ENFILE, errno.EIO: errno.EIO}
"""What the system says, and what is answered."""


@pytest.mark.parametrize("reserve_always", [True, False])
@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_a_step_that_fails_changes_nothing(call: str, *, sized: bool, reserve_always: bool) -> None:
    """Each in turn, with what the system may say."""

    def make() -> tuple[World, Region]:
        world = make_world(align=UNIT, automap=Automap.GROW, reserve_always=reserve_always)
        region = world.region(size=0)
        if sized:
            world.fallocate(region, 0, UNIT)
        world.faults.reset()
        return world, region

    world, region = make()
    CALLS[call](world, region)
    refusals = 0
    for step, code in itertools.product(range(len(world.faults.calls)), SAID):
        world, region = make()
        before = world.snapshot()
        world.faults.arm(step, code)
        outcome = attempt(partial(CALLS[call], world, region))
        if isinstance(outcome, RefusedError):
            refusals += 1
            assert outcome.errno == SAID[code], world.faults.calls[step]
            assert world.snapshot() == before, world.faults.calls[step]
        else:
            assert region.size == 2 * UNIT
    assert refusals >= len(SAID)


# Attributes


def test_truncate_stamps_and_fallocate_does_not(world: World, region: Region) -> None:
    """As without automap; and what came in the same request is changed, too."""
    times = region.mtime_ns, region.ctime_ns
    world.fallocate(region, 0, UNIT)
    assert (region.mtime_ns, region.ctime_ns) == times
    world.manager.setattr(None, region.ino, AttributeChange(mode=0o4755))
    changed = region.ctime_ns
    world.truncate(region, UNIT, uid=7)
    assert region.mtime_ns > times[0]
    assert region.ctime_ns > changed
    assert (region.mode & 0o7777, region.uid) == (0o755, 7)


# Who has it


def test_what_is_made_in_a_directory_begins_with_its_own(world: World) -> None:
    """Regions and directories; those that are there already keep what they have."""
    sizing = world.manager.sizing
    top = world.manager.mkdir(None, ROOT_INO, b"top", 0o700, ALICE)
    before = world.region(b"before", size=0, parent=top.ino)
    sizing.set_automap(None, top.ino, Automap.OFF)
    below = world.manager.mkdir(None, top.ino, b"below", 0o700, ALICE)
    inside = world.region(b"inside", size=0, parent=below.ino)
    assert [sizing.automap(each) for each in (top, before, below, inside)] == [
        Automap.OFF,
        Automap.ON,
        Automap.OFF,
        Automap.OFF,
    ]
    assert sizing.region(inside.ino) is None
    assert sizing.region(before.ino) is before
    sizing.set_automap(None, inside.ino, None)
    assert sizing.region(inside.ino) is inside


def test_only_regions_and_directories_have_it(world: World) -> None:
    """mshare_info has no memory, and a directory no size."""
    with refused(errno.EOPNOTSUPP):
        world.manager.sizing.set_automap(None, INFO_INO, Automap.ON)
    assert world.manager.sizing.region(INFO_INO) is None
    assert world.manager.sizing.region(ROOT_INO) is None
    with refused(errno.ENOENT):
        world.manager.sizing.set_automap(None, 77, Automap.ON)


def test_the_mounts_option_is_what_it_is_now(world: World, region: Region) -> None:
    """It may change while a region is without a size."""
    limits = replace(world.manager.limits, automap=Automap.OFF)
    world.limit(limits, CAPACITY)
    assert world.manager.sizing.region(region.ino) is None
