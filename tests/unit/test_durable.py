"""A manager whose process dies: at rest, and at every step of every operation.

The kernel sends a request again that was not answered. Whatever was killed, and where: in
the end all is as if nothing had happened.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from msharefs import abi
from msharefs.core import recovery
from msharefs.core.attributes import AttributeChange
from msharefs.core.errors import RefusedError
from msharefs.core.inode import INFO_INO, ROOT_INO, Automap
from msharefs.core.layout import MappedFile
from msharefs.core.manager import RegionManager
from msharefs.core.mapper import Limits
from msharefs.core.namespace import RENAME_EXCHANGE
from msharefs.core.region import Region
from msharefs.core.tail import Tail
from msharefs.fuse.kernel import Opcode
from tests.unit.support.durables import Host, Killed
from tests.unit.support.fakes import FIRST_REGISTRATION
from tests.unit.support.worlds import (
    ALICE,
    ANONYMOUS,
    MIB,
    PAGE,
    READ_WRITE,
    World,
    refused,
    segment_of,
)

SIZE = 4 * MIB
CAPACITY = 16 * MIB
LIMITS = Limits(align=PAGE, max_region=1 << 40, max_mappings=1000, nr_inodes=100)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """No server has been there yet."""
    host = Host(tmp_path, LIMITS, CAPACITY)
    yield host
    host.close()


def state(world: World, *, times: bool = True) -> dict[str, Any]:
    """A snapshot without what a process has for itself: look-ups are the kernel's to know."""
    found = world.snapshot()
    for inode in found["inodes"].values():
        del inode["lookups"]
        if not times:
            # A crash may cost one count of the region's changes: they are for people.
            del inode["times"]
            inode.pop("counters", None)
        inode["entries"] = {entry.name: entry.ino for entry in inode.get("entries", ())}
    return found


def renumbered(found: dict[str, Any], first: int) -> dict[str, Any]:
    """The same where the one new inode has the number `first`: numbers are not used again,
    also those of inodes that a server made and did not live to tell of."""

    def number(ino: int) -> int:
        return min(ino, first)

    inodes = {number(ino): dict(inode) for ino, inode in found["inodes"].items()}
    for inode in inodes.values():
        inode["entries"] = {name: number(ino) for name, ino in inode["entries"].items()}
    segments = {number(ino): segment for ino, segment in found["segments"].items()}
    regions = [number(ino) for ino in found["regions"]]
    return {
        **found,
        "inodes": inodes,
        "segments": segments,
        "regions": regions,
        "next inode": first,
    }


def furnish(world: World) -> None:
    """One of everything: regions with mappings and without, links, directories, handles."""
    manager = world.manager
    region = world.region(b"mapped", size=SIZE)
    world.map(region, 0, 8 * PAGE)
    world.map(region, 4 * PAGE, 8 * PAGE, prot=abi.PROT_EXEC)
    world.map(region, 2 * MIB, 1, flags=abi.MAP_HUGETLB | abi.MAP_NORESERVE)
    world.unmap(region, 2 * PAGE, PAGE)
    of_file = abi.CreateMapping(
        3 * MIB, PAGE, 0, abi.PROT_READ, abi.MAP_SHARED | abi.MAP_FIXED, fd=5
    )
    file = MappedFile(7, 70, PAGE, ALICE.uid, "/tmp/file")
    manager.mappings.perform(world.plan(region, of_file, file=file))
    manager.open(None, region.ino, os.O_RDONLY)
    manager.open(None, INFO_INO, os.O_RDONLY)
    manager.release(None, INFO_INO)
    world.region(b"unsized", size=0)
    manager.mknod(None, ROOT_INO, b"never open", stat.S_IFREG | 0o644, ALICE)
    top = manager.mkdir(None, ROOT_INO, b"top", 0o2750, ALICE)
    below = manager.mkdir(None, top.ino, b"below", 0o700, ALICE)
    manager.link(None, region.ino, below.ino, b"\xff\n")
    manager.setattr(
        None, below.ino, AttributeChange(mode=0o711, uid=5, gid=6, atime_ns=-1, mtime_ns=9)
    )
    far = AttributeChange(atime_ns=-(1 << 63) - 1, mtime_ns=((1 << 63) - 1) * 10**9 + 999_999_999)
    manager.setattr(None, top.ino, far)
    growing = world.region(b"growing", size=0)
    manager.sizing.set_automap(None, growing.ino, Automap.GROW)
    manager.unlink(None, ROOT_INO, b"mapped")
    manager.rename(None, ROOT_INO, b"unsized", top.ino, b"moved", 0)
    removed = manager.mkdir(None, ROOT_INO, b"removed", 0o700, ALICE)
    manager.rmdir(None, ROOT_INO, b"removed")
    nameless = world.region(b"nameless", size=SIZE)
    world.map(nameless, 0, PAGE)
    manager.unlink(None, ROOT_INO, b"nameless")
    world.kernel.known |= {nameless.ino, removed.ino}


