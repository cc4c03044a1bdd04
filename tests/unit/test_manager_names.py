"""RegionManager: making, opening, changing and losing inodes; what lives how long."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable

import pytest

from msharefs.core.attributes import AttributeChange
from msharefs.core.inode import INFO_INO, ROOT_INO
from msharefs.core.region import Region
from tests.unit.support.worlds import (
    ALICE,
    ALIGN,
    BOB,
    MIB,
    PAGE,
    World,
    make_world,
    refused,
    segment_of,
)


@pytest.fixture
def world() -> World:
    """A mount with nothing in it."""
    return make_world()


# Making


def test_create_makes_a_region_and_opens_it(world: World) -> None:
    """One look-up, one handle, a segment that can be served, no memory."""
    region = world.manager.create(None, ROOT_INO, b"a", 0o640, ALICE)
    assert (region.nlink, region.lookups, region.opens) == (1, 1, 1)
    assert (region.mode, region.uid, region.gid) == (stat.S_IFREG | 0o640, ALICE.uid, ALICE.gid)
    assert world.manager.tables.open_handles == 1
    assert world.manager.tables.regions == {region.ino: region}
    assert (world.kernel.registered, world.memory.used()) == ([region.ino], 0)


def test_mknod_makes_a_region_without_a_handle(world: World) -> None:
    """Its segment comes with the first open."""
    region = world.manager.mknod(None, ROOT_INO, b"a", stat.S_IFREG | 0o600, ALICE)
    assert (region.nlink, region.lookups, region.opens, region.segment) == (1, 1, 0, None)
    assert world.kernel.registered == []
    world.manager.open(None, region.ino, os.O_RDWR)
    assert world.kernel.registered == [region.ino]


@pytest.mark.parametrize("kind", [stat.S_IFBLK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_only_regular_files_can_be_made(world: World, kind: int) -> None:
    """EPERM for devices, pipes and sockets, and no name appears."""
    before = world.snapshot()
    with refused(errno.EPERM):
        world.manager.mknod(None, ROOT_INO, b"a", kind | 0o600, ALICE)
    assert world.snapshot() == before


def test_mkdir_counts_a_look_up(world: World) -> None:
    """And it is no region."""
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    assert (directory.lookups, directory.opens, world.manager.tables.regions) == (1, 0, {})


def test_mshare_info_cannot_be_made_again(world: World) -> None:
    """EEXIST, by any way to make a name."""
    before = world.snapshot()
    with refused(errno.EEXIST):
        world.manager.create(None, ROOT_INO, b"mshare_info", 0o600, ALICE)
    with refused(errno.EEXIST):
        world.manager.mkdir(None, ROOT_INO, b"mshare_info", 0o700, ALICE)
    with refused(errno.EEXIST):
        world.manager.mknod(None, ROOT_INO, b"mshare_info", stat.S_IFREG, ALICE)
    assert world.snapshot() == before


@pytest.mark.parametrize("step", ["create", "open", "register"])
@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (errno.ENOSPC, errno.ENOMEM),
        (errno.ENOMEM, errno.ENOMEM),
        (errno.EIO, errno.EIO),
        (errno.EMFILE, errno.ENFILE),
        (errno.ENFILE, errno.ENFILE),
    ],
)
def test_create_fails_whole(world: World, step: str, cause: int, code: int) -> None:
    """No segment, or none that can be served: the errno, no name, nothing left."""
    before = world.snapshot()
    world.faults.arm(["create", "open", "register"].index(step), cause)
    with refused(code):
        world.manager.create(None, ROOT_INO, b"a", 0o600, ALICE)
    assert world.snapshot() == before
    assert world.faults.calls[-1] == step
    world.manager.create(None, ROOT_INO, b"a", 0o600, ALICE)


@pytest.mark.parametrize("step", ["create", "open", "register"])
def test_a_first_open_fails_whole(world: World, step: str) -> None:
    """The same for a region that mknod made."""
    region = world.manager.mknod(None, ROOT_INO, b"a", stat.S_IFREG | 0o600, ALICE)
    before = world.snapshot()
    world.faults.arm(["create", "open", "register"].index(step), errno.EMFILE)
    with refused(errno.ENFILE):
        world.manager.open(None, region.ino, os.O_RDWR)
    assert world.snapshot() == before
    world.manager.open(None, region.ino, os.O_RDWR)


def test_nr_inodes(world: World) -> None:
    """ENOSPC for the next inode of any kind, and a deleted one makes room."""
    world = make_world(nr_inodes=3)
    region = world.region(b"a")
    before = world.snapshot()
    for make in (
        lambda: world.manager.create(None, ROOT_INO, b"b", 0o600, ALICE),
        lambda: world.manager.mkdir(None, ROOT_INO, b"b", 0o700, ALICE),
        lambda: world.manager.mknod(None, ROOT_INO, b"b", stat.S_IFREG, ALICE),
    ):
        with refused(errno.ENOSPC):
            make()
    assert world.snapshot() == before
    world.manager.unlink(None, ROOT_INO, b"a")
    with refused(errno.ENOSPC):
        world.manager.create(None, ROOT_INO, b"b", 0o600, ALICE)
    world.close(region)
    world.manager.create(None, ROOT_INO, b"b", 0o600, ALICE)


# Looking up


def test_lookup_counts_each_time(world: World) -> None:
    """Until the kernel forgets as many."""
    region = world.region(b"a")
    assert world.manager.lookup(ROOT_INO, b"a") is region
    assert world.manager.lookup(ROOT_INO, b"a") is region
    assert region.lookups == 3


def test_lookup_of_nothing_is_none(world: World) -> None:
    """So that the kernel may cache the absence."""
    assert world.manager.lookup(ROOT_INO, b"a") is None


def test_listing_counts_nothing_by_itself(world: World) -> None:
    """Only what is handed to the kernel is known to it, and the adapter knows that."""
    region = world.region(b"a")
    listed = list(world.manager.listing(ROOT_INO, 0, 100))
    assert [(entry.name, inode.ino) for entry, inode in listed] == [
        (b"mshare_info", INFO_INO),
        (b"a", region.ino),
    ]
    assert region.lookups == 1


def test_getattr_of_a_number_that_is_not_there(world: World) -> None:
    """ENOENT."""
    with refused(errno.ENOENT):
        world.manager.getattr(99)


# Opening


def test_opens_are_counted(world: World) -> None:
    """Per inode and in all; one segment serves all handles."""
    region = world.region(b"a")
    world.manager.open(None, region.ino, os.O_RDONLY)
    world.manager.open(None, INFO_INO, os.O_RDONLY)
    assert (region.opens, world.manager.tables.open_handles) == (2, 3)
    assert world.kernel.registered == [region.ino]
    world.manager.release(None, region.ino)
    world.manager.release(None, INFO_INO)
    assert (region.opens, world.manager.tables.open_handles) == (1, 1)


def test_truncating_open_of_an_unsized_region(world: World) -> None:
    """Allowed, and it can be sized afterwards: open(2) with O_CREAT | O_TRUNC twice."""
    region = world.region(b"a", size=0)
    world.manager.open(None, region.ino, os.O_RDWR | os.O_TRUNC)
    world.manager.setattr(None, region.ino, AttributeChange(size=0))
    world.manager.setattr(None, region.ino, AttributeChange(size=ALIGN))
    assert region.size == ALIGN


def test_truncating_open_stamps_as_any_truncation(world: World) -> None:
    """mtime and ctime are now, set-user-ID goes, and the kernel is told of the mode."""
    region = world.region(b"a", size=0)
    world.manager.setattr(None, region.ino, AttributeChange(mode=0o4755))
    old = (region.mtime_ns, region.ctime_ns)
    world.kernel.changed.clear()
    world.manager.open(None, region.ino, os.O_RDWR | os.O_TRUNC)
    assert region.mode == stat.S_IFREG | 0o755
    assert region.mtime_ns == region.ctime_ns > max(old)
    assert world.kernel.changed == [region.ino]
    world.manager.open(None, region.ino, os.O_RDWR | os.O_TRUNC)
    assert world.kernel.changed == [region.ino]


def test_truncating_open_of_a_sized_region(world: World) -> None:
    """EINVAL, and no handle."""
    region = world.region(b"a")
    before = world.snapshot()
    with refused(errno.EINVAL):
        world.manager.open(None, region.ino, os.O_RDWR | os.O_TRUNC)
    assert world.snapshot() == before


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_TRUNC, os.O_WRONLY | os.O_TRUNC])
def test_mshare_info_is_read_only(world: World, flags: int) -> None:
    """EACCES for each kind of writing, root's included."""
    before = world.snapshot()
    with refused(errno.EACCES):
        world.manager.open(None, INFO_INO, flags)
    assert world.snapshot() == before


