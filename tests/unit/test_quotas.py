"""What a user may have, and that everything is counted for whom it belongs to, to the last name."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

import pytest

from msharefs import abi
from msharefs.core import recovery
from msharefs.core.attributes import AttributeChange
from msharefs.core.inode import ROOT_INO, Caller
from msharefs.core.namespace import RENAME_EXCHANGE
from msharefs.core.quotas import NO_LIMITS, UNLIMITED, Share
from msharefs.core.region import Region
from tests.unit.support.worlds import (
    ALICE,
    ALIGN,
    BOB,
    MIB,
    PAGE,
    World,
    attempt,
    make_world,
    refused,
)

ROOT = Caller(pid=1, uid=0, gid=0)
LIMITS = Share(4 * MIB, 4, 3)


@pytest.fixture
def world() -> World:
    """Alice has nothing."""
    return make_world(user=LIMITS)


def share(world: World, who: Caller = ALICE) -> Share:
    """What somebody has, which must be what his inodes add up to."""
    names = world.tables.names
    size = inodes = mappings = 0
    for ino in list(names._inodes):
        inode = names.get(ino)
        if inode.uid == who.uid:
            inodes += 1 if inode.is_directory else max(1, inode.nlink)
            if isinstance(inode, Region):
                size += inode.layout.mapped
                mappings += len(inode.layout)
    told = world.tables.quotas.of(who.uid)
    assert told == Share(size, inodes, mappings)
    return told


def owned(world: World, who: Caller, name: bytes) -> Region:
    """A region of somebody's, of 8 MiB."""
    region = world.manager.create(None, ROOT_INO, name, 0o600, who)
    world.manager.setattr(None, region.ino, AttributeChange(size=8 * MIB))
    return region


def give(world: World, ino: int, who: Caller) -> None:
    """chown, which is root's."""
    world.manager.setattr(None, ino, AttributeChange(uid=who.uid))


# Memory


def test_memory_up_to_the_byte(world: World) -> None:
    """EDQUOT beyond it with nothing changed, and others have theirs."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * MIB)
    before = world.snapshot()
    with refused(errno.EDQUOT):
        world.map(region, 4 * MIB, PAGE)
    assert world.snapshot() == before
    assert share(world) == Share(4 * MIB, 1, 1)
    world.map(owned(world, BOB, b"b"), 0, 4 * MIB)
    assert share(world, BOB) == Share(4 * MIB, 1, 1)


def test_what_replaces_takes_only_what_is_new(world: World) -> None:
    """Also where the limit is met."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * MIB)
    world.map(region, 0, 4 * MIB)
    world.map(region, MIB, MIB, flags=abi.MAP_NORESERVE)
    world.unmap(region, 2 * MIB, 2 * MIB)
    assert share(world).size == 2 * MIB
    world.map(region, 0, 4 * MIB)
    with refused(errno.EDQUOT):
        world.map(region, 2 * MIB, 4 * MIB)
    assert share(world) == Share(4 * MIB, 1, 1)


def test_without_reservation_it_counts_as_well(world: World) -> None:
    """Its owner may touch all of it."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * MIB, flags=abi.MAP_NORESERVE)
    with refused(errno.EDQUOT):
        world.map(region, 4 * MIB, PAGE, flags=abi.MAP_NORESERVE)


def test_a_region_counts_for_its_owner(world: World) -> None:
    """Whoever maps: the ioctl does not tell, as a write to a file does not."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * MIB)
    assert share(world, BOB) == Share()


def test_two_changes_on_their_way_are_not_given_the_same(world: World) -> None:
    """What is being reserved counts from the beginning, and no more if it comes to nothing."""
    regions = [owned(world, ALICE, name) for name in (b"a", b"b")]
    wanted = abi.CreateMapping(0, 3 * MIB, 0, 3, 0x31)
    plan = world.plan(regions[0], wanted)
    with refused(errno.EDQUOT):
        world.plan(regions[1], wanted)
    failure = OSError(errno.ENOMEM, "no")
    attempt(lambda: world.manager.mappings.abandon(plan, failure))
    assert share(world) == Share(0, 2, 0)
    world.manager.mappings.perform(world.plan(regions[1], wanted))
    assert share(world) == Share(3 * MIB, 2, 1)


