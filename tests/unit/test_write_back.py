"""Mappings that go back to files, over a manager and callers' files on fakes: when they are written, and
what a failure leaves."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from msharefs import abi
from msharefs.core.errors import NoRoom
from msharefs.core.layout import LOST, MappedFile
from msharefs.fuse.attributes import AttributeHandlers
from msharefs.fuse.changes import Changes
from msharefs.fuse.control import Control
from msharefs.fuse.handles import HandleHandlers
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.write_back import WriteBack
from tests.unit.support.fakes import FakeOptions
from tests.unit.support.files import FakeFile, FakeFiles
from tests.unit.support.planes import FakePlane, header
from tests.unit.support.worlds import MIB, PAGE, World, make_world, refused, segment_of

SIZE = 2 * MIB
RW = abi.PROT_READ | abi.PROT_WRITE
FROM_FILE = abi.MAP_SHARED | abi.MAP_FIXED
ANONYMOUS = FROM_FILE | abi.MAP_ANONYMOUS
FD = 5
CONTENTS = b"".join(b"%04d" % number * (PAGE // 4) for number in range(8))


async def answered(answer: object) -> bytes:
    """That of a handler, now or later."""
    if isinstance(answer, bytes):
        return answer
    assert isinstance(answer, Awaitable)
    result = await answer
    assert isinstance(result, bytes)
    return result


@dataclass
class Desk:
    """The handlers, a region and a caller with a file."""

    world: World

    def __post_init__(self) -> None:
        manager = self.world.manager
        self.file = FakeFile(CONTENTS)
        self.files = FakeFiles(self.world.memory, {FD: self.file})
        self.plane = FakePlane()
        changes = Changes(manager, self.plane)
        self.write_back = WriteBack(manager, changes, self.plane, self.files)
        self.control = Control(manager, changes, self.files, self.write_back)
        self.handles = HandleHandlers(manager, self.plane, self.write_back)
        self.attributes = AttributeHandlers(manager, changes, self.write_back, dict, FakeOptions())
        self.region = self.world.region(size=SIZE)

    async def ioctl(self, command: int, payload: bytes) -> bytes:
        """Of a process of user 1001."""
        head = struct.pack("<QIIQII", os.O_RDWR, 0, command, 0, len(payload), 0)
        caller = header(Opcode.IOCTL, self.region.ino)._replace(pid=4242, uid=1001, gid=2001)
        return await answered(self.control.ioctl(caller, memoryview(head + payload)))

    async def map(self, start: int, size: int, *, flags: int = FROM_FILE, prot: int = RW) -> None:
        """Pages of the file from its start, or of memory."""
        wanted = abi.CreateMapping(start * PAGE, size * PAGE, 0, prot, flags, FD)
        await self.ioctl(abi.CREATE_MAPPING, wanted.pack())

    async def unmap(self, start: int, size: int) -> None:
        """Pages."""
        await self.ioctl(abi.UNMAP, abi.Unmap(start * PAGE, size * PAGE).pack())

    async def fsync(self) -> bytes:
        """By whoever has the region open."""
        return await answered(
            self.write_back.fsync(header(Opcode.FSYNC, self.region.ino), memoryview(b""))
        )

    async def changed(self, behind: bytes = b"", *, room: int = 65536, uid: int = 1002) -> int:
        """What the attribute says, with that behind its name, to a user."""
        body = struct.pack("<II", room, 0) + b"user.msharefs.changed" + behind + b"\0"
        caller = header(Opcode.GETXATTR, self.region.ino)._replace(uid=uid)
        return int(await answered(self.attributes.getxattr(caller, memoryview(body))))

    def change(self, page: int, text: bytes) -> None:
        """As a process does that has it attached."""
        segment_of(self.region).poke(page * PAGE, text)

    def leave_alone(self) -> None:
        """Nothing refers to the region any more but its files."""
        manager = self.world.manager
        manager.unlink(None, 1, b"region")
        manager.release(None, self.region.ino)
        manager.forget([(self.region.ino, self.region.lookups)])

    @property
    def shown(self) -> list[MappedFile]:
        """Files of the layout, which are those of the journal."""
        mappings = list(self.region.layout)
        assert mappings == [mapping for _ino, mapping in self.world.manager.journal.mappings()]
        assert self.world.tables.ledger.mappings == len(mappings)
        return [mapping.file for mapping in mappings if mapping.file]


@pytest.fixture
def desk() -> Desk:
    """A mount of 64 MiB."""
    return Desk(make_world())


async def test_fsync_writes_and_stores(desk: Desk) -> None:
    """By the record that is kept; clean or not it is where it outlives the machine."""
    await desk.map(2, 8)
    assert desk.shown == [MappedFile(7, 70, 0, 1001, "/tmp/file", record=1)]
    assert list(desk.files.kept) == [1]
    desk.change(3, b"region")
    assert await desk.fsync() == b""
    assert desk.file.contents[PAGE : PAGE + 6] == b"region"
    assert desk.file.synced == 1


def test_fsync_of_memory_waits_for_nobody(desk: Desk) -> None:
    """It is where it belongs; so are directories and inodes that are gone."""
    for ino in (desk.region.ino, 1, 999):
        assert desk.write_back.fsync(header(Opcode.FSYNC, ino), memoryview(b"")) == b""


async def test_reading_keeps_nothing(desk: Desk) -> None:
    """Without PROT_WRITE there is no record."""
    await desk.map(0, 8, prot=abi.PROT_READ)
    assert (desk.shown[0].record, desk.files.kept, desk.region.goes_back) == (0, {}, False)


async def test_unmap_writes_before_it_takes_away(desk: Desk) -> None:
    """A part; the record stays as long as any part does."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    desk.change(6, b"six")
    await desk.unmap(0, 2)
    assert desk.file.contents[PAGE : PAGE + 3] == b"one"
    assert [(file.record, file.offset) for file in desk.shown] == [(1, 2 * PAGE)]
    await desk.unmap(4, 1)
    assert list(desk.files.kept) == [1]
    await desk.unmap(0, 8)
    assert desk.file.contents[6 * PAGE : 6 * PAGE + 3] == b"six"
    assert (desk.shown, desk.files.kept) == ([], {})
    assert ("collect", desk.region.ino) in desk.plane.log