def test_directories_are_not_opened_as_files(world: World) -> None:
    """EISDIR."""
    with refused(errno.EISDIR):
        world.manager.open(None, ROOT_INO, os.O_RDONLY)


def test_the_text_of_mshare_info(world: World) -> None:
    """The alignment of the mount in decimal and a newline; nothing else has a text."""
    manager = make_world(align=512 << 30).manager
    assert manager.info_text(manager.getattr(INFO_INO)) == b"549755813888\n"
    with refused(errno.EINVAL):
        world.manager.info_text(world.region(b"a"))
    with refused(errno.EINVAL):
        world.manager.info_text(world.manager.getattr(ROOT_INO))


# Life and death


def test_an_unlinked_region_lives_while_it_is_open(world: World) -> None:
    """Its memory stays until the last handle is closed and the kernel forgets it."""
    region = world.region(b"a")
    world.map(region, 0, MIB)
    world.manager.unlink(None, ROOT_INO, b"a")
    assert (region.nlink, world.memory.used()) == (0, MIB)
    world.manager.release(None, region.ino)
    assert world.memory.used() == MIB
    world.forget(region)
    assert (world.memory.used(), world.memory.limit, world.manager.tables.ledger.reserved) == (
        0,
        0,
        0,
    )
    assert (world.manager.tables.regions, world.memory.segments) == ({}, {})
    with refused(errno.ENOENT):
        world.manager.getattr(region.ino)


