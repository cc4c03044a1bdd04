"""RegionManager: mapping and unmapping, and what is left where a step of it fails.

Each operation is run once to see which of its steps may fail; then each step is made to
fail, with each errno, and the operation must have done everything or nothing.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from msharefs import abi
from msharefs.abi import CreateMapping
from msharefs.core.errors import OutOfMemory, RefusedError
from msharefs.core.inode import INFO_INO, ROOT_INO
from msharefs.core.layout import Mapping
from msharefs.core.region import Region
from tests.unit.support.worlds import (
    ANONYMOUS,
    MIB,
    PAGE,
    READ_WRITE,
    World,
    attempt,
    make_world,
    refused,
    segment_of,
)

HUGE = 2 * MIB
SIZE = 16 * MIB


@pytest.fixture
def world() -> World:
    """A mount of 64 MiB."""
    return make_world()


def ranges(region: Region) -> list[tuple[int, int]]:
    """First page and page behind the last of each mapping."""
    return [(m.start // PAGE, m.end // PAGE) for m in region.layout]


# What success means


def test_a_mapping_has_its_memory(world: World) -> None:
    """Reserved at once, counted everywhere, and told to the kernel."""
    region = world.region(size=SIZE)
    world.map(region, PAGE, 3 * PAGE)
    assert ranges(region) == [(1, 4)]
    assert segment_of(region).pages == {1, 2, 3}
    assert (world.memory.limit, world.manager.tables.ledger.reserved) == (3 * PAGE, 3 * PAGE)
    assert (region.maps, region.unmaps, region.blocks) == (1, 0, 24)
    assert world.kernel.changed[-1] == region.ino


def test_a_hole_cannot_be_touched(world: World) -> None:
    """No page is free beside those that are promised."""
    region = world.region(size=SIZE)
    world.map(region, 0, 2 * PAGE)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        segment_of(region).poke(4 * PAGE, b"x")


def test_an_unmapped_range_gives_its_memory_back(world: World) -> None:
    """At once; a mapping that is cut keeps both ends and their contents."""
    region = world.region(size=SIZE)
    world.map(region, 0, 8 * PAGE)
    for page in range(8):
        segment_of(region).poke(page * PAGE, b"%d" % page)
    world.unmap(region, 2 * PAGE, 3 * PAGE)
    assert ranges(region) == [(0, 2), (5, 8)]
    assert segment_of(region).pages == {0, 1, 5, 6, 7}
    assert (world.memory.limit, region.unmaps) == (5 * PAGE, 1)
    assert segment_of(region).peek(7 * PAGE, 1) == b"7"


def test_unmapping_nothing_succeeds(world: World) -> None:
    """0 where nothing is mapped, and it counts."""
    region = world.region(size=SIZE)
    world.unmap(region, 0, SIZE)
    assert (ranges(region), region.unmaps) == ([], 1)


def test_unmapping_several_mappings(world: World) -> None:
    """All that is in the range, and the parts of those at its ends."""
    region = world.region(size=SIZE)
    for page in (0, 4, 8):
        world.map(region, page * PAGE, 3 * PAGE)
    world.unmap(region, PAGE, 8 * PAGE)
    assert ranges(region) == [(0, 1), (9, 11)]


def test_an_overlap_replaces_and_starts_with_zeros(world: World) -> None:
    """The overlapped part alone; what is beside it keeps its contents."""
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE)
    segment_of(region).poke(0, b"x" * 4 * PAGE)
    world.map(region, 2 * PAGE, 4 * PAGE, prot=abi.PROT_READ)
    assert ranges(region) == [(0, 2), (2, 6)]
    assert segment_of(region).peek(0, 6 * PAGE) == b"x" * 2 * PAGE + bytes(4 * PAGE)
    assert (world.memory.used(), world.manager.tables.ledger.reserved) == (6 * PAGE, 6 * PAGE)


def test_replacing_needs_no_further_memory(world: World) -> None:
    """A full mount can map anew what is mapped."""
    world = make_world(capacity=4 * PAGE)
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE)
    world.map(region, PAGE, 2 * PAGE)
    assert ranges(region) == [(0, 1), (1, 3), (3, 4)]


def test_noreserve_takes_pages_at_first_touch(world: World) -> None:
    """No memory, but room for it; unmapped, what was touched is free again."""
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE, flags=abi.MAP_NORESERVE)
    assert (world.memory.used(), world.memory.limit, region.blocks) == (0, 4 * PAGE, 0)
    segment_of(region).poke(PAGE, b"x")
    assert (world.memory.used(), region.blocks) == (PAGE, 8)
    world.unmap(region, 0, 4 * PAGE)
    assert (world.memory.used(), world.memory.limit) == (0, 0)


def test_noreserve_that_is_reserved_all_the_same() -> None:
    """Where first touches are not seen: no page is free for others, and ENOMEM beyond."""
    world = make_world(capacity=8 * PAGE, reserve_always=True)
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE, flags=abi.MAP_NORESERVE)
    assert (world.memory.used(), world.memory.limit, region.blocks) == (4 * PAGE, 4 * PAGE, 32)
    assert [mapping.reserve for mapping in region.layout] == [True]
    with refused(errno.ENOMEM):
        world.map(region, 4 * PAGE, 8 * PAGE, flags=abi.MAP_NORESERVE)


def test_noreserve_over_reserved_memory_gives_it_back(world: World) -> None:
    """And reads as zeros."""
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE)
    segment_of(region).poke(PAGE, b"x")
    world.map(region, 0, 4 * PAGE, flags=abi.MAP_NORESERVE)
    assert (world.memory.used(), segment_of(region).peek(PAGE, 1)) == (0, b"\0")


def test_reserving_over_noreserve(world: World) -> None:
    """All pages are there afterwards, zeros in those that were touched."""
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE, flags=abi.MAP_NORESERVE)
    segment_of(region).poke(PAGE, b"x")
    world.map(region, 0, 8 * PAGE)
    assert (world.memory.used(), world.memory.limit) == (8 * PAGE, 8 * PAGE)
    assert segment_of(region).peek(0, 8 * PAGE) == bytes(8 * PAGE)


def test_huge_pages(world: World) -> None:
    """A range in huge pages, its size rounded up."""
    region = world.region(size=SIZE)
    world.map(region, HUGE, HUGE + 1, flags=abi.MAP_HUGETLB)
    assert list(region.layout) == [Mapping(HUGE, 3 * HUGE, READ_WRITE, huge=True)]
    assert segment_of(region).huge == {1, 2}


def test_a_page_touched_before_it_is_mapped_reads_as_zeros(world: World) -> None:
    """While another mapping's budget was free somebody wrote into a hole."""
    region = world.region(size=SIZE)
    world.map(region, 8 * PAGE, 4 * PAGE, flags=abi.MAP_NORESERVE)
    segment_of(region).poke(0, b"stray")
    world.map(region, 0, 2 * PAGE)
    assert segment_of(region).peek(0, 5) == bytes(5)


