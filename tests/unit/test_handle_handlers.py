"""CREATE, OPEN, RELEASE, READ and WRITE over a manager on fakes."""

from __future__ import annotations

import errno
import os
import struct

import pytest

from msharefs.core.inode import INFO_INO, ROOT_INO
from msharefs.fuse.changes import Changes
from msharefs.fuse.handles import HandleHandlers
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.write_back import WriteBack
from tests.unit.support.files import FakeFiles
from tests.unit.support.planes import FakePlane, entry, header
from tests.unit.support.worlds import ALICE, World, make_world, refused

FOR_EVER = 10**9


@pytest.fixture
def world() -> World:
    """A mount with nothing in it."""
    return make_world()


@pytest.fixture
def plane() -> FakePlane:
    """Records what is asked of it."""
    return FakePlane()


@pytest.fixture
def handles(world: World, plane: FakePlane) -> HandleHandlers:
    """The handlers under test."""
    write_back = WriteBack(
        world.manager, Changes(world.manager, plane), plane, FakeFiles(world.memory)
    )
    return HandleHandlers(world.manager, plane, write_back)


def opened(payload: bytes) -> tuple[int, int, int]:
    """struct fuse_open_out: handle, flags, backing id."""
    handle, flags, backing_id = struct.unpack("<QIi", payload)
    return handle, flags, backing_id


def test_create_makes_and_opens(world: World, handles: HandleHandlers) -> None:
    """Entry and open in one reply, with the data plane's flags."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
    body = memoryview(struct.pack("<4I", flags, 0o100640, 0o022, 0) + b"\xffname\0")
    payload = handles.create(header(Opcode.CREATE, ROOT_INO), body)
    (region,) = world.manager.tables.regions.values()
    assert len(payload) == 144
    made = entry(payload)
    assert (made["nodeid"], made["mode"], made["uid"]) == (region.ino, 0o100640, ALICE.uid)
    assert opened(payload[128:]) == (os.O_RDWR, 0x81, world.kernel.registrations[region.ino])
    assert (region.creator, region.opens) == (ALICE, 1)
    assert world.manager.lookup(ROOT_INO, b"\xffname") is region


@pytest.mark.parametrize(
    ("flags", "handle"),
    [
        (os.O_RDONLY, 0),
        (os.O_WRONLY, 1),
        (os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK, 2),
        (os.O_RDONLY | os.O_DIRECT, 0),
    ],
)
def test_a_handle_is_the_access_mode(
    world: World, handles: HandleHandlers, flags: int, handle: int
) -> None:
    """So that it means the same to a server that comes later."""
    region = world.region(b"a")
    payload = handles.open(
        header(Opcode.OPEN, region.ino), memoryview(struct.pack("<2I", flags, 0))
    )
    assert opened(bytes(payload)) == (handle, 0x81, world.kernel.registrations[region.ino])


def test_mshare_info_may_be_cached(handles: HandleHandlers) -> None:
    """An ordinary file that never changes: FOPEN_KEEP_CACHE, no backing id."""
    body = memoryview(struct.pack("<2I", os.O_RDONLY, 0))
    assert opened(handles.open(header(Opcode.OPEN, INFO_INO), body)) == (0, 2, 0)
    with refused(errno.EACCES):
        handles.open(header(Opcode.OPEN, INFO_INO), memoryview(struct.pack("<2I", os.O_RDWR, 0)))


def test_flush_is_asked_once(handles: HandleHandlers) -> None:
    """ENOSYS, and the kernel never sends it again."""
    with refused(errno.ENOSYS):
        handles.flush(header(Opcode.FLUSH, 3), memoryview(bytes(24)))


@pytest.mark.parametrize(
    ("offset", "size", "text"),
    [(0, 4096, b"2097152\n"), (0, 3, b"209"), (3, 100, b"7152\n"), (8, 100, b""), (999, 1, b"")],
)
def test_reading_mshare_info(handles: HandleHandlers, offset: int, size: int, text: bytes) -> None:
    """The part that is asked for."""
    body = memoryview(struct.pack("<QQIIQII", 0, offset, size, 2, 0, 0, 0))
    assert handles.read(header(Opcode.READ, INFO_INO), body) == text


def test_reading_a_region_is_the_planes_business(world: World, handles: HandleHandlers) -> None:
    """A page fault or read(2): it can tell them apart."""
    region = world.region(b"a")
    body = memoryview(struct.pack("<QQIIQII", 2, 4096, 8192, 0, 0, 0, 0))
    answer = handles.read(header(Opcode.READ, region.ino), body)
    assert isinstance(answer, memoryview)
    assert bytes(answer) == b"%d: 4096+8192" % region.ino


def test_writing_a_region_is_the_planes_business(
    world: World, plane: FakePlane, handles: HandleHandlers
) -> None:
    """A write-back or write(2); the reply says how much was taken."""
    region = world.region(b"a")
    body = memoryview(struct.pack("<QQIIQII", 2, 4096, 4, 1, 0, 0, 0) + b"data")
    assert handles.write(header(Opcode.WRITE, region.ino), body) == struct.pack("<II", 4, 0)
    assert plane.log == [("write b'data' at 4096", region.ino)]


@pytest.mark.parametrize("ino", [ROOT_INO, INFO_INO])
def test_nothing_else_is_written(handles: HandleHandlers, ino: int) -> None:
    """EINVAL, whatever got so far."""
    body = memoryview(struct.pack("<QQIIQII", 2, 0, 4, 0, 0, 0, 0) + b"data")
    with refused(errno.EINVAL):
        handles.write(header(Opcode.WRITE, ino), body)


@pytest.mark.parametrize("opcode", [Opcode.COPY_FILE_RANGE, Opcode.COPY_FILE_RANGE_64])
def test_copy_file_range_is_refused(world: World, handles: HandleHandlers, opcode: Opcode) -> None:
    """EINVAL, not ENOSYS, which would make the kernel copy by reading and writing."""
    region = world.region(b"a")
    with refused(errno.EINVAL):
        handles.handlers()[opcode](header(opcode, region.ino), memoryview(bytes(56)))


def test_release_reaches_the_manager(world: World, handles: HandleHandlers) -> None:
    """It has nothing to say."""
    region = world.region(b"a")
    assert handles.release(header(Opcode.RELEASE, region.ino), memoryview(bytes(24))) == b""
    assert region.opens == 0


def test_each_opcode_has_its_handler(handles: HandleHandlers) -> None:
    """And no other is taken from pyfuse3."""
    assert {opcode: handler.__name__ for opcode, handler in handles.handlers().items()} == {
        Opcode.CREATE: "create",
        Opcode.OPEN: "open",
        Opcode.RELEASE: "release",
        Opcode.FLUSH: "flush",
        Opcode.READ: "read",
        Opcode.WRITE: "write",
        Opcode.COPY_FILE_RANGE: "refuse",
        Opcode.COPY_FILE_RANGE_64: "refuse",
    }
