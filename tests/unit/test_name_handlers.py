"""LOOKUP and what changes names, and FORGET, over a manager on fakes."""

from __future__ import annotations

import errno
import stat
import struct

import pytest
import trio

from msharefs.core import tables as tables_module
from msharefs.core.inode import ROOT_INO
from msharefs.core.namespace import RENAME_NOREPLACE
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.names import NameHandlers
from tests.unit.support.planes import entry, header, name
from tests.unit.support.worlds import ALICE, ALIGN, PAGE, World, make_world, refused

FOR_EVER = 10**9


@pytest.fixture
def world() -> World:
    """A mount with nothing in it."""
    return make_world()


@pytest.fixture
def names(world: World) -> NameHandlers:
    """The handlers under test."""
    return NameHandlers(world.manager)


def test_lookup_gives_the_attributes(world: World, names: NameHandlers) -> None:
    """To be kept for ever, and one look-up is counted."""
    region = world.region(b"a")
    world.map(region, 0, PAGE)
    found = entry(names.lookup(header(Opcode.LOOKUP, ROOT_INO), name(b"a")))
    assert found == {
        "nodeid": region.ino,
        "valid": FOR_EVER,
        "attr_valid": FOR_EVER,
        "ino": region.ino,
        "size": ALIGN,
        "blocks": 8,
        "mode": 0o100600,
        "nlink": 1,
        "uid": ALICE.uid,
        "gid": ALICE.gid,
    }
    assert region.lookups == 2


def test_lookup_of_nothing_is_remembered_too(names: NameHandlers) -> None:
    """Number 0, and for how long: no ENOENT, which the kernel would not keep."""
    found = entry(names.lookup(header(Opcode.LOOKUP, ROOT_INO), name(b"a")))
    assert (found["nodeid"], found["valid"]) == (0, FOR_EVER)


def test_attributes_that_change_by_themselves_are_not_kept(
    world: World, names: NameHandlers
) -> None:
    """st_blocks grows with each touch of MAP_NORESERVE memory."""
    region = world.region(b"a")
    world.map(region, 0, PAGE, flags=0x4000)
    found = entry(names.lookup(header(Opcode.LOOKUP, ROOT_INO), name(b"a")))
    assert (found["valid"], found["attr_valid"]) == (FOR_EVER, 0)


def test_there_are_no_symbolic_links(names: NameHandlers) -> None:
    """EPERM, however long the target is."""
    for target in (b"x", b"x" * 4095):
        with refused(errno.EPERM):
            names.symlink(header(Opcode.SYMLINK, ROOT_INO), memoryview(b"a\0" + target + b"\0"))


def test_mkdir_and_mknod_make_inodes(world: World, names: NameHandlers) -> None:
    """With the caller's owner and group; the entry may be kept for ever."""
    body = struct.pack("<2I", stat.S_IFDIR | 0o750, 0o022) + b"d\0"
    made = entry(names.mkdir(header(Opcode.MKDIR, ROOT_INO), memoryview(body)))
    assert (made["mode"], made["nlink"]) == (stat.S_IFDIR | 0o750, 2)
    assert (made["uid"], made["gid"]) == (ALICE.uid, ALICE.gid)
    assert (made["valid"], made["attr_valid"]) == (FOR_EVER, FOR_EVER)
    body = struct.pack("<4I", stat.S_IFREG | 0o600, 7, 0o022, 0) + b"\xff\0"
    region = entry(names.mknod(header(Opcode.MKNOD, made["nodeid"]), memoryview(body)))
    assert world.tables.regions[region["nodeid"]].creator == ALICE
    assert world.tables.names.existing(made["nodeid"], b"\xff").ino == region["nodeid"]


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_cannot_be_made(names: NameHandlers, kind: int) -> None:
    """EPERM."""
    body = struct.pack("<4I", kind | 0o600, 7, 0, 0) + b"n\0"
    with refused(errno.EPERM):
        names.mknod(header(Opcode.MKNOD, ROOT_INO), memoryview(body))


def test_link_rename_rmdir_unlink(world: World, names: NameHandlers) -> None:
    """Each reaches the manager with its arguments in order."""
    region = world.region(b"a")
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    body = struct.pack("<Q", region.ino) + b"l\0"
    linked = entry(names.link(header(Opcode.LINK, directory.ino), memoryview(body)))
    assert (linked["ino"], linked["nlink"], region.lookups) == (region.ino, 2, 2)
    body = struct.pack("<QII", ROOT_INO, RENAME_NOREPLACE, 0) + b"l\0b\0"
    assert names.rename2(header(Opcode.RENAME2, directory.ino), memoryview(body)) == b""
    assert world.tables.names.existing(ROOT_INO, b"b") is region
    assert names.rmdir(header(Opcode.RMDIR, ROOT_INO), name(b"d")) == b""
    assert directory.nlink == 0
    body = struct.pack("<QII", ROOT_INO, RENAME_NOREPLACE, 0) + b"b\0a\0"
    with refused(errno.EEXIST):
        names.rename2(header(Opcode.RENAME2, ROOT_INO), memoryview(body))
    body = struct.pack("<Q", ROOT_INO) + b"b\0c\0"
    assert names.rename(header(Opcode.RENAME, ROOT_INO), memoryview(body)) == b""
    assert names.unlink(header(Opcode.UNLINK, ROOT_INO), name(b"c")) == b""
    assert region.nlink == 1