@pytest.mark.parametrize("order", ["release first", "forget first", "unlink last"])
def test_a_region_dies_with_the_last_reference(world: World, order: str) -> None:
    """Whichever that is, and once."""
    region = world.region(b"a")
    steps: dict[str, Callable[[], None]] = {
        "unlink": lambda: world.manager.unlink(None, ROOT_INO, b"a"),
        "release": lambda: world.manager.release(None, region.ino),
        "forget": lambda: world.forget(region),
    }
    orders = {
        "release first": ["release", "unlink", "forget"],
        "forget first": ["forget", "unlink", "release"],
        "unlink last": ["release", "forget", "unlink"],
    }
    for step in orders[order]:
        assert world.kernel.gone == []
        steps[step]()
    assert world.kernel.gone == [region.ino]
    assert world.memory.segments == {}


def test_a_region_without_a_segment_dies_too(world: World) -> None:
    """It was never opened."""
    region = world.manager.mknod(None, ROOT_INO, b"a", stat.S_IFREG, ALICE)
    world.manager.unlink(None, ROOT_INO, b"a")
    world.forget(region)
    assert (world.kernel.gone, world.manager.tables.regions) == ([region.ino], {})


def test_memory_of_a_region_that_dies_slowly(world: World) -> None:
    """It stays on the books until it is reclaimed, so that nobody is charged for it again."""
    world = make_world(reclaim_later=True, capacity=4 * MIB)
    region = world.region(b"a")
    world.map(region, 0, 2 * MIB)
    world.manager.unlink(None, ROOT_INO, b"a")
    world.close(region)
    assert (world.manager.tables.ledger.reserved, world.manager.tables.ledger.mappings) == (
        2 * MIB,
        1,
    )
    other = world.region(b"b", size=4 * MIB)
    with refused(errno.ENOMEM):
        world.map(other, 0, 2 * MIB + PAGE)
    assert world.manager.tables.reclaiming == 1
    for ino in world.kernel.take_reclaimable():
        world.manager.tables.reclaimed(ino)
    assert world.manager.tables.reclaiming == 0
    assert (world.manager.tables.ledger.reserved, world.memory.limit) == (0, 0)
    world.map(other, 0, 4 * MIB)


def test_memory_of_a_dead_region_that_is_still_attached(world: World) -> None:
    """A process may have it mapped: the limit follows once that ends."""
    region = world.region(b"a")
    world.map(region, 0, MIB)
    segment = segment_of(region)
    segment.attach()
    world.manager.unlink(None, ROOT_INO, b"a")
    world.close(region)
    assert (world.memory.used(), world.memory.limit) == (MIB, MIB)
    assert not world.manager.tables.settle()
    segment.detach()
    assert world.manager.tables.settle()
    assert (world.memory.used(), world.memory.limit) == (0, 0)


