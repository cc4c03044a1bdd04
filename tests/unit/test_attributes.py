"""GETATTR, SETATTR and GETXATTR over a manager on fakes."""

from __future__ import annotations

import errno
import json
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from msharefs.core.inode import INFO_INO, ROOT_INO
from msharefs.fuse import kernel
from msharefs.fuse.attributes import AttributeHandlers, Options
from msharefs.fuse.changes import Changes
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.metrics import Metrics
from msharefs.fuse.write_back import WriteBack
from tests.unit.support.fakes import FakeOptions
from tests.unit.support.files import FakeFiles
from tests.unit.support.planes import FakePlane, header
from tests.unit.support.worlds import ALICE, ALIGN, PAGE, World, make_world, refused

FOR_EVER = 10**9
NS = 10**9
"""Nanoseconds: the year 2262."""


@pytest.fixture
def world() -> World:
    """A mount with nothing in it."""
    return make_world()


@pytest.fixture
def handlers(world: World) -> AttributeHandlers:
    """The handlers under test."""
    return make_handlers(world, lambda: {"regions": len(world.manager.tables.regions)})


def make_handlers(
    world: World,
    status: Callable[[], dict[str, Any]],
    options: Options | None = None,
    advice: int = 0,
) -> AttributeHandlers:
    """Handlers over a world's manager."""
    plane, files = FakePlane(), FakeFiles(world.memory)
    changes = Changes(world.manager, plane)
    write_back = WriteBack(world.manager, changes, plane, files)
    return AttributeHandlers(
        world.manager, changes, write_back, status, options or FakeOptions(), advice
    )


def decoded(payload: bytes | Awaitable[bytes]) -> dict[str, Any]:
    """struct fuse_attr_out, of what is answered at once."""
    assert isinstance(payload, bytes)
    valid = struct.unpack_from("<Q", payload)[0]
    ino, size, blocks, *seconds = struct.unpack_from("<3Q3q", payload, 16)
    *nanoseconds, mode, nlink, uid, gid, _rdev, block_size, _flags = struct.unpack_from(
        "<10I", payload, 16 + 48
    )
    times = [s * NS + ns for s, ns in zip(seconds, nanoseconds, strict=True)]
    return {
        "valid": valid,
        "ino": ino,
        "size": size,
        "blocks": blocks,
        "times": times,
        "mode": mode,
        "nlink": nlink,
        "uid": uid,
        "gid": gid,
        "block_size": block_size,
    }


def setattr_body(valid: int, **fields: int) -> memoryview:
    """struct fuse_setattr_in; the fields that do not count hold other numbers."""
    names = ["size", "lock_owner", "atime", "mtime", "ctime"]
    small = ["atime_ns", "mtime_ns", "ctime_ns", "mode", "unused4", "uid", "gid", "unused5"]
    wide = [fields.get(name, 77) for name in names]
    narrow = [fields.get(name, 77) for name in small]
    return memoryview(struct.pack("<IIQQQqqqIIIIIIII", valid, 0, 2, *wide, *narrow))


def getxattr_body(name: bytes, room: int) -> memoryview:
    """struct fuse_getxattr_in and a name."""
    return memoryview(struct.pack("<II", room, 0) + name + b"\0")


def test_getattr_tells_everything(world: World, handlers: AttributeHandlers) -> None:
    """What stat(2) shows, to be kept for ever."""
    region = world.region(b"a")
    world.map(region, 0, 3 * PAGE)
    payload = handlers.getattr(header(Opcode.GETATTR, region.ino), memoryview(bytes(16)))
    assert decoded(payload) == {
        "valid": FOR_EVER,
        "ino": region.ino,
        "size": ALIGN,
        "blocks": 24,
        "times": [region.atime_ns, region.mtime_ns, region.ctime_ns],
        "mode": 0o100600,
        "nlink": 1,
        "uid": ALICE.uid,
        "gid": ALICE.gid,
        "block_size": 4096,
    }


def test_getattr_of_nothing(handlers: AttributeHandlers) -> None:
    """ENOENT."""
    with refused(errno.ENOENT):
        handlers.getattr(header(Opcode.GETATTR, 99), memoryview(bytes(16)))


@pytest.mark.parametrize(
    ("valid", "fields", "changed"),
    [
        (kernel.FATTR_MODE, {"mode": 0o100755}, {"mode": 0o100755}),
        (kernel.FATTR_UID, {"uid": 5}, {"uid": 5}),
        (kernel.FATTR_GID, {"gid": 6}, {"gid": 6}),
        (0, {}, {}),
        # Bits that are not for us: FH, LOCKOWNER, CTIME, KILL_SUIDGID.
        (1 << 6 | 1 << 9 | 1 << 10 | 1 << 11, {}, {}),
    ],
)
def test_setattr_takes_the_fields_that_count(
    world: World,
    handlers: AttributeHandlers,
    valid: int,
    fields: dict[str, int],
    changed: dict[str, int],
) -> None:
    """The reply shows them; the others stay, whatever stands in their place."""
    region = world.region(b"a")
    before = decoded(handlers.getattr(header(Opcode.GETATTR, region.ino), memoryview(bytes(16))))
    payload = handlers.setattr(header(Opcode.SETATTR, region.ino), setattr_body(valid, **fields))
    after = decoded(payload)
    before["times"][2] = after["times"][2]
    assert after == before | changed


