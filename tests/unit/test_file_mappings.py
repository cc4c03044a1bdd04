"""Mappings of files, over a manager and callers' files on fakes: what may be mapped, where the
bytes go, and that whatever fails leaves everything as it was."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest
import trio
import trio.testing

from msharefs import abi
from msharefs.core import contents, recovery
from msharefs.core.contents import SCRATCH
from msharefs.core.errors import RefusedError
from msharefs.core.layout import MappedFile, Mapping
from msharefs.core.mappable import MAPPABLE, check_file
from msharefs.core.region import Region
from msharefs.fuse.changes import Changes
from msharefs.fuse.control import Control
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.write_back import WriteBack
from tests.unit.support.files import FakeFile, FakeFiles
from tests.unit.support.planes import FakePlane, header
from tests.unit.support.worlds import (
    ANONYMOUS,
    MIB,
    PAGE,
    World,
    make_world,
    refused,
    segment_of,
)

SIZE = 2 * MIB
READ, WRITE, EXEC = abi.PROT_READ, abi.PROT_WRITE, abi.PROT_EXEC
FROM_FILE = abi.MAP_SHARED | abi.MAP_FIXED
FD = 5
CONTENTS = b"".join(b"%04d" % number * (PAGE // 4) for number in range(8)) + b"the end"
"""Eight pages that can be told apart, and a part of a ninth."""
SUCCESS = bytes(16)
SEAL_WRITE, SEAL_FUTURE_WRITE, SEAL_SHRINK = 8, 16, 2


# What may be mapped


@pytest.mark.parametrize("file_system", sorted(MAPPABLE))
def test_files_of_known_file_systems(file_system: str) -> None:
    """Read, by whoever has it open for reading."""
    check_file(FakeFile(file_system=file_system), READ)
    check_file(FakeFile(file_system=file_system, flags=os.O_RDONLY | os.O_APPEND), READ)
    check_file(FakeFile(file_system=file_system, seals=SEAL_WRITE | SEAL_SHRINK), 0)


@pytest.mark.parametrize(
    ("file", "prot", "code"),
    [
        (FakeFile(flags=os.O_PATH), READ, errno.EBADF),
        (FakeFile(mode=stat.S_IFDIR, flags=os.O_PATH), READ, errno.EBADF),
        (FakeFile(mode=stat.S_IFDIR), READ, errno.ENODEV),
        (FakeFile(mode=stat.S_IFIFO), READ, errno.ENODEV),
        (FakeFile(mode=stat.S_IFSOCK), READ, errno.ENODEV),
        (FakeFile(mode=stat.S_IFCHR), READ, errno.ENODEV),
        (FakeFile(mode=stat.S_IFBLK), READ, errno.ENODEV),
        (FakeFile(mode=0o600), READ, errno.ENODEV),
        (FakeFile(file_system="fuse.msharefs"), READ, errno.EINVAL),
        (FakeFile(file_system="fuse.sshfs"), READ, errno.ENODEV),
        (FakeFile(file_system="proc"), READ, errno.ENODEV),
        (FakeFile(file_system=""), READ, errno.ENODEV),
        (FakeFile(flags=os.O_WRONLY), READ, errno.EACCES),
        (FakeFile(flags=os.O_WRONLY), 0, errno.EACCES),
        (FakeFile(flags=os.O_RDONLY), READ | WRITE, errno.EACCES),
        (FakeFile(flags=os.O_RDWR | os.O_APPEND), READ | WRITE, errno.EACCES),
        (FakeFile(seals=SEAL_WRITE), READ | WRITE, errno.EPERM),
        (FakeFile(seals=SEAL_FUTURE_WRITE), WRITE, errno.EPERM),
        (FakeFile(), READ | EXEC, errno.EPERM),
        (FakeFile(flags=os.O_RDONLY | os.O_DIRECT), READ, errno.EINVAL),
    ],
)
def test_what_may_not_be_mapped(file: FakeFile, prot: int, code: int) -> None:
    """Each with its errno; of several reasons the first counts."""
    with refused(code):
        check_file(file, prot)


# Where the bytes go


@dataclass
class Desk:
    """A Control, its world, and a caller who has a file open as descriptor 5."""

    world: World

    def __post_init__(self) -> None:
        self.file = FakeFile(CONTENTS, flags=os.O_RDONLY)
        self.files = FakeFiles(self.world.memory, {FD: self.file})
        self.plane = FakePlane()
        changes = Changes(self.world.manager, self.plane)
        self.write_back = WriteBack(self.world.manager, changes, self.plane, self.files)
        self.control = Control(self.world.manager, changes, self.files, self.write_back)
        self.region = self.world.region(size=SIZE)

    def request(self, command: int, payload: bytes) -> bytes | Awaitable[bytes]:
        """An ioctl of process 4242 of user 1001."""
        head = struct.pack("<QIIQII", os.O_RDWR, 0, command, 0, len(payload), 0)
        caller = header(Opcode.IOCTL, self.region.ino)._replace(pid=4242, uid=1001, gid=2001)
        return self.control.ioctl(caller, memoryview(head + payload))

    def map(self, wanted: abi.CreateMapping) -> Awaitable[bytes]:
        """CREATE_MAPPING of a file, which is never answered at once."""
        answer = self.request(abi.CREATE_MAPPING, wanted.pack())
        assert not isinstance(answer, bytes)
        return answer

    @property
    def bytes(self) -> bytes:
        """Of the first 16 pages of the region."""
        return segment_of(self.region).peek(0, 16 * PAGE)


def of_file(start: int, size: int, offset: int = 0, *, fd: int = FD) -> abi.CreateMapping:
    """Pages of a file at pages of the region."""
    return abi.CreateMapping(start * PAGE, size * PAGE, offset * PAGE, READ, FROM_FILE, fd)


@pytest.fixture
def desk() -> Desk:
    """A mount of 64 MiB."""
    return Desk(make_world())


async def test_a_file_in_a_hole(desk: Desk) -> None:
    """Its bytes are there, zeros behind its end; the layout says what was mapped by whom."""
    assert await desk.map(of_file(2, 10, 1)) == SUCCESS
    assert desk.bytes == (bytes(2 * PAGE) + CONTENTS[PAGE:]).ljust(16 * PAGE, b"\0")
    file = MappedFile(7, 70, PAGE, 1001, "/tmp/file")
    assert list(desk.region.layout) == [Mapping(2 * PAGE, 12 * PAGE, READ, file=file)]
    assert desk.files.asked == [(4242, 1001, 2001)]
    assert desk.files.taken == []
    assert desk.world.memory.used() == 10 * PAGE
    assert desk.world.tables.ledger.pending == 0


async def test_a_file_over_mappings_and_holes(desk: Desk) -> None:
    """What was mapped is replaced, what was not gets memory, and what is beside stays."""
    for start in (1, 4):
        desk.world.map(desk.region, start * PAGE, 2 * PAGE)
    segment_of(desk.region).poke(PAGE, b"old" * 64)
    beside = desk.bytes[PAGE : 2 * PAGE]
    assert await desk.map(of_file(2, 3)) == SUCCESS
    assert desk.bytes[PAGE : 5 * PAGE] == beside + CONTENTS[: 3 * PAGE]
    assert [m.file is not None for m in desk.region.layout] == [False, True, False]
    assert list(desk.world.memory.segments) == [desk.region.ino]
    assert desk.world.memory.used() == 5 * PAGE


async def test_old_bytes_are_there_until_all_is_read(desk: Desk) -> None:
    """A process that has the region attached sees the old bytes or the new ones of a mapping."""
    desk.world.map(desk.region, 0, 2 * PAGE)
    segment_of(desk.region).poke(0, b"old" * 64)
    seen = []

    async def look() -> None:
        seen.append(desk.bytes[: 2 * PAGE])

    desk.file.meanwhile = look
    before = desk.bytes[: 2 * PAGE]
    await desk.map(of_file(0, 2))
    assert seen == [before]
    assert desk.bytes[: 2 * PAGE] == CONTENTS[: 2 * PAGE]


async def test_a_part_of_a_mapped_file(desk: Desk) -> None:
    """Each part knows where in the file it begins, also from the journal."""
    await desk.map(of_file(0, 8))
    desk.world.unmap(desk.region, 3 * PAGE, PAGE)
    offsets = [m.file and m.file.offset for m in desk.region.layout]
    assert offsets == [0, 4 * PAGE]
    stored = [mapping for _ino, mapping in desk.world.manager.journal.mappings()]
    assert stored == list(desk.region.layout)


async def test_mappings_of_files_are_counted(desk: Desk) -> None:
    """Each part, for the mount and for whom the region belongs to."""
    tables, region = desk.world.tables, desk.region
    await desk.map(of_file(0, 8))
    desk.world.unmap(region, 3 * PAGE, PAGE)
    await desk.map(of_file(9, 2))
    desk.world.map(region, 0, 3 * PAGE)
    assert tables.ledger.files == tables.quotas.of(region.uid).files == 2
    desk.world.unmap(region, 0, SIZE)
    assert tables.ledger.files == tables.quotas.of(region.uid).files == 0
    assert tables.ledger.growing_files == 0


def test_a_path_of_any_bytes_is_remembered() -> None:
    """What is no UTF-8, too."""
    journal = make_world().manager.journal
    file = MappedFile(1, 2, 3, 4, os.fsdecode(b"/tmp/\xff\n\"'"))
    with journal.change(None):
        journal.replace_mappings(9, [], [Mapping(0, PAGE, READ, file=file)])
    assert [mapping.file for _ino, mapping in journal.mappings()] == [file]


# Holes of files


SPARSE = CONTENTS[: 2 * PAGE] + bytes(1000 * PAGE) + CONTENTS[:PAGE] + bytes(PAGE)
SPARSE_PAGES = 1004


def sparsely(start: int, size: int) -> abi.CreateMapping:
    """Pages of the file, whose holes need no memory."""
    return replace(of_file(start, size), flags=FROM_FILE | abi.MAP_NORESERVE)


@pytest.fixture
def sparse_desk() -> Desk:
    """A mount of 16 pages, with a region that is larger, and a file with 3 pages of data."""
    desk = Desk(make_world(capacity=16 * PAGE))
    desk.region = desk.world.region(b"large", size=1 << 30)
    desk.file.contents = SPARSE
    return desk


async def test_holes_take_no_memory(sparse_desk: Desk) -> None:
    """Neither for good nor for a moment, and the layout says that they may come."""
    ledger = sparse_desk.world.tables.ledger
    limits = []

    async def look() -> None:
        limits.append(ledger.limit)

    sparse_desk.file.meanwhile = look
    assert await sparse_desk.map(sparsely(0, SPARSE_PAGES)) == SUCCESS
    assert segment_of(sparse_desk.region).peek(0, len(SPARSE)) == SPARSE
    assert sparse_desk.world.memory.used() == 3 * PAGE
    assert limits == [3 * PAGE]
    assert [mapping.reserve for mapping in sparse_desk.region.layout] == [False]
    assert (ledger.reserved, ledger.pending, ledger.optional) == (0, 0, SPARSE_PAGES * PAGE)


async def test_data_needs_memory(sparse_desk: Desk) -> None:
    """ENOMEM where there is less, also where it became more after it was measured."""
    sparse_desk.world.map(sparse_desk.region, (1 << 30) - 14 * PAGE, 14 * PAGE)
    before = sparse_desk.world.snapshot()
    with refused(errno.ENOMEM):
        await sparse_desk.map(sparsely(0, SPARSE_PAGES))
    assert sparse_desk.world.snapshot() == before
    sparse_desk.file.contents = CONTENTS[:PAGE] + bytes(1000 * PAGE)

    async def fill() -> None:
        sparse_desk.file.contents = CONTENTS

    sparse_desk.file.meanwhile = fill
    with refused(errno.ENOMEM):
        await sparse_desk.map(sparsely(0, SPARSE_PAGES))
    assert sparse_desk.world.snapshot() == before


async def test_holes_in_the_place_of_a_mapping(desk: Desk) -> None:
    """Have memory as ever: what takes its place must not fail for want of it."""
    desk.world.map(desk.region, 2 * PAGE, PAGE)
    segment_of(desk.region).poke(2 * PAGE, b"old")
    assert await desk.map(sparsely(0, 10)) == SUCCESS
    assert [mapping.reserve for mapping in desk.region.layout] == [True]
    assert desk.bytes[: 10 * PAGE] == CONTENTS.ljust(10 * PAGE, b"\0")


async def test_holes_where_memory_is_always_reserved() -> None:
    """As of any mapping there."""
    desk = Desk(make_world(reserve_always=True))
    assert await desk.map(sparsely(0, 10)) == SUCCESS
    assert [mapping.reserve for mapping in desk.region.layout] == [True]
    assert desk.world.memory.used() == 10 * PAGE


# What fails


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (of_file(0, 1, fd=FD + 1), errno.EBADF),
        (of_file(0, 1 << 20), errno.EINVAL),
        (abi.CreateMapping(0, PAGE, 1, READ, FROM_FILE, FD), errno.EINVAL),
        (abi.CreateMapping(0, PAGE, 0, READ | WRITE, FROM_FILE, FD), errno.EACCES),
    ],
)
async def test_what_is_refused_changes_nothing(
    desk: Desk, wanted: abi.CreateMapping, code: int
) -> None:
    """Of arguments, of the caller's descriptors, of the file."""
    before = desk.world.snapshot()
    with refused(code):
        await desk.map(wanted)
    assert desk.world.snapshot() == before
    assert desk.files.taken == []