@pytest.mark.parametrize("flags", [FROM_FILE, ANONYMOUS])
async def test_what_is_replaced_is_written(desk: Desk, flags: int) -> None:
    """Whatever comes in its place; its record goes."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    await desk.map(0, 8, flags=flags)
    assert desk.file.contents[PAGE : PAGE + 3] == b"one"
    assert list(desk.files.kept) == ([] if flags == ANONYMOUS else [2])


async def test_a_failure_leaves_everything(desk: Desk) -> None:
    """fsync, UNMAP and a mapping in its place have the errno; the layout has it until all is written."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    desk.file.full = True
    before = desk.shown
    for attempt in (
        desk.fsync(),
        desk.unmap(0, 2),
        desk.map(0, 8),
        desk.map(0, 2, flags=ANONYMOUS),
    ):
        with refused(errno.ENOSPC):
            await attempt
        (file,) = desk.shown
        assert (file.error, file.unwritten) == (errno.ENOSPC, PAGE)
        assert segment_of(desk.region).peek(PAGE, 3) == b"one"
    desk.file.full = False
    await desk.fsync()
    assert desk.shown == before
    assert list(desk.files.kept) == [1]


async def test_a_file_that_does_not_answer(desk: Desk) -> None:
    """All of the part counts as unwritten."""
    await desk.map(0, 8)

    async def hang() -> None:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    desk.file.meanwhile = hang
    with refused(errno.ETIMEDOUT):
        await desk.fsync()
    assert [(file.error, file.unwritten) for file in desk.shown] == [(errno.ETIMEDOUT, 8 * PAGE)]