def test_setattr_of_the_size(world: World, handlers: AttributeHandlers) -> None:
    """ftruncate(2); a second time EINVAL."""
    region = world.region(b"a", size=0)
    body = setattr_body(kernel.FATTR_SIZE, size=2 * ALIGN)
    assert decoded(handlers.setattr(header(Opcode.SETATTR, region.ino), body))["size"] == 2 * ALIGN
    with refused(errno.EINVAL):
        handlers.setattr(header(Opcode.SETATTR, region.ino), body)


def test_setattr_of_a_size_beyond_all_bounds(world: World, handlers: AttributeHandlers) -> None:
    """EFBIG for 2^63 bytes, which is a multiple of everything."""
    region = world.region(b"a", size=0)
    with refused(errno.EFBIG):
        body = setattr_body(kernel.FATTR_SIZE, size=1 << 63)
        handlers.setattr(header(Opcode.SETATTR, region.ino), body)


def test_times_are_set(world: World, handlers: AttributeHandlers) -> None:
    """To nanoseconds, before 1970 too."""
    region = world.region(b"a")
    valid = kernel.FATTR_ATIME | kernel.FATTR_MTIME
    body = setattr_body(valid, atime=5, atime_ns=6, mtime=-2, mtime_ns=500_000_000)
    times = decoded(handlers.setattr(header(Opcode.SETATTR, region.ino), body))["times"]
    assert times[:2] == [5 * NS + 6, -1_500_000_000]


def test_times_are_set_to_now(world: World, handlers: AttributeHandlers) -> None:
    """utimensat(2) with UTIME_NOW, whatever stands in the fields."""
    region = world.region(b"a")
    valid = (
        kernel.FATTR_ATIME | kernel.FATTR_ATIME_NOW | kernel.FATTR_MTIME | kernel.FATTR_MTIME_NOW
    )
    before = time.time_ns()
    payload = handlers.setattr(header(Opcode.SETATTR, region.ino), setattr_body(valid))
    atime, mtime, _ctime = decoded(payload)["times"]
    assert before <= atime == mtime <= time.time_ns()


@pytest.mark.parametrize("seconds", [10**10, (1 << 63) - 1, -(10**10), -(1 << 63)])
def test_times_beyond_64_bits_of_nanoseconds(
    world: World, handlers: AttributeHandlers, seconds: int
) -> None:
    """Kept like any other."""
    region = world.region(b"a")
    valid = kernel.FATTR_ATIME | kernel.FATTR_MTIME
    body = setattr_body(valid, atime=seconds, atime_ns=1, mtime=seconds, mtime_ns=999_999_999)
    times = decoded(handlers.setattr(header(Opcode.SETATTR, region.ino), body))["times"]
    assert times[:2] == [seconds * NS + 1, seconds * NS + 999_999_999]
    assert region.atime_ns == seconds * NS + 1


def test_mshare_info_takes_no_change(handlers: AttributeHandlers) -> None:
    """EPERM."""
    with refused(errno.EPERM):
        body = setattr_body(kernel.FATTR_MODE, mode=0o777)
        handlers.setattr(header(Opcode.SETATTR, INFO_INO), body)


# Extended attributes


def ask(handlers: AttributeHandlers, ino: int, name: bytes, room: int = 65536) -> bytes:
    """GETXATTR, of what is answered at once."""
    answer = handlers.getxattr(header(Opcode.GETXATTR, ino), getxattr_body(name, room))
    assert isinstance(answer, bytes)
    return answer


def test_the_layout_of_a_region(world: World, handlers: AttributeHandlers) -> None:
    """From the beginning, or from an offset."""
    region = world.region(b"a")
    for page in (0, 2, 4):
        world.map(region, page * PAGE, PAGE)
    offsets = {
        name: [m["offset"] for m in json.loads(ask(handlers, region.ino, name))["mappings"]]
        for name in (
            b"user.msharefs.layout",
            b"user.msharefs.layout.0",
            b"user.msharefs.layout.8192",
            b"user.msharefs.layout.99999999999999999999999",
        )
    }
    assert list(offsets.values()) == [
        [0, 2 * PAGE, 4 * PAGE],
        [0, 2 * PAGE, 4 * PAGE],
        [2 * PAGE, 4 * PAGE],
        [],
    ]