# Refusals


def test_noreplace_changes_nothing(world: World) -> None:
    """EEXIST, contents and counters as before."""
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE)
    segment_of(region).poke(0, b"kept")
    before = world.snapshot()
    with refused(errno.EEXIST):
        world.map(region, 3 * PAGE, PAGE, flags=abi.MAP_FIXED_NOREPLACE)
    assert world.snapshot() == before


def test_a_read_only_descriptor_cannot_map(world: World) -> None:
    """EACCES, before the arguments or the size are looked at."""
    region, unsized = world.region(size=SIZE), world.region(b"unsized", size=0)
    before = world.snapshot()
    for each in (region, unsized):
        for start in (0, 1):
            with refused(errno.EACCES):
                world.map(each, start, PAGE, writable=False)
            with refused(errno.EACCES):
                world.unmap(each, start, PAGE, writable=False)
    assert world.snapshot() == before


@pytest.mark.parametrize("ino", [ROOT_INO, INFO_INO])
def test_only_regions_have_ioctls(world: World, ino: int) -> None:
    """ENOTTY, before anything else."""
    with refused(errno.ENOTTY):
        world.manager.mappings.ioctl_region(ino)


def test_a_region_without_a_size_maps_nothing(world: World) -> None:
    """EINVAL."""
    region = world.region(size=0)
    before = world.snapshot()
    with refused(errno.EINVAL):
        world.map(region, 0, PAGE)
    with refused(errno.EINVAL):
        world.unmap(region, 0, PAGE)
    assert world.snapshot() == before