# At rest


def test_a_new_mount_can_be_restarted(host: Host) -> None:
    """Nothing in it but what is always there."""
    world = host.start()
    before = state(world)
    assert list(before["inodes"]) == [ROOT_INO, INFO_INO]
    assert state(host.start()) == before


def test_everything_comes_back(host: Host) -> None:
    """Names, attributes, times, layouts, counters, handles, memory: to the last bit."""
    world = host.start()
    furnish(world)
    before = state(world)
    again = host.start()
    assert state(again) == before
    assert again.manager.tables.open_handles == world.manager.tables.open_handles
    assert again.manager.tables.reclaiming == 0


def test_coming_back_twice_is_no_different(host: Host) -> None:
    """What a restart writes is the same again."""
    world = host.start()
    furnish(world)
    before = state(world)
    host.start()
    assert state(host.start()) == before


def test_work_goes_on_after_a_restart(host: Host) -> None:
    """New inodes get new numbers, and listings their order."""
    world = host.start()
    furnish(world)
    used = max(world.snapshot()["inodes"])
    again = host.start()
    region = again.region(b"new", size=SIZE)
    assert region.ino > used
    again.map(region, 0, PAGE)
    names = [entry.name for entry, _inode in again.manager.listing(ROOT_INO, 0, 100)]
    assert names == [b"mshare_info", b"never open", b"top", b"growing", b"new"]


def test_numbers_are_not_used_again_after_a_restart(host: Host) -> None:
    """The kernel may still know an inode that is gone."""
    world = host.start()
    gone = world.region(b"a", size=SIZE)
    world.manager.unlink(None, ROOT_INO, b"a")
    world.close(gone)
    last = gone.ino
    for same_connection in (True, False, True):
        again = host.start(same_connection=same_connection)
        directory = again.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
        assert directory.ino > last
        last = directory.ino
        again.manager.rmdir(None, ROOT_INO, b"d")
        again.forget(directory)


@pytest.mark.parametrize("same_connection", [True, False])
def test_places_in_a_listing_are_not_used_again(host: Host, *, same_connection: bool) -> None:
    """Somebody may be in the middle of one: a name made later must not come before its end."""
    world = host.start()
    for name in (b"a", b"b", b"c"):
        world.manager.mkdir(None, ROOT_INO, name, 0o700, ALICE)
    for name in (b"b", b"c"):
        world.manager.rmdir(None, ROOT_INO, name)
    end = world.manager.names.directory(ROOT_INO).end
    again = host.start(same_connection=same_connection)
    assert again.manager.names.directory(ROOT_INO).end == end
    again.manager.mkdir(None, ROOT_INO, b"late", 0o700, ALICE)
    listed = [entry.name for entry, _inode in again.manager.listing(ROOT_INO, 0, end)]
    assert listed == [b"mshare_info", b"a"]


def test_segments_are_opened(host: Host) -> None:
    """On the same connection by the registration that they got; what is mapped stays in memory."""
    world = host.start()
    region = world.region(b"a", size=SIZE)
    world.map(region, 0, PAGE)
    host.memory.segments[region.ino].poke(0, b"kept")
    again = host.start().manager
    found = again.tables.regions[region.ino]
    assert found.segment is host.memory.segments[region.ino]
    assert (found.registration, region.registration) == (
        region.registration,
        FIRST_REGISTRATION + 1,
    )
    again.open(None, region.ino, os.O_RDWR)
    assert host.kernel.registered == [region.ino]
    assert host.memory.segments[region.ino].peek(0, 4) == b"kept"