def test_arguments_come_before_the_file(desk: Desk) -> None:
    """Nobody waits for a file that is not mapped anyway."""
    with refused(errno.EINVAL):
        desk.map(of_file(0, 0))
    assert desk.files.asked == []


@pytest.mark.parametrize("mapped", [0, 2, 6])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOMEM, errno.ETIMEDOUT, errno.EINTR])
async def test_a_file_that_cannot_be_read(desk: Desk, mapped: int, code: int) -> None:
    """All is as it was, with the errno that the file gave; a part was read by then."""
    if mapped:
        desk.world.map(desk.region, PAGE, mapped * PAGE)
        segment_of(desk.region).poke(PAGE, b"old" * 64)
    before = desk.world.snapshot()

    async def fail() -> None:
        raise OSError(code, os.strerror(code))

    desk.file.meanwhile = fail
    with refused(code):
        await desk.map(of_file(0, 6))
    assert desk.world.snapshot() == before
    desk.file.meanwhile = FakeFile().meanwhile
    assert await desk.map(of_file(0, 6)) == SUCCESS


def steps_of_a_mapping() -> list[str]:
    """The calls that may fail while a file takes the place of mappings and holes."""
    desk = Desk(make_world())
    desk.world.map(desk.region, PAGE, 2 * PAGE)
    desk.world.faults.reset()
    trio.run(map_over, desk)
    return list(desk.world.faults.calls)


