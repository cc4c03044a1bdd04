"""Which way a region is reached: first come, until the last handle, also after the death of a server."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.abi import CreateMapping
from msharefs.core import sweeping
from msharefs.core.handles import HandleCounts
from msharefs.core.inode import ROOT_INO
from msharefs.core.mapper import Limits
from msharefs.core.ways import Giving, Way
from tests.unit.support.durables import Host
from tests.unit.support.worlds import (
    ANONYMOUS,
    MIB,
    PAGE,
    SharedBytes,
    World,
    make_world,
    refused,
    segment_of,
)

NORESERVE = 0x4000
NAMES = (b"one", b"other")


@pytest.fixture
def world() -> World:
    """A mount of 64 MiB."""
    return make_world()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Servers run here one after the other."""
    host = Host(tmp_path, Limits(PAGE, 1 << 40, 100, 100), 64 * MIB)
    yield host
    host.close()


# The table


@pytest.mark.parametrize(
    ("way", "touched", "attached", "closed", "mounted_again"),
    [
        (Way.OPEN, Way.PLAIN, Way.DIRECT, Way.OPEN, Way.OPEN),
        (Way.PLAIN, Way.PLAIN, Way.PLAIN, Way.OPEN, Way.OPEN),
        (Way.DIRECT, Way.DIRECT, Way.DIRECT, Way.OPEN, Way.LEFT),
        (Way.LEFT, Way.LEFT, Way.LEFT, Way.LEFT, Way.LEFT),
    ],
)
def test_the_table(way: Way, touched: Way, attached: Way, closed: Way, mounted_again: Way) -> None:
    """No way becomes the other one but by being closed, and what is left never does."""
    assert (way.when_touched, way.when_attached) == (touched, attached)
    assert (way.when_closed, way.when_mounted_again) == (closed, mounted_again)


# The rules


def test_who_comes_first(world: World) -> None:
    """A touch makes it plain, and then nobody gets the segment; the other way round a touch changes
    nothing. Each region for itself."""
    one, other = (world.region(name) for name in NAMES)
    attaching = world.manager.attaching
    attaching.touch(one)
    with refused(errno.EBUSY):
        attaching.check(one, os.O_RDWR)
    with refused(errno.EBUSY):
        attaching.attach(one.ino, os.O_RDWR)
    attaching.touch(one)
    lent = attaching.attach(other.ino, os.O_RDWR)
    assert lent.fileno() == segment_of(other).fileno()
    attaching.touch(other)
    attaching.check(other, os.O_RDONLY)
    assert (one.way, other.way) == (Way.PLAIN, Way.DIRECT)