def test_the_status_of_the_mount(world: World, handlers: AttributeHandlers) -> None:
    """Of the root directory, composed when it is asked for."""
    assert json.loads(ask(handlers, ROOT_INO, b"user.msharefs.status")) == {"regions": 0}
    world.region(b"a")
    assert json.loads(ask(handlers, ROOT_INO, b"user.msharefs.status")) == {"regions": 1}


@pytest.mark.parametrize(
    "name",
    [
        b"user.msharefs.layout.",
        b"user.msharefs.layout.-1",
        b"user.msharefs.layout.1.2",
        b"user.msharefs.layout.0x10",
        b"user.msharefs.layout. 1",
        b"user.msharefs.layout.\xd9\xa1",
        b"user.msharefs.layouts",
        b"user.msharefs.changed.",
        b"user.msharefs.changed.x",
        b"user.msharefs.changed.1.2",
        b"user.msharefs.changed1",
        b"user.msharefs.status",
        b"user.msharefs.",
        b"user.msharefs.advice",
        b"user.other",
    ],
)
def test_a_region_has_no_other_attribute(
    world: World, handlers: AttributeHandlers, name: bytes
) -> None:
    """ENODATA."""
    region = world.region(b"a")
    with refused(errno.ENODATA):
        ask(handlers, region.ino, name)


@pytest.mark.parametrize(
    "name", [b"security.selinux", b"security.capability", b"system.posix_acl_access", b"user", b""]
)
def test_what_no_inode_can_have(world: World, handlers: AttributeHandlers, name: bytes) -> None:
    """EOPNOTSUPP, which ls(1) remembers for the file system."""
    for ino in (world.region(b"a").ino, ROOT_INO, INFO_INO):
        with refused(errno.EOPNOTSUPP):
            ask(handlers, ino, name)


def test_a_region_tells_what_large_attachments_are_advised_with(world: World) -> None:
    """Where the data plane has an advice; ENODATA otherwise (above)."""
    handlers = make_handlers(world, dict, advice=14)
    region = world.region(b"a")
    assert int(ask(handlers, region.ino, b"user.msharefs.advice")) == 14
    with refused(errno.ENODATA):
        ask(handlers, ROOT_INO, b"user.msharefs.advice")


def test_directories_and_mshare_info_have_none(world: World, handlers: AttributeHandlers) -> None:
    """But the root directory its status."""
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    for ino in (directory.ino, INFO_INO):
        for name in (b"user.msharefs.status", b"user.msharefs.layout", b"user.msharefs.changed"):
            with refused(errno.ENODATA):
                ask(handlers, ino, name)
    with refused(errno.ENODATA):
        ask(handlers, ROOT_INO, b"user.msharefs.layout")


def test_nothing_was_changed_where_nothing_goes_back(
    world: World, handlers: AttributeHandlers
) -> None:
    """It is known at once."""
    region = world.region(b"a")
    world.map(region, 0, PAGE)
    for name in (b"user.msharefs.changed", b"user.msharefs.changed.0"):
        assert ask(handlers, region.ino, name) == b"0".ljust(20)
        assert announced(handlers, region.ino, name) == 20


def announced(handlers: AttributeHandlers, ino: int, name: bytes) -> int:
    """What GETXATTR without room says of a value's size."""
    size, padding = struct.unpack("<II", ask(handlers, ino, name, 0))
    assert padding == 0
    return int(size)


def test_room_for_an_attribute(world: World, handlers: AttributeHandlers) -> None:
    """0 asks for the size, which the value then has, filled with blanks; with less than its
    text needs it is ERANGE, and without having asked it has no blanks."""
    region = world.region(b"a")
    name = b"user.msharefs.layout"
    text = ask(handlers, region.ino, name)
    assert not text.endswith(b" ")
    size = announced(handlers, region.ino, name)
    assert size > len(text)
    assert ask(handlers, region.ino, name, size) == text.ljust(size)
    assert ask(handlers, region.ino, name, len(text)) == text
    with refused(errno.ERANGE):
        ask(handlers, region.ino, name, len(text) - 1)


@pytest.mark.parametrize("mappings", [0, 1, 40, 490])
def test_a_layout_that_grows_keeps_the_size(
    world: World, handlers: AttributeHandlers, mappings: int
) -> None:
    """Whatever is mapped between the question for the size and the reading: what has no room
    any more is behind "next"."""
    region = world.region(b"a", size=8 * ALIGN)
    for page in range(mappings):
        world.map(region, 2 * page * PAGE, PAGE)
    name = b"user.msharefs.layout"
    size = announced(handlers, region.ino, name)
    for page in range(mappings, mappings + 600):
        world.map(region, 2 * page * PAGE, PAGE)
    region.maps = region.unmaps = region.opens = 1 << 62
    value = ask(handlers, region.ino, name, size)
    assert len(value) == size
    document = json.loads(value)
    shown = len(document["mappings"])
    assert shown >= max(1, mappings)
    assert document["next"] == 2 * shown * PAGE
    assert document["mapping_count"] == mappings + 600