async def test_a_part_that_is_written_ends_no_error(desk: Desk) -> None:
    """All of the mapping must be: what is left has the error still."""
    await desk.map(0, 8)
    desk.change(6, b"six")
    desk.file.full = True
    with refused(errno.ENOSPC):
        await desk.fsync()
    await desk.unmap(0, 2)
    assert [(file.error, file.unwritten) for file in desk.shown] == [(errno.ENOSPC, PAGE)]
    desk.file.full = False
    await desk.fsync()
    assert [(file.error, file.unwritten) for file in desk.shown] == [(0, 0)]


async def test_a_disk_that_does_not_store(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls fsync learns of it."""
    await desk.map(0, 8)
    desk.change(1, b"one")

    async def sync() -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(desk.file, "sync", sync)
    with refused(errno.EIO):
        await desk.fsync()
    assert desk.file.contents[PAGE : PAGE + 3] == b"one"


async def test_a_journal_without_room_for_an_error(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller has the error of the file all the same, and the log says that nobody will see it later."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    desk.file.full = True
    before = desk.shown

    def rewrite(*given: object, **named: object) -> object:
        raise NoRoom("no room for the journal")

    with monkeypatch.context() as patched:
        patched.setattr(desk.world.manager.journal, "rewrite", rewrite)
        with refused(errno.ENOSPC):
            await desk.fsync()
    assert desk.shown == before
    assert "not kept for later that /tmp/file has an error" in caplog.text
    desk.file.full = False
    await desk.fsync()
    assert desk.file.contents[PAGE : PAGE + 3] == b"one"


async def test_what_is_refused_anyway_is_not_written(desk: Desk) -> None:
    """Nor does its mapping come in parts."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    before = desk.shown
    for bad in (desk.unmap(1, 0), desk.unmap(0, SIZE), desk.map(0, SIZE, flags=ANONYMOUS)):
        with refused(errno.EINVAL):
            await bad
    assert desk.file.contents == CONTENTS
    assert desk.shown == before


async def test_a_change_that_fails_after_the_writing(desk: Desk) -> None:
    """The mapping stays, in however many parts, and goes back still."""
    await desk.map(0, 8)
    await desk.map(20, 4, flags=ANONYMOUS)
    desk.change(3, b"three")

    async def fail_what_comes() -> None:
        desk.world.faults.reset()
        desk.world.faults.arm(0, errno.EIO)

    desk.file.meanwhile = fail_what_comes
    with refused(errno.EIO):
        await desk.map(2, 30, flags=ANONYMOUS)
    assert desk.file.contents[3 * PAGE : 3 * PAGE + 5] == b"three"
    assert {file.record for file in desk.shown} == {1}
    desk.file.meanwhile = FakeFile().meanwhile
    desk.change(3, b"later")
    await desk.fsync()
    assert desk.file.contents[3 * PAGE : 3 * PAGE + 5] == b"later"


async def test_a_journal_without_room_for_the_second_of_two(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both mappings stay, and both go back still."""
    await desk.map(0, 2)
    await desk.map(4, 2)
    before, journal = desk.shown, desk.world.manager.journal
    rewrite, calls = journal.rewrite, iter(range(100))

    def rewrite_all_but_one(*given: object, **named: object) -> object:
        if next(calls) == 1:
            raise NoRoom("no room for the journal")
        return rewrite(*given, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(journal, "rewrite", rewrite_all_but_one)
        with refused(errno.ENOSPC):
            await desk.unmap(0, 6)
    assert desk.shown == before


async def test_a_file_that_cannot_be_kept(desk: Desk) -> None:
    """Nothing is mapped, and nothing is kept."""

    async def keep() -> None:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    desk.file.keep = keep  # type: ignore[method-assign]
    before = desk.world.snapshot()
    with refused(errno.ENFILE):
        await desk.map(0, 8)
    assert desk.world.snapshot() == before


async def test_the_last_close_writes(desk: Desk) -> None:
    """And no other."""
    await desk.map(0, 8)
    ino = desk.region.ino
    desk.world.manager.open(None, ino, os.O_RDWR)
    desk.change(1, b"one")
    release = header(Opcode.RELEASE, ino)
    assert desk.handles.release(release, memoryview(b"")) == b""
    assert desk.file.contents == CONTENTS
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.write_back.tend)
        # Answered at once, and written then.
        assert desk.handles.release(release, memoryview(b"")) == b""
        assert desk.file.contents == CONTENTS
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert desk.file.contents[PAGE : PAGE + 3] == b"one"


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_a_server_before_owed(desk: Desk, is_open: bool) -> None:
    """A last close that was counted, and after which nothing was written."""
    await desk.map(0, 8)
    manager, ino = desk.world.manager, desk.region.ino
    for _ in range(desk.region.opens):
        manager.release(None, ino)
    if is_open:
        manager.open(None, ino, os.O_RDWR)
    desk.change(1, b"one")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.write_back.tend)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (desk.file.contents == CONTENTS) is is_open


async def test_fsync_comes_after_the_last_close_before_it(desk: Desk) -> None:
    """What is stored once it is answered waits for the next one, though the close had not yet been seen to."""
    await desk.map(0, 8)
    ino = desk.region.ino
    desk.world.manager.open(None, ino, os.O_RDWR)
    for _ in range(desk.region.opens):
        desk.handles.release(header(Opcode.RELEASE, ino), memoryview(b""))
    desk.world.manager.open(None, ino, os.O_RDWR)
    async with trio.open_nursery() as nursery:

        async def store_after_fsync() -> None:
            await desk.fsync()
            desk.change(1, b"later")

        nursery.start_soon(store_after_fsync)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(desk.write_back.tend)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert segment_of(desk.region).peek(PAGE, 5) == b"later"
    assert desk.file.contents == CONTENTS


async def test_a_region_goes_when_its_files_have_all(desk: Desk) -> None:
    """The kernel port is told; until then its memory and its mappings are there."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    region = desk.region
    desk.leave_alone()
    assert desk.world.kernel.owed == [region.ino]
    assert region.ino in desk.world.tables.regions
    await desk.write_back.at_end(region.ino)
    assert desk.file.contents[PAGE : PAGE + 3] == b"one"
    assert region.ino not in desk.world.tables.regions
    assert (desk.files.kept, desk.world.memory.used()) == ({}, 0)
    await desk.write_back.at_end(region.ino)


async def test_what_cannot_be_written_at_the_end_is_told(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """How much of which file is lost."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    desk.file.full = True
    await desk.write_back.everything()
    assert "4096 bytes of region" in caplog.text
    assert "are lost: they could not be written to /tmp/file" in caplog.text


async def test_a_region_that_ends_while_the_mount_does(
    desk: Desk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files have all: nothing is told as lost because their record is not kept any more."""
    await desk.map(0, 8)
    desk.change(1, b"one")
    region = desk.region
    desk.leave_alone()
    with monkeypatch.context() as patch:

        @asynccontextmanager
        async def open_after_the_end(record: int, uid: int) -> AsyncIterator[object]:
            patch.undo()
            await desk.write_back.at_end(region.ino)
            async with desk.files.open(record, uid) as file:
                yield file

        patch.setattr(desk.files, "open", open_after_the_end)
        await desk.write_back.everything()
    assert desk.file.contents[PAGE : PAGE + 3] == b"one"
    assert region.ino not in desk.world.tables.regions
    assert caplog.text == ""


async def test_records_that_are_not_kept_any_more(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """Their mappings are memory from then on; others go on."""
    await desk.map(0, 2)
    await desk.map(4, 2)
    desk.world.manager.write_back.lose([2])
    assert [file.record for file in desk.shown] == [LOST, 2]
    assert "8192 bytes from 0 on do not go back to /tmp/file any more" in caplog.text
    assert desk.world.manager.write_back.records() == {2}
    desk.change(0, b"never")
    await desk.fsync()
    await desk.unmap(0, 2)
    assert desk.file.contents == CONTENTS


# What was changed and is not written


async def test_what_was_changed_is_counted(desk: Desk) -> None:
    """Of all of the region or of a mapping, for whoever asks; nothing is written by that."""
    await desk.map(0, 3)
    await desk.map(8, 6)
    assert await desk.changed() == 0
    for page in (1, 9, 12):
        desk.change(page, b"new")
    assert await desk.changed() == 3 * PAGE
    assert [await desk.changed(b".%d" % (page * PAGE)) for page in (0, 2, 5, 8, 13)] == [
        PAGE,
        PAGE,
        0,
        2 * PAGE,
        2 * PAGE,
    ]
    assert desk.file.contents == CONTENTS
    assert set(desk.files.looked) == {1002}
    await desk.fsync()
    assert await desk.changed() == 0


async def test_nothing_is_counted_to_say_how_long_the_number_is(desk: Desk) -> None:
    """Who asks for the size first, and who has too little room, would have it counted twice."""
    await desk.map(0, 3)
    caller = header(Opcode.GETXATTR, desk.region.ino)
    name = b"user.msharefs.changed\0"
    size = desk.attributes.getxattr(caller, memoryview(struct.pack("<II", 0, 0) + name))
    assert size == struct.pack("<II", 20, 0)
    with refused(errno.ERANGE):
        desk.attributes.getxattr(caller, memoryview(struct.pack("<II", 19, 0) + name))
    assert desk.files.looked == []
    assert await desk.changed(room=20) == 0
    assert desk.files.looked == [1002]


async def test_a_mapping_that_does_not_go_back_any_more(desk: Desk) -> None:
    """Is memory: nothing of it waits for a file."""
    await desk.map(0, 3)
    desk.change(1, b"new")
    desk.world.manager.write_back.lose([])
    assert await desk.changed() == 0


async def test_what_cannot_be_counted(desk: Desk) -> None:
    """Is an error of whoever asks, and of nobody else."""
    await desk.map(0, 3)
    kept, desk.files.kept = desk.files.kept, {}
    with refused(errno.ENOENT):
        await desk.changed()
    desk.files.kept = kept
    assert await desk.changed() == 0


async def test_a_user_counts_one_region_at_a_time(desk: Desk) -> None:
    """In the region's turn, which nobody has who waits for his own other count: so others change the region meanwhile."""
    await desk.map(0, 3)
    first, other = desk.region, desk.world.region(b"other", size=SIZE)
    desk.region = other
    await desk.map(0, 3)
    counting, go_on = trio.Event(), trio.Event()

    async def wait() -> None:
        counting.set()
        await go_on.wait()

    desk.file.meanwhile = wait
    numbers: list[int] = []

    async def count(uid: int) -> None:
        numbers.append(await desk.changed(uid=uid))

    async with trio.open_nursery() as nursery:
        desk.region = first
        nursery.start_soon(count, 1002)
        await counting.wait()
        desk.region = other
        nursery.start_soon(count, 1002)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.files.looked == [1002]
        await desk.map(8, 1, flags=ANONYMOUS)
        nursery.start_soon(count, 1003)
        await trio.testing.wait_all_tasks_blocked()
        assert desk.files.looked == [1002, 1003]
        go_on.set()
    assert numbers == [0, 0, 0]


async def test_who_gives_up_while_it_is_counted(desk: Desk) -> None:
    """Hands the turn on."""
    await desk.map(0, 3)
    desk.file.meanwhile = trio.sleep_forever
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.changed)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    desk.file.meanwhile = trio.lowlevel.checkpoint
    assert await desk.changed() == 0