def test_a_change_on_its_way_goes_with_its_region(world: World) -> None:
    """chown in the middle of a reservation."""
    region = owned(world, ALICE, b"a")
    plan = world.plan(region, abi.CreateMapping(0, 3 * MIB, 0, 3, 0x31))
    give(world, region.ino, BOB)
    assert world.tables.quotas.of(ALICE.uid) == Share()
    world.manager.mappings.perform(plan)
    assert share(world, BOB) == Share(3 * MIB, 1, 1)
    assert share(world) == Share()


def test_unlinked_it_counts_until_it_goes(world: World) -> None:
    """And then at once, though a worker may still be giving its memory back."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * MIB)
    world.manager.unlink(None, ROOT_INO, b"a")
    assert share(world) == Share(4 * MIB, 1, 1)
    world.close(region)
    assert share(world) == Share()


def test_what_the_kernel_has_given_up_does_not_stand_in_the_way(world: World) -> None:
    """Its word may still be on the way."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * MIB)
    world.manager.unlink(None, ROOT_INO, b"a")
    world.manager.release(None, region.ino)
    world.map(owned(world, ALICE, b"b"), 0, 4 * MIB)
    assert share(world) == Share(4 * MIB, 1, 1)


# Names


def test_names_of_all_kinds(world: World) -> None:
    """Regions, directories and further names, up to the limit; a rename takes none."""
    region = owned(world, ALICE, b"a")
    world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    world.manager.link(None, region.ino, ROOT_INO, b"a2")
    world.manager.mknod(None, ROOT_INO, b"m", 0o100600, ALICE)
    assert share(world).inodes == 4
    before = world.snapshot()
    steps: list[Callable[[], object]] = [
        lambda: world.manager.create(None, ROOT_INO, b"x", 0o600, ALICE),
        lambda: world.manager.mknod(None, ROOT_INO, b"x", 0o100600, ALICE),
        lambda: world.manager.mkdir(None, ROOT_INO, b"x", 0o700, ALICE),
        lambda: world.manager.link(None, region.ino, ROOT_INO, b"x"),
    ]
    for step in steps:
        with refused(errno.EDQUOT):
            step()
        assert world.snapshot() == before
    world.manager.rename(None, ROOT_INO, b"a", ROOT_INO, b"b", 0)
    world.manager.rename(None, ROOT_INO, b"b", ROOT_INO, b"d", RENAME_EXCHANGE)
    assert share(world).inodes == 4
    world.manager.rename(None, ROOT_INO, b"a2", ROOT_INO, b"m", 0)
    assert share(world).inodes == 4
    world.manager.unlink(None, ROOT_INO, b"m")
    world.manager.rmdir(None, ROOT_INO, b"b")
    for inode in [world.tables.names.get(ino) for ino in list(world.tables.names._inodes)]:
        if inode.nlink == 0:
            world.forget(inode)
    assert share(world).inodes == 1
    owned(world, BOB, b"bob's")


def test_a_name_counts_for_whom_the_inode_belongs_to(world: World) -> None:
    """Not for who made the link, nor for the owner of the directory."""
    region = owned(world, BOB, b"b")
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o777, ALICE)
    world.manager.link(None, region.ino, directory.ino, b"b2")
    assert share(world) == Share(inodes=1)
    assert share(world, BOB) == Share(inodes=2)
    world.manager.unlink(None, ROOT_INO, b"b")
    assert share(world, BOB) == Share(inodes=1)


# Mappings


def test_mappings_of_all_regions(world: World) -> None:
    """A split is one more, and may be refused; what takes away is not."""
    regions = [owned(world, ALICE, name) for name in (b"a", b"b")]
    for region in regions:
        world.map(region, 0, 4 * PAGE)
    world.map(regions[0], 8 * PAGE, 4 * PAGE)
    with refused(errno.EDQUOT):
        world.map(regions[1], 8 * PAGE, PAGE)
    with refused(errno.EDQUOT):
        world.unmap(regions[1], PAGE, PAGE)
    world.unmap(regions[0], 8 * PAGE, 4 * PAGE)
    world.unmap(regions[1], PAGE, PAGE)
    assert share(world) == Share(7 * PAGE, 2, 3)