def test_a_segment_of_no_region_is_removed(host: Host) -> None:
    """Its server died before the region was written down."""
    host.start()
    host.memory.create(77)
    host.start()
    assert host.memory.stored() == {}


@pytest.mark.parametrize("same_connection", [True, False])
def test_a_region_whose_segment_was_taken_away(host: Host, same_connection: bool) -> None:
    """Somebody removed it from /dev/shm. The region keeps its size, has no mappings, and can
    be mapped anew; that it lost them is said, once."""
    world = host.start()
    region, other = world.region(b"a", size=SIZE), world.region(b"b", size=SIZE)
    world.map(region, 0, PAGE)
    world.map(other, 0, PAGE)
    host.memory.segments[region.ino].destroy()
    manager = host.start(same_connection=same_connection).manager
    assert host.lost == [region.ino]
    again = manager.tables.regions[region.ino]
    assert (again.size, list(again.layout)) == (SIZE, [])
    assert manager.tables.ledger.reserved == PAGE
    host.start(same_connection=same_connection)
    assert host.lost == []


@pytest.mark.parametrize("same_connection", [True, False])
def test_a_start_says_how_far_it_is(
    host: Host, monkeypatch: pytest.MonkeyPatch, *, same_connection: bool
) -> None:
    """In everything of which there may be very much, so that slow is never taken for dead."""
    monkeypatch.setattr(recovery, "STEP", 2)
    world = host.start()
    for number in range(5):
        world.map(world.region(b"%d" % number, size=SIZE), 0, PAGE)
        host.memory.create(1000 + number)
    for number in range(3):
        world.manager.unlink(None, ROOT_INO, b"%d" % number)
    host.start(same_connection=same_connection)
    assert host.progress == [
        *(f"{count} inodes" for count in (0, 2, 4, 6)),
        *(f"{count} names" for count in (0, 2)),
        *(f"{count} mappings" for count in (0, 2, 4)),
        *(f"{count} regions with their counts" for count in (0, 2, 4)),
        *(f"{count} segments of no region" for count in (0, 2, 4)),
        *(f"{count} regions with their segments" for count in (0, 2, 4)),
        *(f"{count} regions closed" for count in (0, 2, 4) if not same_connection),
        *(f"{count} without a name" for count in (0, 2)),
    ]


def test_pages_in_holes_are_swept_by_a_restart(host: Host) -> None:
    """A worker may have reserved them for a mapping that never was."""
    world = host.start()
    region = world.region(b"a", size=SIZE)
    world.plan(region, abi.CreateMapping(0, 8 * PAGE)).acquire(lambda extra: False)
    host.start()
    assert (host.memory.used(), host.memory.limit) == (0, 0)


# What the kernel knows


def test_a_region_without_a_name_stays_while_the_kernel_knows_it(host: Host) -> None:
    """It is open or mapped somewhere; asked again when it is forgotten."""
    world = host.start()
    region = world.region(b"a", size=SIZE)
    world.manager.unlink(None, ROOT_INO, b"a")
    host.kernel.known = {region.ino}
    again = host.start().manager
    assert list(again.tables.regions) == [region.ino]
    again.release(None, region.ino)
    again.forget([(region.ino, 1)])
    assert list(again.tables.regions) == [region.ino]
    host.kernel.known = set()
    again.forget([(region.ino, 1)])
    assert (again.tables.regions, host.memory.segments) == ({}, {})


def test_a_forget_that_died_with_the_server(host: Host) -> None:
    """The kernel is asked at the start, and the region goes then."""
    world = host.start()
    region = world.region(b"a", size=SIZE)
    world.map(region, 0, PAGE)
    world.manager.unlink(None, ROOT_INO, b"a")
    world.manager.release(None, region.ino)
    host.kernel.known = set()
    again = host.start().manager
    assert (again.tables.regions, host.memory.segments, host.memory.limit) == ({}, {}, 0)