async def map_over(desk: Desk) -> bytes:
    """Four pages, of which two were mapped before."""
    return await desk.map(of_file(0, 4))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("step", range(len(steps_of_a_mapping())))
async def test_every_step_that_may_fail(desk: Desk, step: int, code: int) -> None:
    """Done or refused with nothing changed, and no scratch memory is left."""
    desk.world.map(desk.region, PAGE, 2 * PAGE)
    segment_of(desk.region).poke(PAGE, b"old" * 64)
    before = desk.world.snapshot()
    desk.world.faults.arm(step, code)
    try:
        await map_over(desk)
    except RefusedError:
        assert desk.world.snapshot() == before
    else:
        assert desk.bytes[: 4 * PAGE] == CONTENTS[: 4 * PAGE]
    assert list(desk.world.memory.segments) == [desk.region.ino]
    assert desk.world.tables.ledger.pending == 0


async def test_bytes_are_copied_in_pieces(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of a mapping, however its length is a multiple of theirs."""
    for piece in (PAGE, PAGE + 1, 3 * PAGE, 4 * PAGE, 5 * PAGE):
        monkeypatch.setattr(contents, "COPIED_AT_ONCE", piece)
        await desk.map(of_file(0, 4))
        segment_of(desk.region).poke(0, b"old" * PAGE)
        await desk.map(of_file(0, 4))
        assert desk.bytes[: 4 * PAGE] == CONTENTS[: 4 * PAGE]


async def test_a_full_mount(desk: Desk) -> None:
    """ENOMEM where old and new bytes cannot be there at once; a hole takes no more than itself."""
    half = 32 * MIB // PAGE
    desk.region = desk.world.region(b"large", size=64 * MIB)
    desk.world.map(desk.region, 0, half * PAGE + PAGE)
    before = desk.world.snapshot()
    with refused(errno.ENOMEM):
        await desk.map(of_file(0, half))
    assert desk.world.snapshot() == before
    assert await desk.map(of_file(half + 1, half - 1)) == SUCCESS


async def test_the_scratch_memory_of_a_server_that_died(desk: Desk) -> None:
    """The next one removes it: no region has its number."""
    desk.world.map(desk.region, 0, PAGE)
    desk.world.memory.limit += PAGE
    scratch = desk.world.memory.create(SCRATCH + desk.region.ino)
    scratch.set_size(PAGE)
    scratch.reserve(0, PAGE)
    recovery.after_crash(desk.world.tables, lambda _: None)
    assert scratch.destroyed


# Who waits for whom


async def test_who_waits_for_a_file_keeps_nobody_waiting(desk: Desk) -> None:
    """Other changes of the region are answered while a file is being had."""
    had = trio.Event()
    desk.files.before = had.wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(awaited(desk.map(of_file(0, 2))))
        await trio.testing.wait_all_tasks_blocked()
        other = abi.CreateMapping(8 * PAGE, PAGE, 0, READ, ANONYMOUS)
        assert desk.request(abi.CREATE_MAPPING, other.pack()) == SUCCESS
        had.set()
    assert len(desk.region.layout) == 2


async def test_changes_of_the_region_wait_while_a_file_is_read(desk: Desk) -> None:
    """They come after it, in order, and see what it did."""
    reading, go_on = held_while_it_is_read(desk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(awaited(desk.map(of_file(0, 4))))
        await reading.wait()
        unmap = desk.request(abi.UNMAP, abi.Unmap(PAGE, PAGE).pack())
        assert not isinstance(unmap, bytes)
        nursery.start_soon(awaited(unmap))
        await trio.testing.wait_all_tasks_blocked()
        assert len(desk.region.layout) == 0
        go_on.set()
    assert [(m.start, m.end) for m in desk.region.layout] == [(0, PAGE), (2 * PAGE, 4 * PAGE)]


async def test_the_end_of_a_mount_while_a_file_is_read(desk: Desk) -> None:
    """Nothing is charged, and nothing is left half done."""
    before = desk.world.snapshot()
    reading, _go_on = held_while_it_is_read(desk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(awaited(desk.map(of_file(0, 4))))
        await reading.wait()
        nursery.cancel_scope.cancel()
    assert desk.world.snapshot() == before


def held_while_it_is_read(desk: Desk) -> tuple[trio.Event, trio.Event]:
    """The file of the desk: when it is being read, and what lets that go on."""
    reading, go_on = trio.Event(), trio.Event()

    async def wait() -> None:
        reading.set()
        await go_on.wait()

    desk.file.meanwhile = wait
    return reading, go_on


def awaited(answer: Awaitable[bytes]) -> Callable[[], Awaitable[None]]:
    """A task that waits for a good answer."""

    async def wait() -> None:
        assert await answer == SUCCESS

    return wait


def test_a_region_is_no_inode_of_scratch_memory(desk: Desk) -> None:
    """Numbers of inodes never come that far."""
    assert isinstance(desk.region, Region)
    assert desk.region.ino < SCRATCH