def test_what_is_changed_is_changed_for_the_request(world: World, names: NameHandlers) -> None:
    """Also where the kernel sends it again: the same number, less the mark."""
    request = header(Opcode.MKDIR, ROOT_INO)._replace(unique=1 << 63 | 1000)
    names.mkdir(request, memoryview(struct.pack("<2I", 0o700, 0) + b"d\0"))
    applied = world.manager.applied(1000)
    assert applied is not None
    assert (applied.opcode, applied.result) == (
        Opcode.MKDIR,
        world.tables.names.existing(ROOT_INO, b"d").ino,
    )


def test_forget_reaches_the_manager(world: World, names: NameHandlers) -> None:
    """For each inode that is named."""
    regions = [world.region(b"%d" % number) for number in range(3)]
    names.forget(header(Opcode.FORGET, regions[0].ino), memoryview(struct.pack("<Q", 1)))
    batch = struct.pack("<II", 2, 0) + b"".join(struct.pack("<QQ", r.ino, 1) for r in regions[1:])
    names.batch_forget(header(Opcode.BATCH_FORGET, 0), memoryview(batch))
    assert [region.lookups for region in regions] == [0, 0, 0]


async def test_as_much_is_forgotten_as_one_request_holds(world: World, names: NameHandlers) -> None:
    """Some 65,000 inodes, known or not."""
    region = world.region(b"a")
    count = 65_000
    batch = struct.pack("<II", count, 0) + struct.pack("<QQ", region.ino, 1)
    batch += b"".join(struct.pack("<QQ", ino, 1) for ino in range(100, 99 + count))
    later = names.batch_forget(header(Opcode.BATCH_FORGET, 0), memoryview(batch))
    assert not isinstance(later, bytes)
    assert await later == b""
    assert region.lookups == 0


async def test_others_are_served_while_many_are_forgotten(
    world: World, names: NameHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while all of them go. The buffer of the request is used for others by then."""
    slices = 40
    monkeypatch.setattr(tables_module, "DROPPED_AT_ONCE", 4)
    regions = [world.region(b"%d" % number) for number in range(4 * slices)]
    for number, region in enumerate(regions):
        world.manager.release(None, region.ino)
        world.manager.unlink(None, ROOT_INO, b"%d" % number)
    batch = bytearray(struct.pack("<II", len(regions), 0))
    batch += b"".join(struct.pack("<QQ", region.ino, 1) for region in regions)
    later = names.batch_forget(header(Opcode.BATCH_FORGET, 0), memoryview(batch))
    assert not isinstance(later, bytes)
    batch[:] = bytes(len(batch))
    left = [len(world.tables.regions)]

    async def look() -> None:
        while left[-1]:
            await trio.lowlevel.checkpoint()
            left.append(len(world.tables.regions))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        assert await later == b""
    # Both run once in each round of the loop, in any order.
    assert len(set(left)) > slices // 4
    assert world.memory.segments == {}


async def test_regions_that_have_much_are_forgotten_one_by_one(
    world: World, names: NameHandlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To give back the memory of each, or what is recorded of its mappings, takes its time."""
    monkeypatch.setattr(tables_module, "DROP_WORK", 4 * PAGE)
    monkeypatch.setattr(tables_module, "A_MAPPING", PAGE)
    regions = [world.region(b"%d" % number) for number in range(3)]
    world.map(regions[0], 0, 4 * PAGE)
    for page in (0, 2):
        world.map(regions[1], page * PAGE, PAGE)
    for number, region in enumerate(regions):
        world.manager.release(None, region.ino)
        world.manager.unlink(None, ROOT_INO, b"%d" % number)
    steps = world.manager.forget_in_steps([(region.ino, 1) for region in regions])
    assert [len(world.tables.regions) for _between in steps] == [2, 1]
    assert world.tables.regions == {}
    assert world.memory.segments == {}


def test_each_opcode_has_its_handler(names: NameHandlers) -> None:
    """And no other is taken from pyfuse3."""
    assert {opcode: handler.__name__ for opcode, handler in names.handlers().items()} == {
        Opcode.LOOKUP: "lookup",
        Opcode.MKNOD: "mknod",
        Opcode.MKDIR: "mkdir",
        Opcode.LINK: "link",
        Opcode.UNLINK: "unlink",
        Opcode.RMDIR: "rmdir",
        Opcode.RENAME: "rename",
        Opcode.RENAME2: "rename2",
        Opcode.SYMLINK: "symlink",
        Opcode.FORGET: "forget",
        Opcode.BATCH_FORGET: "batch_forget",
    }