def test_a_release_after_the_forget_is_ignored(host: Host) -> None:
    """Both were sent, and are read in another order."""
    world = host.start()
    region = world.region(b"a", size=SIZE)
    world.manager.unlink(None, ROOT_INO, b"a")
    host.kernel.known = {region.ino}
    again = host.start().manager
    host.kernel.known = set()
    again.forget([(region.ino, 1)])
    again.release(None, region.ino)
    assert (again.tables.regions, again.tables.open_handles) == ({}, 0)


def test_handles_of_mshare_info_are_not_counted_twice(host: Host) -> None:
    """One that an earlier server gave is closed: the count does not go below nothing."""
    host.start().manager.open(None, INFO_INO, os.O_RDONLY)
    again = host.start().manager
    again.release(None, INFO_INO)
    assert (again.tables.open_handles, again.getattr(INFO_INO).opens) == (0, 0)


def test_a_known_name_survives_its_forgets(host: Host) -> None:
    """Whatever the kernel drops from its cache."""
    world = host.start()
    region = world.region(b"a", size=SIZE)
    again = host.start().manager
    again.release(None, region.ino)
    again.forget([(region.ino, 1), (ROOT_INO, 1), (999, 1)])
    assert list(again.tables.regions) == [region.ino]


# A new connection: the supervisor died, too


def test_only_names_count_on_a_new_connection(host: Host) -> None:
    """Nobody has a handle; what has no name goes, and its memory with it."""
    world = host.start()
    furnish(world)
    before = state(world)
    (nameless,) = [r for r in world.manager.tables.regions.values() if r.nlink == 0]
    again = host.start(same_connection=False)
    after = state(again)
    gone = {ino for ino, inode in before["inodes"].items() if inode["nlink"] == 0}
    assert nameless.ino in gone
    assert set(after["inodes"]) == set(before["inodes"]) - gone
    assert again.manager.tables.open_handles == 0
    assert {inode["opens"] for inode in after["inodes"].values()} == {0}
    assert after["used"] == before["used"] - PAGE
    assert nameless.ino not in host.memory.segments
    # It stays so when a further server takes up this connection.
    further = host.start()
    assert state(further) == after
    assert further.manager.tables.open_handles == 0


def test_a_new_connection_learns_the_segments(host: Host) -> None:
    """They are registered once more when they are opened, and requests of the old one mean
    nothing."""
    world = host.start()
    manager = world.manager
    region = world.region(b"a", size=SIZE)
    request = host.next_request(Opcode.MKDIR)
    manager.mkdir(request, ROOT_INO, b"d", 0o700, ALICE)
    made = len(host.kernel.registered)
    again = host.start(same_connection=False).manager
    assert again.applied(request.unique) is None
    assert again.tables.regions[region.ino].registration == 0
    again.open(None, region.ino, os.O_RDONLY)
    again.open(None, region.ino, os.O_RDONLY)
    assert host.kernel.registered[made:] == [region.ino]
    # A further server of this connection knows the segment by its new registration.
    further = host.start().manager
    assert further.tables.regions[region.ino].registration == host.kernel.registrations[region.ino]
    further.open(None, region.ino, os.O_RDONLY)
    assert host.kernel.registered[made:] == [region.ino]


# Requests that come again


def test_each_request_is_remembered_once_it_is_applied(host: Host) -> None:
    """With the inode number that its answer shows."""
    world = host.start()
    manager = world.manager
    request = host.next_request(Opcode.MKDIR)
    assert manager.applied(request.unique) is None
    directory = manager.mkdir(request, ROOT_INO, b"d", 0o700, ALICE)
    applied = host.start().manager.applied(request.unique)
    assert applied is not None
    assert (applied.opcode, applied.result) == (Opcode.MKDIR, directory.ino)