def test_mappings_of_the_whole_mount() -> None:
    """ENOSPC for whoever it is, root too."""
    world = make_world(max_mappings_total=2)
    regions = [owned(world, who, b"%d" % who.uid) for who in (ALICE, BOB, ROOT)]
    plans = [world.plan(region, abi.CreateMapping(0, PAGE, 0, 3, 0x31)) for region in regions[:2]]
    with refused(errno.ENOSPC):
        world.map(regions[2], 0, PAGE)
    for plan in plans:
        world.manager.mappings.perform(plan)
    before = world.snapshot()
    with refused(errno.ENOSPC):
        world.map(regions[2], 0, PAGE)
    assert world.snapshot() == before
    world.map(regions[0], 0, PAGE)
    world.unmap(regions[0], 0, PAGE)
    world.map(regions[2], 0, PAGE)


# Root, gifts and new limits


def test_root_has_no_limits(world: World) -> None:
    """As with a disk's quotas."""
    for number in range(5):
        world.map(owned(world, ROOT, b"%d" % number), 0, 5 * MIB)
    assert world.tables.quotas.of(0).size == 25 * MIB


def test_a_gift_may_be_more_than_one_may_have(world: World) -> None:
    """Root gives it; but from then on there is no more to be had, until it is less."""
    region = owned(world, ROOT, b"r")
    world.map(region, 0, 5 * MIB)
    world.manager.link(None, region.ino, ROOT_INO, b"r2")
    give(world, region.ino, ALICE)
    assert share(world) == Share(5 * MIB, 2, 1)
    assert world.tables.quotas.of(0) == Share(inodes=2)
    with refused(errno.EDQUOT):
        world.map(region, 5 * MIB, PAGE)
    world.map(region, 0, 5 * MIB)
    world.unmap(region, 3 * MIB, 2 * MIB)
    world.map(region, 3 * MIB, MIB)
    give(world, region.ino, ALICE)
    assert share(world) == Share(4 * MIB, 2, 2)


def test_new_limits_take_nothing_away(world: World) -> None:
    """They hold for what comes; those of the mount cannot be below what there is."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * MIB)
    world.map(region, 0, MIB)
    limits = world.manager.limits
    with refused(errno.EBUSY):
        world.limit(replace(limits, max_mappings_total=1), 64 * MIB)
    assert world.manager.limits == limits
    world.limit(replace(limits, max_mappings_total=2), 64 * MIB)
    with refused(errno.ENOSPC):
        world.map(region, 4 * MIB, PAGE)
    less = replace(limits, user=Share(MIB, UNLIMITED, UNLIMITED))
    world.limit(less, 64 * MIB)
    with refused(errno.EDQUOT):
        world.map(region, 4 * MIB, PAGE)
    world.limit(replace(limits, user=NO_LIMITS), 64 * MIB)
    world.map(region, 4 * MIB, MIB)
    assert share(world).size == 5 * MIB


def test_the_next_server_counts_the_same(world: World) -> None:
    """From the journal."""
    region = owned(world, ALICE, b"a")
    world.map(region, 0, 4 * PAGE)
    world.unmap(region, PAGE, PAGE)
    world.manager.link(None, region.ino, ROOT_INO, b"a2")
    world.manager.mkdir(None, ROOT_INO, b"d", 0o700, BOB)
    before = world.tables.quotas.users()
    world.tables.ledger.mappings = world.tables.ledger.reserved = 0
    recovery.after_crash(world.tables, lambda _: None)
    assert world.tables.quotas.users() == before
    assert share(world) == Share(3 * PAGE, 2, 2)


def test_nobody_is_remembered_who_has_nothing(world: World) -> None:
    """There may be very many users in the life of a mount."""
    region = world.region(b"a", ALIGN)
    world.map(region, 0, PAGE)
    world.manager.unlink(None, ROOT_INO, b"a")
    world.close(region)
    assert world.tables.quotas.users().keys() == {0}