def full_world() -> tuple[World, Region, Region]:
    """A mount whose memory is all in a region that has lost its name and its handle, of
    which the kernel has not said yet that it forgets it; and a region that wants memory."""
    world = make_world(capacity=2 * MIB)
    old, new = world.region(b"old"), world.region(b"new")
    world.map(old, 0, 2 * MIB)
    world.manager.unlink(None, ROOT_INO, b"old")
    world.manager.release(None, old.ino)
    return world, old, new


def test_memory_that_the_kernel_has_given_up_is_found(world: World) -> None:
    """Its FORGET is on the way: no ENOMEM in between, and the FORGET finds nothing."""
    world, old, new = full_world()
    world.map(new, 0, 2 * MIB)
    assert (world.kernel.gone, world.memory.used()) == ([old.ino], 2 * MIB)


def test_memory_that_the_kernel_knows_is_not_taken(world: World) -> None:
    """Somebody has it mapped."""
    world, old, new = full_world()
    world.kernel.known = {old.ino}
    before = world.snapshot()
    with refused(errno.ENOMEM):
        world.map(new, 0, PAGE)
    assert world.snapshot() == before


@pytest.mark.parametrize("keeps", ["a handle", "a name"])
def test_memory_that_somebody_can_reach_is_not_taken(world: World, keeps: str) -> None:
    """Whatever the kernel says."""
    world, old, new = full_world()
    if keeps == "a handle":
        world.manager.open(None, old.ino, os.O_RDWR)
    else:
        old.nlink = 1
    before = world.snapshot()
    with refused(errno.ENOMEM):
        world.map(new, 0, PAGE)
    assert world.snapshot() == before


def test_hard_links_keep_a_region(world: World) -> None:
    """The last name counts, and each link is a look-up."""
    region = world.region(b"a")
    assert world.manager.link(None, region.ino, ROOT_INO, b"b") is region
    assert (region.nlink, region.lookups) == (2, 2)
    world.manager.release(None, region.ino)
    world.forget(region)
    world.manager.unlink(None, ROOT_INO, b"a")
    assert world.manager.tables.regions == {region.ino: region}
    world.manager.unlink(None, ROOT_INO, b"b")
    assert world.manager.tables.regions == {}


def test_a_region_that_is_renamed_over_dies(world: World) -> None:
    """If nothing else refers to it."""
    world.region(b"a")
    old = world.region(b"b")
    world.close(old)
    world.manager.rename(None, ROOT_INO, b"a", ROOT_INO, b"b", 0)
    assert world.kernel.gone == [old.ino]


def test_a_directory_lives_while_the_kernel_knows_it(world: World) -> None:
    """Then it makes room for another."""
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    world.manager.rmdir(None, ROOT_INO, b"d")
    assert world.manager.getattr(directory.ino).nlink == 0
    world.forget(directory)
    with refused(errno.ENOENT):
        world.manager.getattr(directory.ino)


def test_root_and_mshare_info_are_not_forgotten(world: World) -> None:
    """Whatever the kernel drops from its cache."""
    world.manager.lookup(ROOT_INO, b"mshare_info")
    world.forget(world.manager.getattr(INFO_INO))
    assert world.manager.getattr(INFO_INO).lookups == 0
    assert world.manager.getattr(ROOT_INO).referenced


def test_forgetting_what_is_not_there_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """And the others of the same request are forgotten all the same."""
    region = world.region(b"a")
    world.manager.unlink(None, ROOT_INO, b"a")
    world.manager.release(None, region.ino)
    with caplog.at_level(logging.DEBUG):
        world.manager.forget([(99, 1), (region.ino, region.lookups)])
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "99" in caplog.text
    assert world.kernel.gone == [region.ino]


def test_a_lost_name_is_told_while_somebody_can_ask(world: World) -> None:
    """st_nlink and st_ctime change for those who have it open or by another name."""
    region = world.region(b"a")
    world.manager.link(None, region.ino, ROOT_INO, b"b")
    world.manager.unlink(None, ROOT_INO, b"b")
    assert world.kernel.changed == [region.ino]
    world.manager.unlink(None, ROOT_INO, b"a")
    assert world.kernel.changed == [region.ino] * 2