def test_the_mounts_size_is_the_limit(world: World) -> None:
    """ENOMEM for one page more than there is, in whichever region; all of it can be had."""
    world = make_world(capacity=8 * PAGE)
    one, other = world.region(b"one", size=SIZE), world.region(b"other", size=SIZE)
    world.map(one, 0, 5 * PAGE)
    before = world.snapshot()
    for size in (4 * PAGE, 1 * MIB, SIZE):
        with refused(errno.ENOMEM):
            world.map(other, 0, size)
    assert world.snapshot() == before
    world.map(other, 0, 3 * PAGE)
    with refused(errno.ENOMEM):
        world.map(one, 5 * PAGE, 1)
    world.unmap(one, 0, PAGE)
    world.map(other, 8 * PAGE, PAGE)


def test_max_mappings(world: World) -> None:
    """ENOMEM for one too many, by adding or by splitting, until one is gone."""
    world = make_world(max_mappings=3)
    region = world.region(size=SIZE)
    for page in (0, 2, 4):
        world.map(region, page * PAGE, PAGE)
    before = world.snapshot()
    with refused(errno.ENOMEM):
        world.map(region, 6 * PAGE, PAGE)
    assert world.snapshot() == before
    world.map(region, 4 * PAGE, 8 * PAGE)
    before = world.snapshot()
    with refused(errno.ENOMEM):
        world.unmap(region, 6 * PAGE, PAGE)
    with refused(errno.ENOMEM):
        world.map(region, 6 * PAGE, PAGE)
    assert world.snapshot() == before
    world.unmap(region, 0, PAGE)
    world.unmap(region, 6 * PAGE, PAGE)
    assert ranges(region) == [(2, 3), (4, 6), (7, 12)]


def test_max_mappings_never_hinders_unmapping_all(world: World) -> None:
    """Also where there are more than the mount allows now."""
    world = make_world(max_mappings=1)
    region = world.region(size=SIZE)
    world.map(region, 0, 4 * PAGE)
    world.unmap(region, 0, PAGE)
    world.unmap(region, 3 * PAGE, PAGE)
    assert ranges(region) == [(1, 3)]
    world.unmap(region, 0, SIZE)
    assert ranges(region) == []


# Every step may fail


@dataclass(frozen=True, slots=True)
class Scenario:
    """An operation on a world that `prepare` made ready."""

    prepare: Callable[[World], None]
    act: Callable[[World], None]
    may_fill: bool = False
    """Whether a MAP_NORESERVE mapping may be left with more of its memory than before."""


def region_of(world: World) -> Region:
    """The one that the scenarios use."""
    return next(iter(world.manager.tables.regions.values()))


def prepare_empty(world: World) -> None:
    """A region with nothing mapped."""
    world.region(b"a", size=SIZE)


