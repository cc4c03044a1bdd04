"""OPENDIR, READDIRPLUS and RELEASEDIR over a manager on fakes."""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

import pytest

from msharefs.core.inode import INFO_INO, ROOT_INO, Directory
from msharefs.fuse.directories import LISTING_SIZE, MOST_LATER, PLACE_BITS, DirectoryHandlers
from msharefs.fuse.kernel import Opcode
from tests.unit.support.planes import header
from tests.unit.support.worlds import ALICE, World, make_world, refused

ENTRY = 128
"""Bytes of struct fuse_entry_out."""
ROOM = 1 << 20


class Listed(NamedTuple):
    """An entry of a listing."""

    name: bytes
    ino: int
    offset: int


@pytest.fixture
def world() -> World:
    """A mount with nothing in it."""
    return make_world()


@pytest.fixture
def directories(world: World) -> DirectoryHandlers:
    """The handlers under test."""
    return DirectoryHandlers(world.manager)


class Walk:
    """A directory that a process has opened, and how far it has read."""

    def __init__(self, directories: DirectoryHandlers, ino: int = ROOT_INO) -> None:
        self._directories = directories
        self._ino = ino
        payload = directories.opendir(header(Opcode.OPENDIR, ino), memoryview(bytes(8)))
        self.handle, self.flags, _backing = struct.unpack("<QIi", payload)
        self.offset = 0

    def read(self, room: int = ROOM) -> list[Listed]:
        """The next entries."""
        body = struct.pack("<QQIIQII", self.handle, self.offset, room, 0, 0, 0x8000, 0)
        payload = self._directories.readdirplus(
            header(Opcode.READDIRPLUS, self._ino), memoryview(body)
        )
        assert len(payload) <= room
        found = []
        start = 0
        while start < len(payload):
            (nodeid,) = struct.unpack_from("<Q", payload, start)
            ino, self.offset, length, kind = struct.unpack_from("<QQII", payload, start + ENTRY)
            name = payload[start + ENTRY + 24 : start + ENTRY + 24 + length]
            mode = struct.unpack_from("<I", payload, start + 40 + 60)[0]
            assert (nodeid, kind) == (ino, mode >> 12)
            found.append(Listed(name, ino, self.offset))
            start += ENTRY + -(-(24 + length) // 8) * 8
        return found

    def names(self, room: int = ROOM) -> list[bytes]:
        """The names of the next entries, without the dots."""
        return [entry.name for entry in self.read(room) if entry.name not in (b".", b"..")]

    def rewind(self) -> None:
        """As rewinddir(3) does."""
        self.offset = 0


def rename(world: World, old: bytes, new: bytes) -> None:
    """Within the root directory."""
    world.manager.rename(None, ROOT_INO, old, ROOT_INO, new, 0)


def test_a_listing_begins_with_the_dots(world: World, directories: DirectoryHandlers) -> None:
    """ ".", "..", and the names with their numbers and places."""
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    region = world.region(b"a", parent=directory.ino)
    walk = Walk(directories, directory.ino)
    assert walk.read() == [
        (b".", directory.ino, 1),
        (b"..", ROOT_INO, 2),
        (b"a", region.ino, 3),
    ]
    assert walk.read() == []


def test_each_entry_that_is_taken_is_a_look_up(
    world: World, directories: DirectoryHandlers
) -> None:
    """READDIRPLUS tells the kernel of inodes; the dots and what had no room do not count."""
    regions = [world.region(name) for name in (b"a", b"b", b"c")]
    root = world.manager.getattr(ROOT_INO)
    before = root.lookups
    # 160 bytes each, but mshare_info, whose name is longer.
    assert Walk(directories).names(4 * 160 + 168) == [b"mshare_info", b"a", b"b"]
    assert [region.lookups for region in regions] == [2, 2, 1]
    assert root.lookups == before


@pytest.mark.parametrize("room", [168, 330, 500])
def test_a_listing_goes_on_where_it_stopped(
    world: World, directories: DirectoryHandlers, room: int
) -> None:
    """In as many parts as it takes, each name once."""
    for name in (b"a", b"b", b"c", b"d"):
        world.region(name)
    walk = Walk(directories)
    found: list[bytes] = []
    while part := walk.read(room):
        found += [entry.name for entry in part]
    assert found == [b".", b"..", b"mshare_info", b"a", b"b", b"c", b"d"]


def test_an_answer_is_never_long(world: World, directories: DirectoryHandlers) -> None:
    """However much the kernel would take: others wait for their turn."""
    for number in range(500):
        world.region(b"%d" % number)
    walk = Walk(directories)
    first = walk.read()
    assert 390 < len(first) <= LISTING_SIZE // 160
    assert len(first) + len(walk.read()) == 503


@pytest.mark.parametrize("room", [500, 900, ROOM])
def test_names_that_come_later_are_not_listed(
    world: World, directories: DirectoryHandlers, room: int
) -> None:
    """Who renames what he finds finds each name once."""
    names = [b"%d" % number for number in range(20)]
    for name in names:
        world.region(name)
    walk = Walk(directories)
    found: list[bytes] = []
    while part := walk.names(room):
        for name in part:
            if name != b"mshare_info":
                rename(world, name, b"renamed" + name)
        found += part
        assert len(found) <= 21
    assert found == [b"mshare_info", *names]


def test_any_process_goes_on_with_a_listing(world: World, directories: DirectoryHandlers) -> None:
    """Handle and offset are all it takes."""
    for number in range(20):
        world.region(b"%d" % number)
    walk = Walk(directories)
    found = walk.names(900)
    rename(world, b"0", b"late")
    walk._directories = DirectoryHandlers(world.manager)
    while part := walk.names(900):
        found += part
    assert found == [b"mshare_info", *(b"%d" % number for number in range(20))]


def test_a_rewound_listing_shows_what_is_there_then(
    world: World, directories: DirectoryHandlers
) -> None:
    """And ends as well, however often it is rewound."""
    world.region(b"first")
    walk = Walk(directories)
    assert walk.names() == [b"mshare_info", b"first"]
    for name in (b"second", b"third"):
        world.region(name)
        walk.rewind()
        found = walk.names(500)
        rename(world, b"first", b"moved")
        found += walk.names() + walk.names()
        rename(world, b"moved", b"first")
        assert name in found
        assert b"moved" not in found


def test_a_name_that_was_made_before_the_first_look(
    world: World, directories: DirectoryHandlers
) -> None:
    """A descriptor may be old when it is first read."""
    walk = Walk(directories)
    world.region(b"a")
    assert walk.names() == [b"mshare_info", b"a"]


def test_a_directory_that_has_seen_too_many_names_since(
    world: World, directories: DirectoryHandlers
) -> None:
    """Beyond what an offset can carry a rewound listing shows what comes later, too."""
    root = world.manager.getattr(ROOT_INO)
    assert isinstance(root, Directory)
    walk = Walk(directories)
    root.begin_after(walk.handle + MOST_LATER + 4)
    root.put(b"far", INFO_INO)
    assert walk.names(500) == [b"mshare_info"]
    assert walk.offset >> PLACE_BITS == MOST_LATER
    root.put(b"later", INFO_INO)
    assert walk.names() == [b"far", b"later"]


def test_offsets_are_small_where_they_can_be(world: World, directories: DirectoryHandlers) -> None:
    """A 32-bit program without large-file support cannot take large ones."""
    for number in range(100):
        world.region(b"%d" % number)
    walk = Walk(directories)
    world.region(b"late")
    walk.read()
    walk.rewind()
    assert Walk(directories).read()[-1].offset == 104
    assert walk.read()[-1].offset == 1 << PLACE_BITS | 104


def test_only_directories_can_be_listed(world: World, directories: DirectoryHandlers) -> None:
    """ENOTDIR."""
    region = world.region(b"a")
    with refused(errno.ENOTDIR):
        Walk(directories, region.ino)


def test_closing_has_nothing_to_do(directories: DirectoryHandlers) -> None:
    """Success, without payload."""
    body = memoryview(struct.pack("<QIIQ", 3, 0, 0, 0))
    assert directories.releasedir(header(Opcode.RELEASEDIR, ROOT_INO), body) == b""


def test_each_opcode_has_its_handler(directories: DirectoryHandlers) -> None:
    """And no other is taken from pyfuse3."""
    assert {opcode: handler.__name__ for opcode, handler in directories.handlers().items()} == {
        Opcode.OPENDIR: "opendir",
        Opcode.READDIRPLUS: "readdirplus",
        Opcode.RELEASEDIR: "releasedir",
    }