def test_a_refused_request_is_not_remembered(host: Host) -> None:
    """It is refused again when it comes again."""
    world = host.start()
    manager = world.manager
    world.region(b"a", size=SIZE)
    requests = []
    for operation in (
        lambda request: manager.mkdir(request, ROOT_INO, b"a", 0o700, ALICE),
        lambda request: manager.rmdir(request, ROOT_INO, b"a"),
        lambda request: manager.unlink(request, ROOT_INO, b"x"),
        lambda request: manager.rename(request, ROOT_INO, b"x", ROOT_INO, b"y", 0),
        lambda request: manager.setattr(request, INFO_INO, AttributeChange(mode=0)),
    ):
        requests.append(host.next_request(Opcode.MKDIR))
        with pytest.raises(RefusedError):
            operation(requests[-1])
    assert host.broken == 0
    assert [manager.applied(request.unique) for request in requests] == [None] * 5


def test_a_handle_is_remembered_until_the_next(host: Host) -> None:
    """One request at a time changes handles, so the last is enough."""
    world = host.start()
    manager = world.manager
    region = world.region(b"a", size=SIZE)
    request = host.next_request(Opcode.OPEN)
    manager.open(request, region.ino, os.O_RDONLY)
    again = host.start().manager
    assert again.handle_was_counted(request.unique)
    assert again.tables.regions[region.ino].opens == 2
    again.release(host.next_request(Opcode.RELEASE), region.ino)
    assert not again.handle_was_counted(request.unique)


def test_a_handle_of_another_connection_is_not_remembered(host: Host) -> None:
    """Its numbers begin anew, so another request may have this one."""
    world = host.start()
    region = world.region(b"a", size=SIZE)
    world.manager.unlink(None, ROOT_INO, b"a")
    request = host.next_request(Opcode.RELEASE)
    world.manager.release(request, region.ino)
    world.forget(region)
    assert world.manager.handle_was_counted(request.unique)
    again = host.start(same_connection=False).manager
    assert not again.handle_was_counted(request.unique)


def test_regions_that_are_given_up_on_the_way_are_not_the_request(host: Host) -> None:
    """A CREATE_MAPPING that needs memory first reclaims what the kernel does not know any
    more. That is written down, but the request is not applied by it."""
    world = host.start()
    manager = world.manager
    old, new = world.region(b"old", size=CAPACITY), world.region(b"new", size=CAPACITY)
    world.map(old, 0, CAPACITY)
    manager.unlink(None, ROOT_INO, b"old")
    manager.release(None, old.ino)
    request = world.request = host.next_request(Opcode.IOCTL)
    plan = world.plan(new, abi.CreateMapping(0, MIB, 0, READ_WRITE, ANONYMOUS))
    assert old.ino not in manager.tables.regions
    assert manager.applied(request.unique) is None
    manager.mappings.perform(plan)
    assert manager.applied(request.unique) is not None


def test_a_slow_change_is_remembered_for_its_own_request(host: Host) -> None:
    """Others are served while its worker runs."""
    world = host.start()
    manager = world.manager
    region = world.region(b"a", size=SIZE)
    slow = world.request = host.next_request(Opcode.IOCTL)
    plan = world.plan(region, abi.CreateMapping(0, PAGE))
    quick = host.next_request(Opcode.MKDIR)
    manager.mkdir(quick, ROOT_INO, b"d", 0o700, ALICE)
    assert (manager.applied(slow.unique), manager.applied(quick.unique) is None) == (None, False)
    manager.mappings.perform(plan)
    applied = manager.applied(slow.unique)
    assert applied is not None
    assert applied.opcode == Opcode.IOCTL