def prepare_full(world: World) -> None:
    """Mappings with contents, holes between, and a second region."""
    region = world.region(b"a", size=SIZE)
    world.map(region, 2 * PAGE, 4 * PAGE)
    world.map(region, 8 * PAGE, 4 * PAGE, prot=abi.PROT_READ)
    segment_of(region).poke(2 * PAGE, b"contents" * (PAGE // 2))
    other = world.region(b"b", size=SIZE)
    world.map(other, 0, PAGE)


def prepare_noreserve(world: World) -> None:
    """The same with a MAP_NORESERVE mapping, one of its pages touched, and a stray page."""
    prepare_full(world)
    region = region_of(world)
    world.map(region, 16 * PAGE, 8 * PAGE, flags=abi.MAP_NORESERVE)
    segment_of(region).poke(17 * PAGE, b"touched")
    segment_of(region).poke(30 * PAGE, b"stray")


def prepare_dying(world: World) -> None:
    """The same, and the first region has a handle but no name and is not in the cache."""
    prepare_full(world)
    world.forget(region_of(world))
    world.manager.unlink(None, ROOT_INO, b"a")


def prepare_closed(world: World) -> None:
    """The same, and only the name keeps the first region."""
    prepare_full(world)
    world.close(region_of(world))


SCENARIOS = {
    "map": Scenario(prepare_empty, lambda w: w.map(region_of(w), 0, 8 * PAGE)),
    "map over mappings": Scenario(prepare_full, lambda w: w.map(region_of(w), 0, 16 * PAGE)),
    "map again": Scenario(prepare_full, lambda w: w.map(region_of(w), 2 * PAGE, 4 * PAGE)),
    "map huge": Scenario(
        prepare_full, lambda w: w.map(region_of(w), 0, HUGE, flags=abi.MAP_HUGETLB)
    ),
    "map noreserve": Scenario(
        prepare_full, lambda w: w.map(region_of(w), 0, 16 * PAGE, flags=abi.MAP_NORESERVE)
    ),
    "map over noreserve": Scenario(
        prepare_noreserve, lambda w: w.map(region_of(w), 0, 32 * PAGE), may_fill=True
    ),
    "map beside noreserve": Scenario(
        prepare_noreserve, lambda w: w.map(region_of(w), 24 * PAGE, 8 * PAGE)
    ),
    "map huge over noreserve": Scenario(
        prepare_noreserve,
        lambda w: w.map(region_of(w), 0, HUGE, flags=abi.MAP_HUGETLB),
        may_fill=True,
    ),
    "unmap": Scenario(prepare_full, lambda w: w.unmap(region_of(w), 3 * PAGE, 6 * PAGE)),
    "unmap all": Scenario(prepare_noreserve, lambda w: w.unmap(region_of(w), 0, SIZE)),
    "last close": Scenario(prepare_dying, lambda w: w.manager.release(None, region_of(w).ino)),
    "last unlink": Scenario(prepare_closed, lambda w: w.manager.unlink(None, ROOT_INO, b"a")),
    "rename over": Scenario(
        prepare_closed, lambda w: w.manager.rename(None, ROOT_INO, b"b", ROOT_INO, b"a", 0)
    ),
}


def steps_of(scenario: Scenario) -> list[str]:
    """The calls of the scenario's operation that may fail."""
    world = make_world()
    scenario.prepare(world)
    world.faults.reset()
    scenario.act(world)
    return list(world.faults.calls)


FAILURES = [
    pytest.param(scenario, step, code, id=f"{name}-{step}-{what}-{errno.errorcode[code]}")
    for name, scenario in SCENARIOS.items()
    for step, what in enumerate(steps_of(scenario))
    for code in (errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.EIO)
]


def without_noreserve_pages(snapshot: dict[str, Any], world: World) -> dict[str, Any]:
    """The snapshot without what tells how many pages MAP_NORESERVE mappings have.

    Their contents stay in it. Strays, which nobody has a right to, go from it too.
    """
    segments = {ino: dict(state) for ino, state in snapshot["segments"].items()}
    inodes = {ino: dict(state) for ino, state in snapshot["inodes"].items()}
    for region in world.manager.tables.regions.values():
        own = {
            page
            for mapping in region.layout
            if mapping.reserve
            for page in range(mapping.start // PAGE, mapping.end // PAGE)
        }
        mapped = {
            page
            for mapping in region.layout
            for page in range(mapping.start // PAGE, mapping.end // PAGE)
        }
        state = segments[region.ino]
        state["pages"] = frozenset(own & state["pages"])
        state["data"] = {page: data for page, data in state["data"].items() if page in mapped}
        del inodes[region.ino]["blocks"]
    rest = {key: value for key, value in snapshot.items() if key != "used"}
    return {**rest, "segments": segments, "inodes": inodes}


def new_pages(before: dict[str, Any], after: dict[str, Any]) -> set[tuple[int, int]]:
    """Inode number and page of the memory that is there after and was not before."""
    return {
        (ino, page)
        for ino, segment in after["segments"].items()
        for page in segment["pages"] - before["segments"][ino]["pages"]
    }


def fillable(world: World, scenario: Scenario) -> set[tuple[int, int]]:
    """Where a failure may leave memory."""
    return {
        (region.ino, page)
        for region in world.manager.tables.regions.values()
        for mapping in region.layout
        if scenario.may_fill and not mapping.reserve
        for page in range(mapping.start // PAGE, mapping.end // PAGE)
    }


@pytest.mark.parametrize(("scenario", "step", "code"), FAILURES)
def test_a_failed_step_leaves_all_or_nothing(scenario: Scenario, step: int, code: int) -> None:
    """Getting memory may fail: ENOMEM (or the system's own errno), and nothing has changed.
    Lowering the limit afterwards may fail, too: the operation is done, and a later look
    lowers it."""
    expected = make_world()
    scenario.prepare(expected)
    scenario.act(expected)
    world = make_world()
    scenario.prepare(world)
    before = world.snapshot()
    told = list(world.kernel.changed)
    world.faults.arm(step, code)

    outcome = attempt(lambda: scenario.act(world))

    failed = world.faults.calls[step]
    if isinstance(outcome, RefusedError):
        seen = {errno.EMFILE: errno.ENFILE, errno.EIO: errno.EIO}
        assert outcome.errno == seen.get(code, errno.ENOMEM)
        assert world.kernel.changed == told
        after = world.snapshot()
        assert new_pages(before, after) <= fillable(world, scenario)
        if scenario.may_fill or any(not r.cacheable for r in world.manager.tables.regions.values()):
            before = without_noreserve_pages(before, world)
            after = without_noreserve_pages(after, world)
        assert after == before
    else:
        assert failed in ("open", "set_limit", "reserve", "make_huge"), (
            "work that failed cannot have been done"
        )
        assert world.manager.tables.settle()
        assert world.snapshot() == expected.snapshot()


@pytest.mark.parametrize(("scenario", "step", "code"), FAILURES)
def test_after_a_failure_all_can_be_had(scenario: Scenario, step: int, code: int) -> None:
    """Whatever failed: once everything is unmapped, the whole mount can be mapped."""
    world = make_world(capacity=SIZE)
    scenario.prepare(world)
    world.faults.arm(step, code)
    attempt(lambda: scenario.act(world))
    world.faults.reset()
    for region in list(world.manager.tables.regions.values()):
        world.unmap(region, 0, SIZE)
    assert (world.memory.used(), world.memory.limit) == (0, 0)
    world.map(world.region(b"new", size=SIZE), 0, SIZE)
    assert world.memory.used() == SIZE


# Several plans at once, as worker threads make it possible


def plan_map(world: World, region: Region, start: int, size: int) -> Any:
    """A CREATE_MAPPING that is promised and not yet done."""
    return world.plan(region, CreateMapping(start, size, 0, READ_WRITE, ANONYMOUS))


def test_plans_of_two_regions_in_any_order(world: World) -> None:
    """Each gets its memory, and the limit is their sum."""
    one, other = world.region(b"one", size=SIZE), world.region(b"other", size=SIZE)
    first = plan_map(world, one, 0, 4 * PAGE)
    second = plan_map(world, other, 0, 6 * PAGE)
    assert world.memory.limit == 10 * PAGE
    second.acquire(lambda extra: False)
    first.acquire(lambda extra: False)
    first.clear()
    world.manager.mappings.commit(first)
    assert world.memory.limit == 10 * PAGE
    second.clear()
    world.manager.mappings.commit(second)
    assert (world.memory.limit, world.memory.used()) == (10 * PAGE, 10 * PAGE)


def test_a_promise_holds_against_others(world: World) -> None:
    """What is promised is not there for a second plan; abandoned, it is."""
    world = make_world(capacity=10 * PAGE)
    one, other = world.region(b"one", size=SIZE), world.region(b"other", size=SIZE)
    plan = plan_map(world, one, 0, 6 * PAGE)
    with refused(errno.ENOMEM):
        world.map(other, 0, 5 * PAGE)
    with pytest.raises(OutOfMemory):
        world.manager.mappings.abandon(plan, OSError(errno.ENOSPC, "test"))
    world.map(other, 0, 10 * PAGE)


def test_half_reserved_memory_is_not_counted_twice(world: World) -> None:
    """While a worker reserves, what is left can be mapped."""
    world = make_world(capacity=10 * PAGE)
    one, other = world.region(b"one", size=SIZE), world.region(b"other", size=SIZE)
    plan = plan_map(world, one, 0, 6 * PAGE)
    plan.acquire(lambda extra: False)
    world.map(other, 0, 4 * PAGE)
    plan.clear()
    world.manager.mappings.commit(plan)
    assert world.memory.used() == 10 * PAGE


def test_a_sweep_leaves_what_is_being_reserved(world: World) -> None:
    """A worker has got memory that no layout shows yet; only stray pages go."""
    one, other = world.region(b"one", size=SIZE), world.region(b"other", size=SIZE)
    plan = plan_map(world, one, 4 * PAGE, 4 * PAGE)
    segment_of(one).poke(0, b"stray")
    segment_of(other).poke(0, b"stray")
    world.manager.tables.sweep()
    plan.acquire(lambda extra: False)
    assert world.manager.tables.sweep() == 0
    assert segment_of(one).pages == {4, 5, 6, 7}
    plan.clear()
    world.manager.mappings.commit(plan)
    assert segment_of(one).pages == {4, 5, 6, 7}
    assert segment_of(other).pages == set()


def test_a_range_that_was_given_up_is_swept_again(world: World) -> None:
    """The plan failed, so what is touched there is a page in a hole like any other."""
    region = world.region(size=SIZE)
    world.map(region, 32 * PAGE, 8 * PAGE, flags=abi.MAP_NORESERVE)
    plan = plan_map(world, region, 4 * PAGE, 4 * PAGE)
    with pytest.raises(OutOfMemory):
        world.manager.mappings.abandon(plan, OSError(errno.ENOMEM, "test"))
    segment_of(region).poke(5 * PAGE, b"stray")
    assert world.manager.tables.sweep() == PAGE
    assert segment_of(region).pages == set()


def test_pages_in_holes_make_room_for_a_plan(world: World) -> None:
    """Somebody used the budget of a plan before it did: they are taken back, and it succeeds."""
    region = world.region(size=SIZE)
    plan = plan_map(world, region, 4 * PAGE, 4 * PAGE)
    segment_of(region).poke(0, b"stray")
    world.manager.mappings.perform(plan)
    assert segment_of(region).pages == {4, 5, 6, 7}


def test_a_plan_gets_more_room_each_time_that_it_is_taken(world: World) -> None:
    """A neighbour touches holes just before each try: five MiB, which is more than is to spare
    at first. The room to spare grows with each try until the plan succeeds."""
    region, neighbour = world.region(b"one", size=SIZE), world.region(b"other", size=SIZE)
    tries = 0

    def touch(step: str, ino: int) -> None:
        nonlocal tries
        if (step, ino) == ("reserve", region.ino):
            tries += 1
            free = world.memory.limit - world.memory.used()
            segment_of(neighbour).poke(0, bytes(min(5 * MIB, free)))

    world.memory.before = touch
    world.map(region, 0, 4 * MIB)
    assert tries > 2
    assert len(segment_of(region).pages) * PAGE == 4 * MIB
