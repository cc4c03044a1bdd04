"""Which memory is to be in huge pages, and how far that has come: the book-keeping alone."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from msharefs import abi
from msharefs.core import collapsing
from msharefs.core.collapsing import REFUSALS, Collapsing, Step
from msharefs.core.layout import Layout, Mapping, Range
from msharefs.core.mapper import Limits
from msharefs.core.region import Region
from tests.unit.support.durables import Host
from tests.unit.support.worlds import MIB, PAGE, World, make_world

HUGE = abi.HUGE_PAGE_SIZE
SIZE = 64 * MIB


@pytest.fixture
def world() -> World:
    """A mount whose memory is to be huge."""
    return make_world(huge="always", capacity=1 << 30)


def steps(book: Collapsing, most: int = 1 << 20) -> list[tuple[int, int]]:
    """All that is to be done, done, as ranges in the order of the work."""
    found = []
    while book.has_work:
        step = book.next(most)
        if step is not None:
            found.append((step.part.start, step.part.end))
            book.succeeded(step)
    return found


def next_step(book: Collapsing, most: int = 1) -> Step:
    """There must be one."""
    step = book.next(most)
    assert step is not None
    return step


def said(book: Collapsing) -> str:
    """What is in the way."""
    return book.obstacle or ""


def test_whole_huge_pages_that_are_reserved_are_done(world: World) -> None:
    """The ends of a mapping, where others or holes begin, are left; small ones side by side count
    together."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, PAGE, 3 * HUGE)
    for start in range(8 * HUGE, 10 * HUGE, HUGE // 2):
        world.map(region, start, HUGE // 2)
    assert steps(book) == [(HUGE, 3 * HUGE), (8 * HUGE, 9 * HUGE), (9 * HUGE, 10 * HUGE)]
    assert (book.size_of(region.ino), book.total) == (4 * HUGE, 4 * HUGE)
    assert not book.has_rest


def test_nobody_is_asked_twice(world: World) -> None:
    """What is huge is not looked at again for another mapping of its region."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 0, 2 * HUGE)
    steps(book)
    world.map(region, 4 * HUGE, HUGE)
    assert steps(book) == [(4 * HUGE, 5 * HUGE)]
    world.map(region, 2 * HUGE, 2 * HUGE)
    assert steps(book) == [(2 * HUGE, 4 * HUGE)]


def test_what_is_unmapped_is_not_huge(world: World) -> None:
    """A page of it is enough; the rest of the huge page is small then, and stays so."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 0, 4 * HUGE)
    steps(book)
    world.unmap(region, HUGE + PAGE, PAGE)
    assert book.size_of(region.ino) == 3 * HUGE
    assert steps(book) == []
    world.map(region, HUGE + PAGE, PAGE)
    assert steps(book) == [(HUGE, 2 * HUGE)]


def test_memory_that_comes_at_first_touch_is_left_alone(world: World) -> None:
    """A collapse would give it all of its pages."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 0, 4 * HUGE, flags=abi.MAP_NORESERVE)
    assert steps(book) == []
    world.map(region, 4 * HUGE, HUGE)
    assert steps(book) == [(4 * HUGE, 5 * HUGE)]


@pytest.mark.parametrize(("policy", "done"), [("within_size", 4), ("advise", 2), ("never", 2)])
def test_the_policy_says_what_is_to_be_huge(policy: str, done: int) -> None:
    """By advise and never only what was asked for with MAP_HUGETLB."""
    world = make_world(huge=policy)
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 0, 2 * HUGE)
    world.map(region, 2 * HUGE, 2 * HUGE, flags=abi.MAP_HUGETLB)
    steps(book)
    assert book.size_of(region.ino) == done * HUGE


def test_where_programs_have_pages_of_their_own_nothing_is_done() -> None:
    """And it is said why."""
    region = Region(7, 0o600, 0, 0, 1, make_world().region().creator)
    region.become_sized(SIZE)
    region.layout.insert(Mapping(0, SIZE, 3))
    book = Collapsing({7: region}, "always", attached=None)
    book.changed(region, 0, SIZE)
    assert not book.has_work
    assert book.obstacle == collapsing.NO_ATTACHMENTS


def test_regions_take_turns(world: World) -> None:
    """A large one does not keep the others waiting."""
    large, small = world.region(b"large", size=SIZE), world.region(b"small", size=SIZE)
    world.map(large, 0, 8 * HUGE)
    world.map(small, 0, HUGE)
    book = world.tables.collapsing
    order: list[int] = []
    while book.has_work and len(order) < 4:
        step = book.next(1)
        if step is not None:
            order.append(step.region.ino)
            book.succeeded(step)
    assert order == [large.ino, small.ino, large.ino, large.ino]


def test_a_refused_step_of_several_is_tried_one_by_one(world: World) -> None:
    """Nothing is said yet of which of them it was."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 0, 4 * HUGE)
    book.failed(next_step(book, 4), errno.EAGAIN)
    assert not book.has_rest
    assert next_step(book).part == Range(0, HUGE)


def test_a_busy_page_is_passed_over_and_tried_again(world: World) -> None:
    """EAGAIN is of this huge page alone."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 0, 3 * HUGE)
    book.failed(next_step(book), errno.EAGAIN)
    assert steps(book) == [(HUGE, 3 * HUGE)]
    assert (book.has_rest, book.obstacle) == (True, None)
    book.try_again()
    assert steps(book) == [(0, HUGE)]
    assert not book.has_rest


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.EBUSY, errno.EMFILE])
def test_short_memory_ends_the_work_for_now(world: World, code: int) -> None:
    """Also that of others, and what comes later, until it is tried again: each try costs."""
    region, other = world.region(b"1", size=SIZE), world.region(b"2", size=SIZE)
    book = world.tables.collapsing
    world.map(region, 0, 3 * HUGE)
    world.map(other, 0, HUGE)
    book.failed(next_step(book), code)
    assert said(book)
    world.map(region, 8 * HUGE, HUGE)
    assert not book.has_work
    assert book.has_rest
    book.try_again()
    assert not said(book)
    assert sorted(steps(book)) == [(0, HUGE), (0, 3 * HUGE), (8 * HUGE, 9 * HUGE)]


def test_a_kernel_that_refuses_is_asked_no_more(world: World) -> None:
    """After some EINVAL in a row; one by itself is of that huge page."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 0, SIZE)
    for _ in range(REFUSALS - 1):
        book.failed(next_step(book), errno.EINVAL)
    book.succeeded(next_step(book))
    for _ in range(REFUSALS):
        assert not said(book)
        book.failed(next_step(book), errno.EINVAL)
    assert "EINVAL" in said(book)
    assert not book.has_work


def test_a_change_during_a_step_is_not_lost(world: World) -> None:
    """What came before the range that was worked on is done as well."""
    region, book = world.region(size=SIZE), world.tables.collapsing
    world.map(region, 8 * HUGE, HUGE)
    step = next_step(book)
    world.map(region, 0, HUGE)
    book.succeeded(step)
    assert steps(book) == [(0, HUGE)]
    assert book.size_of(region.ino) == 2 * HUGE


def test_a_region_that_goes_takes_its_part_along(world: World) -> None:
    """Whenever it goes: done, waiting, or with a step on its way."""
    book = world.tables.collapsing
    for outcome in ("succeeded", "failed"):
        region = world.region(size=SIZE)
        world.map(region, 0, 4 * HUGE)
        book.succeeded(next_step(book))
        step = next_step(book)
        world.manager.unlink(None, 1, b"region")
        world.close(region)
        if outcome == "succeeded":
            book.succeeded(step)
        else:
            book.failed(step, errno.EAGAIN)
        assert (book.total, book.size_of(region.ino)) == (0, 0)
        assert (book.has_work, book.has_rest) == (False, False)


def test_somebody_is_woken_for_work(world: World) -> None:
    """When there is some, and not for what is left for later."""
    woken: list[bool] = []
    region, book = world.region(size=SIZE), world.tables.collapsing
    book.call_for_work(lambda: woken.append(book.has_work))
    world.map(region, 0, HUGE)
    assert woken == [True]
    book.failed(next_step(book), errno.ENOMEM)
    world.map(region, HUGE, HUGE)
    assert woken == [True]
    book.try_again()
    assert woken == [True, True]


def test_a_new_server_looks_at_all_again(tmp_path: Path) -> None:
    """What the one before it knew of huge pages is not kept."""
    limits = Limits(align=PAGE, max_region=1 << 40, max_mappings=1000, nr_inodes=100)
    host = Host(tmp_path, limits, SIZE)
    world = host.start()
    world.map(world.region(size=SIZE), 0, 2 * HUGE, flags=abi.MAP_HUGETLB)
    assert steps(world.tables.collapsing) == [(0, 2 * HUGE)]
    book = host.start().tables.collapsing
    assert book.total == 0
    assert steps(book) == [(0, 2 * HUGE)]
    host.close()


def test_many_small_mappings_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is that of one look at all, whatever lies across the parts' ends."""
    monkeypatch.setattr(collapsing, "SLICE", 5)
    monkeypatch.setattr(collapsing, "HUGE_PAGE_SIZE", 4 * PAGE)
    world = make_world(huge="always")
    chance = random.Random(7)
    for _ in range(200):
        region = world.region(b"region", size=SIZE)
        position = 0
        mappings = []
        while position < 300:
            position += chance.choice([0, 0, 0, 0, 1, 3])
            size = chance.choice([1, 1, 2, 3, 9])
            reserve = chance.random() < 0.9
            mappings.append(Mapping(position * PAGE, (position + size) * PAGE, 3, reserve))
            position += size
        region.layout = Layout()
        for mapping in mappings:
            region.layout.append(mapping)
        book = Collapsing({region.ino: region}, "always", attached={region.ino})
        book.changed(region, 0, region.size)
        done = {u for low, high in steps(book, chance.choice([1, 3])) for u in _units(low, high)}
        assert done == _reserved_units(mappings)
        world.manager.unlink(None, 1, b"region")


def _units(low: int, high: int) -> range:
    return range(low // PAGE // 4, high // PAGE // 4)


def _reserved_units(mappings: list[Mapping]) -> set[int]:
    pages = {p for m in mappings if m.reserve for p in range(m.start // PAGE, m.end // PAGE)}
    return {page // 4 for page in pages if {4 * (page // 4) + i for i in range(4)} <= pages}