def test_a_status_that_grows_keeps_the_size(world: World) -> None:
    """Every kind of request that there is may be seen for the first time, and often."""
    metrics = Metrics()
    handlers = make_handlers(world, metrics.report)
    size = announced(handlers, ROOT_INO, b"user.msharefs.status")
    for opcode in range(1, 54):
        metrics.record(opcode, error=errno.EINVAL, seconds=123456.123456)
    value = ask(handlers, ROOT_INO, b"user.msharefs.status", size)
    assert len(value) == size
    assert len(json.loads(value)) == 53


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"user.msharefs.layout", errno.EPERM),
        (b"user.msharefs.anything", errno.EPERM),
        (b"user.other", errno.EOPNOTSUPP),
        (b"security.selinux", errno.EOPNOTSUPP),
    ],
)
def test_attributes_cannot_be_set(handlers: AttributeHandlers, name: bytes, code: int) -> None:
    """EPERM for what the mount tells, EOPNOTSUPP for what it would have to store."""
    value = b"user.msharefs.layout\0"
    body = struct.pack("=II", len(value), 0) + name + b"\0" + value
    with refused(code):
        handlers.setxattr(header(Opcode.SETXATTR, ROOT_INO), memoryview(body))


def setxattr_body(name: bytes, value: bytes) -> memoryview:
    """struct fuse_setxattr_in, name and value, and something behind them."""
    return memoryview(struct.pack("=II", len(value), 0) + name + b"\0" + value)


def later(answer: bytes | Awaitable[bytes]) -> bytes:
    """What is answered when others may have been served."""
    assert not isinstance(answer, bytes)

    async def wait() -> bytes:
        return await answer

    return trio.run(wait)


def test_options_are_read_and_set(world: World) -> None:
    """On the root directory, by the name for everybody and by that which the kernel guards."""
    options = FakeOptions()
    handlers = make_handlers(world, dict, options)
    assert ask(handlers, ROOT_INO, b"user.msharefs.options", 100).rstrip() == (
        b"size=4096,metrics=off"
    )
    request = header(Opcode.SETXATTR, ROOT_INO)
    for name in (b"user.msharefs.options", b"trusted.msharefs.options"):
        assert later(handlers.setxattr(request, setxattr_body(name, b"size=2\0,x"))) == b""
    assert options.asked == [(b"size=2\0,x", 1001, False), (b"size=2\0,x", 1001, True)]
    with refused(errno.EBUSY):
        later(handlers.setxattr(request, setxattr_body(b"user.msharefs.options", b"size=1")))


def test_options_are_the_mounts_alone(world: World, handlers: AttributeHandlers) -> None:
    """A region has none, and the guarded name shows nothing."""
    region = world.region(b"r")
    for ino, name in (
        (region.ino, b"user.msharefs.options"),
        (INFO_INO, b"user.msharefs.options"),
        (ROOT_INO, b"trusted.msharefs.options"),
    ):
        with refused(errno.ENODATA):
            ask(handlers, ino, name, 100)
    for name, code in (
        (b"user.msharefs.options", errno.EPERM),
        (b"trusted.msharefs.options", errno.EOPNOTSUPP),
    ):
        with refused(code):
            handlers.setxattr(header(Opcode.SETXATTR, region.ino), setxattr_body(name, b"size=2"))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"user.msharefs.layout", errno.EPERM),
        (b"user.msharefs.status", errno.EPERM),
        (b"user.msharefs.anything", errno.EPERM),
        (b"user.other", errno.EOPNOTSUPP),
        (b"security.selinux", errno.EOPNOTSUPP),
        (b"system.posix_acl_access", errno.EOPNOTSUPP),
    ],
)
def test_attributes_cannot_be_removed(
    world: World, handlers: AttributeHandlers, name: bytes, code: int
) -> None:
    """EPERM for what the mount tells, EOPNOTSUPP for what it would have to store."""
    region = world.region(b"a")
    with refused(code):
        handlers.removexattr(header(Opcode.REMOVEXATTR, region.ino), memoryview(name + b"\0"))


def test_each_opcode_has_its_handler(handlers: AttributeHandlers) -> None:
    """And no other is taken from pyfuse3."""
    assert {opcode: handler.__name__ for opcode, handler in handlers.handlers().items()} == {
        Opcode.GETATTR: "getattr",
        Opcode.SETATTR: "setattr",
        Opcode.GETXATTR: "getxattr",
        Opcode.SETXATTR: "setxattr",
        Opcode.REMOVEXATTR: "removexattr",
    }