def test_a_refused_unlink_changes_nothing(world: World) -> None:
    """EPERM for mshare_info, EISDIR for a directory."""
    world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    before = world.snapshot()
    with refused(errno.EPERM):
        world.manager.unlink(None, ROOT_INO, b"mshare_info")
    with refused(errno.EISDIR):
        world.manager.unlink(None, ROOT_INO, b"d")
    assert (world.snapshot(), world.kernel.changed) == (before, [])


# Attributes


def test_setattr_changes_what_it_is_given(world: World) -> None:
    """Mode bits, owner, group and times; ctime always, the rest stays."""
    region = world.region(b"a")
    old = (region.mtime_ns, region.ctime_ns)
    world.manager.setattr(None, region.ino, AttributeChange(mode=0o7777))
    assert region.mode == stat.S_IFREG | 0o7777
    assert region.mtime_ns == old[0]
    assert region.ctime_ns > old[1]
    world.manager.setattr(None, region.ino, AttributeChange(atime_ns=5, mtime_ns=-7))
    assert (region.atime_ns, region.mtime_ns) == (5, -7)
    world.manager.setattr(None, region.ino, AttributeChange(uid=BOB.uid, gid=BOB.gid))
    assert (region.uid, region.gid) == (BOB.uid, BOB.gid)


def test_the_kind_of_an_inode_cannot_be_changed(world: World) -> None:
    """Only permission bits of a mode are taken."""
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    world.manager.setattr(None, directory.ino, AttributeChange(mode=stat.S_IFREG | 0o1755))
    assert directory.mode == stat.S_IFDIR | 0o1755


@pytest.mark.parametrize(
    ("mode", "change", "expected"),
    [
        (0o6755, AttributeChange(uid=1), 0o0755),
        (0o6755, AttributeChange(gid=1), 0o0755),
        (0o6745, AttributeChange(uid=1), 0o2745),  # not executable by its group: locking bit
        (0o6755, AttributeChange(size=ALIGN), 0o0755),
        (0o6755, AttributeChange(mtime_ns=1), 0o6755),
        (0o0755, AttributeChange(uid=1, mode=0o4711), 0o4711),
    ],
)
def test_set_user_id_goes_with_a_new_owner_or_size(
    world: World, mode: int, change: AttributeChange, expected: int
) -> None:
    """As chown(2) says; what the same request sets stays."""
    region = world.region(b"a", size=0)
    world.manager.setattr(None, region.ino, AttributeChange(mode=mode))
    world.manager.setattr(None, region.ino, change)
    assert stat.S_IMODE(region.mode) == expected


def test_directories_keep_set_group_id(world: World) -> None:
    """It means another thing there."""
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o2755, ALICE)
    world.manager.setattr(None, directory.ino, AttributeChange(uid=1))
    assert stat.S_IMODE(directory.mode) == 0o2755


@pytest.mark.parametrize(
    "change",
    [
        AttributeChange(mode=0o777),
        AttributeChange(uid=1),
        AttributeChange(size=0),
        AttributeChange(size=100),
        AttributeChange(mtime_ns=1),
        AttributeChange(),
    ],
)
def test_mshare_info_takes_no_change(world: World, change: AttributeChange) -> None:
    """EPERM for all."""
    before = world.snapshot()
    with refused(errno.EPERM):
        world.manager.setattr(None, INFO_INO, change)
    assert world.snapshot() == before


def test_a_refused_size_refuses_all(world: World) -> None:
    """Mode, owner and times of the same request are not applied either."""
    region = world.region(b"a")
    before = world.snapshot()
    with refused(errno.EINVAL):
        world.manager.setattr(
            None,
            region.ino,
            AttributeChange(mode=0, uid=1, gid=1, size=ALIGN, atime_ns=1, mtime_ns=1),
        )
    assert world.snapshot() == before


# Size


def test_a_size_reaches_the_segment(world: World) -> None:
    """And costs no memory, be it larger than the mount."""
    region = world.region(b"a", size=1 << 40)
    assert (region.size, segment_of(region).size, world.memory.used()) == (1 << 40, 1 << 40, 0)