def test_a_journal_that_fails_ends_the_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables have changed and the journal has not: `broken`, and the exception."""
    world = host.start()
    manager = world.manager
    assert host.journal is not None
    host.journal.close()
    monkeypatch.setattr(Tail, "append", lambda *_: False)
    with pytest.raises(sqlite3.Error):
        manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    assert host.broken > 0


# Killed at every step


@dataclass(frozen=True, slots=True)
class Operation:
    """What a request does, on a mount that `furnish` filled and `prepare` changed."""

    opcode: Opcode
    act: Callable[[World], object]
    prepare: Callable[[World], object] = lambda world: None


def mapped(world: World) -> Any:
    """The region that furnish mapped."""
    return next(r for r in world.manager.tables.regions.values() if r.layout.mapped > PAGE)


def nameless(world: World) -> Any:
    """The region without a name."""
    return next(r for r in world.manager.tables.regions.values() if r.nlink == 0)


def top(world: World) -> int:
    """The directory in the root."""
    return world.manager.names.existing(ROOT_INO, b"top").ino


def fallocate(world: World) -> None:
    """Of the region that has no size."""
    region = world.manager.names.existing(top(world), b"moved")
    world.manager.fallocate(world.request, region.ino, 0, 0, SIZE)


def truncate(world: World) -> None:
    """Of the region that was never open: its segment is made on the way."""
    region = world.manager.names.existing(ROOT_INO, b"never open")
    world.manager.setattr(world.request, region.ino, AttributeChange(size=SIZE))


def first_open(world: World) -> None:
    """Of the region that was never open."""
    region = world.manager.names.existing(ROOT_INO, b"never open")
    world.manager.open(world.request, region.ino, os.O_RDWR)


def close_nameless(world: World) -> None:
    """The last handle; the kernel will forget it."""
    world.manager.release(world.request, nameless(world).ino)


def empty_directory(world: World) -> None:
    """To be removed or replaced."""
    world.manager.mkdir(world.request, ROOT_INO, b"empty", 0o700, ALICE)


def automapped(world: World) -> Region:
    """The region that may grow."""
    found = world.manager.lookup(ROOT_INO, b"growing")
    assert isinstance(found, Region)
    return found


def size_automapped(world: World) -> None:
    """It has a size and bytes."""
    world.truncate(automapped(world), 6 * PAGE)
    segment_of(automapped(world)).reserve(PAGE, PAGE)
    segment_of(automapped(world)).poke(PAGE, b"kept")


OPERATIONS = {
    "create": Operation(
        Opcode.CREATE, lambda w: w.manager.create(w.request, ROOT_INO, b"new", 0o600, ALICE)
    ),
    "mknod": Operation(
        Opcode.MKNOD, lambda w: w.manager.mknod(w.request, ROOT_INO, b"new", stat.S_IFREG, ALICE)
    ),
    "mkdir": Operation(
        Opcode.MKDIR, lambda w: w.manager.mkdir(w.request, ROOT_INO, b"new", 0o700, ALICE)
    ),
    "link": Operation(
        Opcode.LINK, lambda w: w.manager.link(w.request, mapped(w).ino, ROOT_INO, b"new")
    ),
    "unlink": Operation(Opcode.UNLINK, lambda w: w.manager.unlink(w.request, top(w), b"moved")),
    "rmdir": Operation(
        Opcode.RMDIR, lambda w: w.manager.rmdir(w.request, ROOT_INO, b"empty"), empty_directory
    ),
    "rename": Operation(
        Opcode.RENAME,
        lambda w: w.manager.rename(w.request, ROOT_INO, b"never open", top(w), b"x", 0),
    ),
    "rename of a directory over one": Operation(
        Opcode.RENAME,
        lambda w: w.manager.rename(w.request, top(w), b"below", ROOT_INO, b"empty", 0),
        empty_directory,
    ),
    "rename over a region": Operation(
        Opcode.RENAME,
        lambda w: w.manager.rename(w.request, top(w), b"moved", ROOT_INO, b"never open", 0),
    ),
    "exchange": Operation(
        Opcode.RENAME2,
        lambda w: w.manager.rename(
            w.request, ROOT_INO, b"never open", top(w), b"below", RENAME_EXCHANGE
        ),
    ),
    "chmod": Operation(
        Opcode.SETATTR, lambda w: w.manager.setattr(w.request, top(w), AttributeChange(mode=0o700))
    ),
    "truncate": Operation(Opcode.SETATTR, truncate),
    "fallocate": Operation(Opcode.FALLOCATE, fallocate),
    "truncate with memory": Operation(
        Opcode.SETATTR, lambda w: w.truncate(automapped(w), 3 * PAGE, mode=0o640)
    ),
    "fallocate with memory": Operation(
        Opcode.FALLOCATE, lambda w: w.fallocate(automapped(w), 0, 5 * PAGE)
    ),
    "truncate that grows": Operation(
        Opcode.SETATTR, lambda w: w.truncate(automapped(w), 9 * PAGE), size_automapped
    ),
    "fallocate over a part": Operation(
        Opcode.FALLOCATE, lambda w: w.fallocate(automapped(w), PAGE, 2 * PAGE), size_automapped
    ),
    "automap": Operation(
        Opcode.SETXATTR,
        lambda w: w.manager.sizing.set_automap(w.request, top(w), Automap.ON),
    ),
    "open": Operation(Opcode.OPEN, lambda w: w.manager.open(w.request, mapped(w).ino, os.O_RDWR)),
    "first open": Operation(Opcode.OPEN, first_open),
    "release": Operation(Opcode.RELEASE, lambda w: w.manager.release(w.request, mapped(w).ino)),
    "release of the last handle": Operation(Opcode.RELEASE, close_nameless),
    "map": Operation(Opcode.IOCTL, lambda w: w.map(mapped(w), 32 * PAGE, 4 * PAGE)),
    "map over mappings": Operation(Opcode.IOCTL, lambda w: w.map(mapped(w), PAGE, 16 * PAGE)),
    "unmap": Operation(Opcode.IOCTL, lambda w: w.unmap(mapped(w), PAGE, 6 * PAGE)),
    "unmap all": Operation(Opcode.IOCTL, lambda w: w.unmap(mapped(w), 0, SIZE)),
}


def ready(host: Host, operation: Operation) -> World:
    """A server with everything in place, and the request that comes next."""
    world = host.start()
    furnish(world)
    operation.prepare(world)
    inodes = (world.manager.getattr(ino) for ino in world.snapshot()["inodes"])
    host.kernel.known = {inode.ino for inode in inodes if inode.lookups or inode.opens}
    world.request = host.next_request(operation.opcode)
    return world


def outcome(world: World, first_new: int) -> dict[str, Any]:
    """What there is in the end, to be compared."""
    return renumbered(state(world, times=False), first_new)


def steps_of(operation: Operation, directory: Path) -> tuple[list[str], int, dict[str, Any]]:
    """Where its server may die, the first new inode number, and what is there in the end."""
    host = Host(directory, LIMITS, CAPACITY)
    try:
        world = ready(host, operation)
        first_new = world.snapshot()["next inode"]
        host.steps.clear()
        operation.act(world)
        return list(host.steps), first_new, outcome(world, first_new)
    finally:
        host.close()


def was_applied(manager: RegionManager, opcode: int, unique: int) -> bool:
    """What the adapter asks when a request comes again."""
    if opcode in (Opcode.OPEN, Opcode.RELEASE):
        return manager.handle_was_counted(unique)
    return manager.applied(unique) is not None


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_survives_death_at_any_step(name: str, tmp_path: Path) -> None:
    """Its request comes again: it is done if it was not, and not done twice."""
    operation = OPERATIONS[name]
    (tmp_path / "whole").mkdir()
    steps, first_new, expected = steps_of(operation, tmp_path / "whole")
    assert "before commit" in steps or operation.opcode in (Opcode.OPEN, Opcode.RELEASE)
    for step, what in enumerate(steps):
        directory = tmp_path / str(step)
        directory.mkdir()
        host = Host(directory, LIMITS, CAPACITY)
        world = ready(host, operation)
        request = world.request
        assert request is not None
        host.kill_at(step)
        with pytest.raises(Killed, match=what):
            operation.act(world)
        again = host.start()
        if not was_applied(again.manager, operation.opcode, request.unique):
            again.request = request
            operation.act(again)
        assert outcome(again, first_new) == expected, f"killed at {step}, {what}"
        # And a third server finds the same.
        assert outcome(host.start(), first_new) == expected
        host.close()


def test_out_of_memory_is_out_of_memory_again(host: Host) -> None:
    """A refused mapping leaves the journal as it was."""
    world = host.start()
    furnish(world)
    before = state(world)
    host.memory.faults.arm(2, errno.ENOMEM)
    with refused(errno.ENOMEM):
        world.map(mapped(world), 32 * PAGE, PAGE)
    assert state(host.start()) == before
