"""Requests that come again: the answer that the first server would have given.

Each is served once by handlers, as the switchboard calls them; then the same request comes
to a second server, which must give the same bytes without doing it again.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from msharefs import abi
from msharefs.core.inode import INFO_INO, ROOT_INO
from msharefs.core.mapper import Limits
from msharefs.fuse.attributes import AttributeHandlers
from msharefs.fuse.changes import Changes
from msharefs.fuse.control import Control
from msharefs.fuse.handles import HandleHandlers
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.names import NameHandlers
from msharefs.fuse.replay import Replay
from msharefs.fuse.write_back import WriteBack
from tests.unit.support.durables import Host
from tests.unit.support.fakes import FakeOptions
from tests.unit.support.files import FakeFiles
from tests.unit.support.planes import FakePlane, header
from tests.unit.support.worlds import ALICE, ANONYMOUS, MIB, PAGE, READ_WRITE, World

RESENT = 1 << 63
SIZE = 4 * MIB


class Server:
    """A manager, its handlers and its replay."""

    def __init__(self, world: World) -> None:
        plane, manager = FakePlane(), world.manager
        changes = Changes(manager, plane)
        files = FakeFiles(world.memory)
        write_back = WriteBack(manager, changes, plane, files)
        self.world = world
        self.replay = Replay(manager, plane)
        self._handlers: Mapping[int, Callable[[Header, memoryview], object]] = {
            **NameHandlers(manager).handlers(),
            **HandleHandlers(manager, plane, write_back).handlers(),
            **AttributeHandlers(manager, changes, write_back, dict, FakeOptions()).handlers(),
            **Control(manager, changes, files, write_back).handlers(),
        }

    def serve(self, request: Header, body: bytes) -> bytes:
        """A request that comes for the first time."""
        assert self.replay.answer(request, memoryview(body)) is None
        answer = self._handlers[request.opcode](request, memoryview(body))
        assert isinstance(answer, bytes)
        return answer

    def again(self, request: Header, body: bytes) -> bytes | None:
        """The same request, marked by the kernel."""
        marked = request._replace(unique=request.unique | RESENT)
        return self.replay.answer(marked, memoryview(body))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Two servers run here, one after the other."""
    host = Host(tmp_path, Limits(PAGE, 1 << 40, 100, 100), 64 * MIB)
    yield host
    host.close()


@pytest.fixture
def first(host: Host) -> Server:
    """With a region, inode 3, that has a size, one without, inode 4, and a directory, 5."""
    server = Server(host.start())
    world = server.world
    world.region(b"a", size=SIZE)
    world.region(b"b", size=0)
    world.manager.mkdir(None, ROOT_INO, b"empty", 0o700, ALICE)
    host.kernel.known = {3, 4, 5}
    return server


def ioctl_body(command: int, payload: bytes) -> bytes:
    """struct fuse_ioctl_in and its payload."""
    return struct.pack("<QIIQII", os.O_RDWR, 0, command, 0, len(payload), 0) + payload


MAP = abi.CreateMapping(0, PAGE, 0, READ_WRITE, ANONYMOUS | abi.MAP_FIXED_NOREPLACE).pack()
SETATTR = struct.pack("<IIQQQqqqIIIIIIII", 8, 0, 2, SIZE, *[0] * 12)

REQUESTS = [
    pytest.param(
        Opcode.CREATE, ROOT_INO, struct.pack("<4I", 0xC2, 0o100600, 0, 0) + b"c\0", id="create"
    ),
    pytest.param(
        Opcode.MKNOD, ROOT_INO, struct.pack("<4I", 0o100600, 0, 0, 0) + b"n\0", id="mknod"
    ),
    pytest.param(Opcode.MKDIR, ROOT_INO, struct.pack("<2I", 0o700, 0) + b"d\0", id="mkdir"),
    pytest.param(Opcode.LINK, ROOT_INO, struct.pack("<Q", 3) + b"l\0", id="link"),
    pytest.param(Opcode.UNLINK, ROOT_INO, b"a\0", id="unlink"),
    pytest.param(Opcode.RMDIR, ROOT_INO, b"empty\0", id="rmdir"),
    pytest.param(Opcode.RENAME, ROOT_INO, struct.pack("<Q", 1) + b"a\0c\0", id="rename"),
    pytest.param(Opcode.RENAME2, ROOT_INO, struct.pack("<QII", 1, 2, 0) + b"a\0b\0", id="exchange"),
    pytest.param(Opcode.OPEN, 3, struct.pack("<2I", os.O_RDWR, 0), id="open"),
    pytest.param(Opcode.RELEASE, 3, bytes(24), id="release"),
    pytest.param(Opcode.SETATTR, 4, SETATTR, id="setattr"),
    pytest.param(Opcode.FALLOCATE, 4, struct.pack("<QQQII", 2, 0, SIZE, 0, 0), id="fallocate"),
    pytest.param(Opcode.IOCTL, 3, ioctl_body(abi.CREATE_MAPPING, MAP), id="map"),
    pytest.param(Opcode.IOCTL, 3, ioctl_body(abi.UNMAP, abi.Unmap(0, SIZE).pack()), id="unmap"),
]


@pytest.mark.parametrize(("opcode", "nodeid", "body"), REQUESTS)
def test_the_second_answer_is_the_first(
    host: Host, first: Server, opcode: Opcode, nodeid: int, body: bytes
) -> None:
    """To the byte, and nothing has changed: a create with O_EXCL is not EEXIST."""
    request = header(opcode, nodeid)._replace(unique=1000)
    answer = first.serve(request, body)
    second = Server(host.start())
    before = second.world.snapshot()
    assert second.again(request, body) == answer
    assert second.world.snapshot() == before
    assert second.replay.resent == 1


@pytest.mark.parametrize(("opcode", "nodeid", "body"), REQUESTS)
def test_what_was_not_applied_is_served(
    host: Host, first: Server, opcode: Opcode, nodeid: int, body: bytes
) -> None:
    """It was only read: no answer is known, so a handler serves it."""
    request = header(opcode, nodeid)._replace(unique=1000)
    expected = Server(host.start())
    assert expected.again(request, body) is None
    assert expected.serve(request, body) is not None
    assert expected.replay.resent == 1


def test_a_request_without_the_mark_is_new(host: Host, first: Server) -> None:
    """Whatever was applied before."""
    request = header(Opcode.UNLINK, ROOT_INO)._replace(unique=1000)
    first.serve(request, b"a\0")
    second = Server(host.start())
    assert second.replay.answer(request, memoryview(b"a\0")) is None
    assert second.replay.resent == 0


def test_another_request_of_the_same_number(host: Host, first: Server) -> None:
    """What it was is remembered, too."""
    first.serve(header(Opcode.UNLINK, ROOT_INO)._replace(unique=1000), b"a\0")
    other = header(Opcode.SETATTR, 4)._replace(unique=1000)
    assert Server(host.start()).again(other, SETATTR) is None


def test_an_open_of_mshare_info(host: Host, first: Server) -> None:
    """Its handles are not counted, so it is simply served again."""
    request = header(Opcode.OPEN, INFO_INO)._replace(unique=1000)
    body = struct.pack("<2I", os.O_RDONLY, 0)
    first.serve(request, body)
    assert Server(host.start()).again(request, body) is None