def test_fallocate_sets_the_size(world: World) -> None:
    """As ftruncate does, but mtime and ctime stay."""
    region = world.region(b"a", size=0)
    old = (region.mtime_ns, region.ctime_ns)
    world.manager.fallocate(None, region.ino, 0, 0, ALIGN)
    assert region.size == ALIGN
    assert (region.mtime_ns, region.ctime_ns) == old


def test_fallocate_that_takes_privileges_away(world: World) -> None:
    """A mode never changes without ctime."""
    region = world.region(b"a", size=0)
    world.manager.setattr(None, region.ino, AttributeChange(mode=0o4755))
    old = (region.mtime_ns, region.ctime_ns)
    world.manager.fallocate(None, region.ino, 0, 0, ALIGN)
    assert region.mode == stat.S_IFREG | 0o755
    assert region.mtime_ns == old[0]
    assert region.ctime_ns > old[1]


@pytest.mark.parametrize("size", [0, ALIGN])
@pytest.mark.parametrize(
    ("mode", "offset", "length", "code"),
    [
        (1, 0, ALIGN, errno.EOPNOTSUPP),
        (3, 0, ALIGN, errno.EOPNOTSUPP),
        (2, PAGE, 1, errno.EOPNOTSUPP),
        (1 << 31, 0, 0, errno.EOPNOTSUPP),
        (0, ALIGN, ALIGN, errno.EINVAL),
        (0, 1, 1 << 60, errno.EINVAL),
        (0, 0, ALIGN + 1, errno.EINVAL),
    ],
)
def test_fallocate_refuses_mode_then_offset(
    world: World, size: int, mode: int, offset: int, length: int, code: int
) -> None:
    """EOPNOTSUPP, then EINVAL, whether the region is sized or not."""
    region = world.region(b"a", size=size)
    before = world.snapshot()
    with refused(code):
        world.manager.fallocate(None, region.ino, mode, offset, length)
    assert world.snapshot() == before


def test_a_size_beyond_max_region(world: World) -> None:
    """EFBIG by ftruncate and fallocate, and it can still be sized."""
    world = make_world(max_region=4 * ALIGN)
    region = world.region(b"a", size=0)
    before = world.snapshot()
    with refused(errno.EFBIG):
        world.manager.setattr(None, region.ino, AttributeChange(size=5 * ALIGN))
    with refused(errno.EFBIG):
        world.manager.fallocate(None, region.ino, 0, 0, 5 * ALIGN)
    assert world.snapshot() == before
    world.manager.fallocate(None, region.ino, 0, 0, 4 * ALIGN)


@pytest.mark.parametrize("step", ["open", "set_size"])
@pytest.mark.parametrize(
    ("cause", "code"),
    [(errno.EFBIG, errno.EFBIG), (errno.ENOSPC, errno.ENOMEM), (errno.EMFILE, errno.ENFILE)],
)
def test_a_size_that_the_system_refuses(world: World, step: str, cause: int, code: int) -> None:
    """The region is still unsized, and a second try succeeds."""
    region = world.region(b"a", size=0)
    before = world.snapshot()
    world.faults.arm(["open", "set_size"].index(step), cause)
    with refused(code):
        world.manager.setattr(None, region.ino, AttributeChange(size=ALIGN))
    assert world.snapshot() == before
    world.manager.setattr(None, region.ino, AttributeChange(size=ALIGN))
    assert segment_of(region).size == ALIGN


def test_truncate_of_a_region_that_was_never_open(world: World) -> None:
    """truncate(2) by path after mknod(2): the segment is made for it."""
    region = world.manager.mknod(None, ROOT_INO, b"a", stat.S_IFREG, ALICE)
    world.manager.setattr(None, region.ino, AttributeChange(size=ALIGN))
    assert segment_of(region).size == ALIGN


def test_directories_have_no_size(world: World) -> None:
    """EISDIR."""
    with refused(errno.EISDIR):
        world.manager.setattr(None, ROOT_INO, AttributeChange(size=0))


def test_regions_that_are_gone_leave_their_place(world: World) -> None:
    """Where handles are counted: a mount that lives for years does not grow by those."""
    first = world.region(b"a")
    slot = first.slot
    for _ in range(3):
        world.manager.unlink(None, ROOT_INO, b"a")
        world.close(world.tables.names.get(first.ino))
        first = world.region(b"a")
        assert first.slot == slot