def test_where_claims_alone_make_it_direct(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of who has the only handle, for reading and writing; then all others have the segment, too."""
    monkeypatch.setattr(world.kernel, "gives", Giving.CLAIMANTS)
    region, attaching = world.region(), world.manager.attaching
    for attempt in (attaching.check, lambda _region, access: attaching.attach(region.ino, access)):
        with refused(errno.EBUSY):
            attempt(region, os.O_RDWR)
    with refused(errno.EACCES):
        attaching.check(region, os.O_RDONLY, claims=True)
    world.manager.open(None, region.ino, os.O_RDWR)
    with refused(errno.EBUSY):
        attaching.check(region, os.O_RDWR, claims=True)
    world.manager.release(None, region.ino)
    attaching.check(region, os.O_RDWR, claims=True)
    attaching.attach(region.ino, os.O_RDWR, claims=True)
    world.manager.open(None, region.ino, os.O_RDWR)
    attaching.check(region, os.O_RDONLY)
    attaching.attach(region.ino, os.O_RDWR)
    assert region.way is Way.DIRECT


def test_the_last_handle_ends_it(world: World) -> None:
    """And no other one."""
    region = world.region()
    world.manager.attaching.attach(region.ino, os.O_RDWR)
    world.manager.open(None, region.ino, os.O_RDWR)
    world.manager.release(None, region.ino)
    ways = [region.way]
    world.manager.release(None, region.ino)
    ways.append(region.way)
    assert ways == [Way.DIRECT, Way.OPEN]
    world.manager.open(None, region.ino, os.O_RDWR)
    world.manager.attaching.touch(region)
    assert region.way is Way.PLAIN


@pytest.mark.parametrize(
    ("access", "asked"), [(os.O_RDWR, False), (os.O_RDONLY, True)], ids=["writer", "reader"]
)
def test_a_reader_gets_a_readers_descriptor(world: World, access: int, *, asked: bool) -> None:
    """And a writer the segment's own."""
    region = world.region()
    world.faults.reset()
    world.manager.attaching.attach(region.ino, access)
    assert ("open_for_readers" in world.faults.calls) == asked


def test_a_descriptor_that_cannot_be_had(world: World) -> None:
    """No user namespace, no descriptor for readers: and then the region is not direct."""
    region = world.region()
    world.faults.arm(0, errno.EOPNOTSUPP)
    with refused(errno.EOPNOTSUPP):
        world.manager.attaching.attach(region.ino, os.O_RDONLY)
    assert region.way is Way.OPEN


def test_who_is_refused(world: World) -> None:
    """A handle for writing alone, a region without a size, memory that is not reserved."""
    attaching = world.manager.attaching
    region = world.region(b"sized")
    with refused(errno.EACCES):
        attaching.check(region, os.O_WRONLY)
    with refused(errno.EINVAL):
        attaching.check(world.region(b"unsized", size=0), os.O_RDWR)
    world.map(region, 0, PAGE, flags=NORESERVE)
    with refused(errno.EBUSY):
        attaching.attach(region.ino, os.O_RDWR)
    world.unmap(region, 0, PAGE)
    attaching.attach(region.ino, os.O_RDWR)


def test_a_token_of_nobody(world: World) -> None:
    """The region has no handle any more, or is gone."""
    region = world.region()
    world.manager.release(None, region.ino)
    with refused(errno.ESTALE):
        world.manager.attaching.attach(region.ino, os.O_RDWR)
    with refused(errno.ESTALE):
        world.manager.attaching.attach(9999, os.O_RDWR)


def test_not_while_it_changes(world: World) -> None:
    """The change may be one that reserves nothing."""
    region = world.region()
    plan = world.plan(region, CreateMapping(0, PAGE, flags=ANONYMOUS | NORESERVE))
    with refused(errno.ESTALE):
        world.manager.attaching.attach(region.ino, os.O_RDWR)
    world.manager.mappings.perform(plan)
    with refused(errno.EBUSY):
        world.manager.attaching.attach(region.ino, os.O_RDWR)


def test_a_direct_region_reserves(world: World) -> None:
    """MAP_NORESERVE too: no page fault would bring the memory."""
    region = world.region()
    world.manager.attaching.attach(region.ino, os.O_RDWR)
    world.map(region, 0, PAGE, flags=NORESERVE)
    assert region.layout.reserved == PAGE


def test_stray_pages_go(world: World) -> None:
    """What clients touch in holes of a direct region, whatever the sum of all regions is; others
    are not even looked at."""
    direct, plain = (world.region(name) for name in NAMES)
    for region in (direct, plain):
        world.map(region, 0, PAGE)
    for region in (direct, plain):
        segment_of(region).pages.update({5, 6})
    world.manager.attaching.attach(direct.ino, os.O_RDWR)
    assert list(world.tables.sweep_direct()) == [2 * PAGE]
    assert (segment_of(direct).pages, segment_of(plain).pages) == ({0}, {0, 5, 6})
    world.close(direct)
    segment_of(direct).pages.add(5)
    assert list(world.tables.sweep_direct()) == []


def test_very_many_are_looked_at_in_steps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are served between them; a region that goes meanwhile is left out."""
    monkeypatch.setattr(sweeping, "SLICE", 2)
    regions = [world.region(b"%d" % number) for number in range(5)]
    for region in regions:
        world.manager.attaching.attach(region.ino, os.O_RDWR)
        segment_of(region).pages.add(5)
    steps = world.tables.sweep_direct()
    assert next(steps) == 2 * PAGE
    world.manager.unlink(None, ROOT_INO, b"1")
    world.close(regions[1])
    assert list(steps) == [PAGE, PAGE]


def test_one_line_for_each_time(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A process that had the file mapped may touch any number of pages."""
    region = world.region()
    for _ in range(2):
        world.manager.attaching.attach(region.ino, os.O_RDWR)
        for _ in range(3):
            world.manager.attaching.touch(region)
        world.manager.release(None, region.ino)
        world.manager.open(None, region.ino, os.O_RDWR)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


# What outlives a server


@pytest.mark.parametrize("way", [Way.PLAIN, Way.DIRECT])
def test_another_server_knows_it(host: Host, way: Way) -> None:
    """It must not answer a page fault of a direct region, nor give the segment of a plain one."""
    first = host.start()
    ino = first.region().ino
    first.tables.reach(first.tables.regions[ino], way)
    host.kernel.known = {ino}
    region = host.start().tables.regions[ino]
    assert (region.way, region.opens) == (way, 1)


@pytest.mark.parametrize(
    ("way", "later"),
    [(Way.PLAIN, Way.OPEN), (Way.DIRECT, Way.LEFT), (Way.OPEN, Way.OPEN)],
)
def test_another_mount(host: Host, way: Way, later: Way) -> None:
    """Handles are gone. Plain mappings are, too; whoever had the segment has it still."""
    first = host.start(same_connection=False)
    region = first.region()
    first.map(region, 0, PAGE)
    first.tables.reach(region, way)
    for _ in range(2):
        world = host.start(same_connection=False)
        again = world.tables.regions[region.ino]
        assert (again.way, again.opens) == (later, 0)
        world.manager.open(None, region.ino, os.O_RDWR)
        world.manager.release(None, region.ino)
        assert again.way is later


def test_a_lost_segment_is_nobodys(host: Host) -> None:
    """After the machine started again, for example."""
    first = host.start(same_connection=False)
    region = first.region()
    first.manager.attaching.attach(region.ino, os.O_RDWR)
    segment_of(region).destroy()
    assert host.start(same_connection=False).tables.regions[region.ino].way is Way.OPEN


def counts_of(memory: SharedBytes) -> HandleCounts:
    """As the next server opens them."""
    counts = memory.open()
    counts.open({0, 1})
    return counts


@pytest.mark.parametrize(("slot", "other"), [(0, 1), (1, 0)])
def test_the_record_does_not_bring_a_way_back(slot: int, other: int) -> None:
    """The last request was about the same slot, or about another one."""
    memory = SharedBytes()
    counts = memory.open()
    for _ in range(2):
        counts.new_slot()
    counts.set(0, 3, 10)
    counts.set_way(slot, Way.DIRECT)
    later = counts_of(memory)
    assert later.ways() == {slot: Way.DIRECT}
    assert later.counts()[0] == (3, 0, 0)
    assert later.was_applied(10)
    later.set_way(slot, Way.OPEN)
    assert counts_of(memory).ways() == {}
