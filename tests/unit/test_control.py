"""IOCTL and FALLOCATE: decoding, what is no ioctl of ours, and the order of slow changes.

Handlers are called as the switchboard calls them, over a manager on fakes. Slow work is
held in its worker thread by trio Events.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from collections.abc import Awaitable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from msharefs import abi
from msharefs.core import sweeping
from msharefs.core.errors import RefusedError
from msharefs.core.inode import INFO_INO, ROOT_INO
from msharefs.core.journal import Request
from msharefs.core.plan import A_CALL
from msharefs.core.region import Region
from msharefs.fuse.changes import SLOW_WORK, WORKERS_OF_A_USER, Changes
from msharefs.fuse.control import Control
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import MalformedError
from msharefs.fuse.write_back import WriteBack
from tests.unit.support.files import FakeFiles
from tests.unit.support.planes import FakePlane, header
from tests.unit.support.worlds import (
    ALICE,
    ANONYMOUS,
    MIB,
    PAGE,
    READ_WRITE,
    World,
    make_world,
    refused,
    segment_of,
)

SECONDS = 10
SIZE = 64 * MIB
SUCCESS = bytes(16)
"""struct fuse_ioctl_out: result 0, no flags, no data."""


@dataclass
class Desk:
    """A Control and the world that it changes."""

    world: World
    plane: FakePlane = field(default_factory=FakePlane)
    uid: int = ALICE.uid
    uniques: Iterator[int] = field(default_factory=lambda: itertools.count(2, 2))

    def __post_init__(self) -> None:
        self.files = FakeFiles(self.world.memory)
        changes = Changes(self.world.manager, self.plane)
        self.write_back = WriteBack(self.world.manager, changes, self.plane, self.files)
        self.control = Control(self.world.manager, changes, self.files, self.write_back)

    def ioctl(
        self, ino: int, command: int, payload: bytes, *, handle: int = os.O_RDWR, flags: int = 0
    ) -> bytes | Awaitable[bytes]:
        """The request as the kernel sends it."""
        head = struct.pack("<QIIQII", handle, flags, command, 0x7FFF0000, len(payload), 0)
        request = header(Opcode.IOCTL, ino)._replace(unique=next(self.uniques), uid=self.uid)
        return self.control.ioctl(request, memoryview(head + payload))

    def map(self, region: Region, start: int, size: int) -> bytes | Awaitable[bytes]:
        """CREATE_MAPPING of anonymous memory."""
        request = abi.CreateMapping(start, size, 0, READ_WRITE, ANONYMOUS)
        return self.ioctl(region.ino, abi.CREATE_MAPPING, request.pack())

    def unmap(self, region: Region, start: int, size: int) -> bytes | Awaitable[bytes]:
        """UNMAP."""
        return self.ioctl(region.ino, abi.UNMAP, abi.Unmap(start, size).pack())


@pytest.fixture
def desk() -> Desk:
    """A mount of 256 MiB."""
    return Desk(make_world(capacity=256 * MIB))


def pages(region: Region) -> list[tuple[int, int]]:
    """First page and number of pages of each mapping."""
    return [(m.start // PAGE, m.size // PAGE) for m in region.layout]


# What is decoded


def test_small_changes_are_answered_at_once(desk: Desk) -> None:
    """Both ioctls, without a worker thread."""
    region = desk.world.region(size=SIZE)
    assert desk.map(region, PAGE, 3 * PAGE) == SUCCESS
    assert desk.unmap(region, 2 * PAGE, PAGE) == SUCCESS
    assert pages(region) == [(1, 1), (3, 1)]


def test_every_field_of_a_request_counts(desk: Desk) -> None:
    """Protection and flags arrive at the layout."""
    region = desk.world.region(size=SIZE)
    flags = ANONYMOUS | abi.MAP_NORESERVE | abi.MAP_HUGETLB
    request = abi.CreateMapping(2 * MIB, 4 * MIB, 0, abi.PROT_EXEC, flags)
    assert desk.ioctl(region.ino, abi.CREATE_MAPPING, request.pack()) == SUCCESS
    (mapping,) = region.layout
    assert (mapping.start, mapping.end, mapping.prot_text) == (2 * MIB, 6 * MIB, "--x")
    assert (mapping.reserve, mapping.huge) == (False, True)


def test_a_32_bit_x86_program_is_understood(desk: Desk) -> None:
    """Its number says 36 bytes."""
    region = desk.world.region(size=SIZE)
    payload = abi.CreateMapping(0, PAGE).pack()[:36]
    assert desk.ioctl(region.ino, abi.CREATE_MAPPING_X86_32, payload) == SUCCESS
    assert pages(region) == [(0, 1)]


@pytest.mark.parametrize("handle", [os.O_WRONLY, os.O_RDWR])
def test_descriptors_open_for_writing_may_map(desk: Desk, handle: int) -> None:
    """The handle is the access mode of the open."""
    region = desk.world.region(size=SIZE)
    payload = abi.CreateMapping(0, PAGE).pack()
    assert desk.ioctl(region.ino, abi.CREATE_MAPPING, payload, handle=handle) == SUCCESS


def test_a_read_only_descriptor_may_not(desk: Desk) -> None:
    """EACCES from both, and nothing has changed."""
    region = desk.world.region(size=SIZE)
    before = desk.world.snapshot()
    create, unmap = abi.CreateMapping(0, PAGE).pack(), abi.Unmap(0, PAGE).pack()
    with refused(errno.EACCES):
        desk.ioctl(region.ino, abi.CREATE_MAPPING, create, handle=os.O_RDONLY)
    with refused(errno.EACCES):
        desk.ioctl(region.ino, abi.UNMAP, unmap, handle=os.O_RDONLY)
    assert desk.world.snapshot() == before


def test_fallocate_sets_the_size(desk: Desk) -> None:
    """Mode, offset and length from their places."""
    region = desk.world.region(size=0)

    def fallocate(mode: int, offset: int, length: int) -> bytes | Awaitable[bytes]:
        body = struct.pack("<QQQII", os.O_RDWR, offset, length, mode, 0)
        return desk.control.fallocate(header(Opcode.FALLOCATE, region.ino), memoryview(body))

    with refused(errno.EOPNOTSUPP):
        fallocate(3, 0, 2 * MIB)
    with refused(errno.EINVAL):
        fallocate(0, 2 * MIB, 2 * MIB)
    assert fallocate(0, 0, 2 * MIB) == b""
    assert region.size == 2 * MIB


def test_handlers_by_opcode(desk: Desk) -> None:
    """These two, which pyfuse3 does not know."""
    handlers = desk.control.handlers()
    assert handlers == {
        Opcode.IOCTL: desk.control.ioctl,
        Opcode.FALLOCATE: desk.control.fallocate,
    }


# What is no ioctl of ours


FOREIGN = [
    0x5401,  # TCGETS, which Python's open() sends
    0,
    0xFFFFFFFF,
    0x40287801,  # number 1 with the size of number 0
    0x40107800,
    0x40287802,  # the next number
    0x40207800,  # sizes between those of the two forms
    0x40297800,
    0x80287800,  # other directions
    0xC0287800,
    0x00287800,
    0x40287700,  # another type
]


@pytest.mark.parametrize("command", FOREIGN)
@pytest.mark.parametrize("size", [0, SIZE])
@pytest.mark.parametrize("handle", [os.O_RDONLY, os.O_RDWR])
def test_other_numbers_are_no_ioctl(desk: Desk, command: int, size: int, handle: int) -> None:
    """ENOTTY in any state of the region and for any descriptor."""
    region = desk.world.region(size=size)
    before = desk.world.snapshot()
    with refused(errno.ENOTTY):
        desk.ioctl(region.ino, command, bytes(command >> 16 & 0x3FFF), handle=handle)
    assert desk.world.snapshot() == before


@pytest.mark.parametrize("ino", [ROOT_INO, INFO_INO])
@pytest.mark.parametrize("command", [abi.CREATE_MAPPING, abi.UNMAP, 0x5401])
def test_other_inodes_have_no_ioctl(desk: Desk, ino: int, command: int) -> None:
    """ENOTTY from mshare_info and directories."""
    with refused(errno.ENOTTY):
        desk.ioctl(ino, command, bytes(command >> 16 & 0x3FFF))


def test_an_ioctl_of_a_directory_is_no_ioctl(desk: Desk) -> None:
    """The kernel says so by a flag, whatever inode it names."""
    region = desk.world.region(size=SIZE)
    with refused(errno.ENOTTY):
        desk.ioctl(region.ino, abi.UNMAP, abi.Unmap(0, PAGE).pack(), flags=1 << 4)


@given(st.sampled_from([0, 1, 15, 17, 35, 37, 39, 41, 64]), st.booleans())
@settings(max_examples=20)
def test_payloads_of_another_length_change_nothing(length: int, unmap: bool) -> None:
    """The kernel sends what the number says, so this is no refusal but EIO, with a line in the log."""
    desk = Desk(make_world())
    region = desk.world.region(size=SIZE)
    before = desk.world.snapshot()
    command = abi.UNMAP if unmap else abi.CREATE_MAPPING
    with pytest.raises(MalformedError, match=f"{length} bytes for ioctl"):
        desk.ioctl(region.ino, command, bytes(length))
    assert desk.world.snapshot() == before


@given(st.binary(min_size=40, max_size=40) | st.binary(min_size=16, max_size=16))
def test_random_payloads_are_refused_whole(payload: bytes) -> None:
    """Random numbers are hardly ever a mapping: whatever is refused changes nothing."""
    desk = Desk(make_world())
    region = desk.world.region(size=SIZE)
    before = desk.world.snapshot()
    command = abi.CREATE_MAPPING if len(payload) == 40 else abi.UNMAP
    with pytest.raises(RefusedError):
        desk.ioctl(region.ino, command, payload)
    assert desk.world.snapshot() == before


# Slow changes


class Gate:
    """Where one region's work stops: `reached` when it is there, `open` when it may go on."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.open = trio.Event()

    async def wait(self) -> None:
        """Called from the worker thread."""
        self.reached.set()
        await self.open.wait()


class Gates:
    """Holds the memory's work in its threads until a test lets it go on."""

    def __init__(self, world: World) -> None:
        self._gates: dict[int, Gate] = {}
        world.memory.before = self._pass

    def hold(self, region: Region) -> Gate:
        """Work on this region stops here."""
        gate = self._gates[region.ino] = Gate()
        return gate

    def _pass(self, step: str, ino: int) -> None:
        gate = self._gates.get(ino)
        if gate is not None and not gate.open.is_set():
            # Whose request is given up is held no longer.
            with suppress(trio.Cancelled):
                trio.from_thread.run(gate.wait)


class Tasks:
    """Handlers' answers, awaited in tasks of their own, as the switchboard does."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.done: list[str] = []
        self._nursery = nursery

    def start(self, name: str, answer: bytes | Awaitable[bytes]) -> None:
        """An answer that does not come at once."""
        assert not isinstance(answer, bytes), "it came at once"
        self._nursery.start_soon(self._wait, name, answer)

    async def _wait(self, name: str, answer: Awaitable[bytes]) -> None:
        try:
            assert await answer == SUCCESS
        except RefusedError as refusal:
            name = f"{name}: {refusal.code}"
        self.done.append(name)

    async def until(self, count: int) -> list[str]:
        """What is done, once it is so many."""
        with trio.fail_after(SECONDS):
            while len(self.done) < count:
                await trio.lowlevel.checkpoint()
        return self.done


async def test_a_large_change_leaves_the_loop_free(desk: Desk) -> None:
    """The answer comes when the memory is there, and the layout shows it then."""
    region = desk.world.region(size=SIZE)
    gate = Gates(desk.world).hold(region)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("map", desk.map(region, 0, SLOW_WORK))
        await gate.reached.wait()
        assert (tasks.done, pages(region)) == ([], [])
        assert desk.world.manager.tables.ledger.pending == SLOW_WORK
        gate.open.set()
        assert await tasks.until(1) == ["map"]
    assert pages(region) == [(0, SLOW_WORK // PAGE)]
    assert desk.world.manager.tables.ledger.pending == 0


async def test_unmapping_much_is_slow_too(desk: Desk) -> None:
    """To free it takes time as well."""
    region = desk.world.region(size=SIZE)
    desk.world.map(region, 0, SLOW_WORK)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("unmap", desk.unmap(region, 0, SLOW_WORK))
        await tasks.until(1)
    assert (pages(region), desk.world.memory.used()) == ([], 0)


@pytest.mark.parametrize("what", ["map", "map noreserve", "unmap"])
async def test_a_change_of_many_mappings_is_slow_too(desk: Desk, what: str) -> None:
    """However few bytes they have: each costs a call."""
    many = SLOW_WORK // A_CALL
    region = desk.world.region(size=SIZE)
    for number in range(many):
        desk.world.map(region, 2 * number * PAGE, PAGE)
    gate = Gates(desk.world).hold(region)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        if what == "unmap":
            tasks.start(what, desk.unmap(region, 0, 2 * many * PAGE))
        else:
            flags = ANONYMOUS | (abi.MAP_NORESERVE if what == "map noreserve" else 0)
            create = abi.CreateMapping(0, 2 * many * PAGE, 0, READ_WRITE, flags)
            tasks.start(what, desk.ioctl(region.ino, abi.CREATE_MAPPING, create.pack()))
        await gate.reached.wait()
        assert len(region.layout) == many
        gate.open.set()
        assert await tasks.until(1) == [what]
    assert pages(region) == ([] if what == "unmap" else [(0, 2 * many)])


@pytest.mark.parametrize("huge", [False, True], ids=["overwritten", "in huge pages"])
async def test_slow_bytes_are_slow_sooner(desk: Desk, huge: bool) -> None:
    """Memory that is overwritten, or put into huge pages, takes longer than what is cleared."""
    size = SLOW_WORK // 4
    region = desk.world.region(size=SIZE)
    flags = ANONYMOUS
    if huge:
        flags |= abi.MAP_HUGETLB
    else:
        desk.world.map(region, 0, size)
    create = abi.CreateMapping(0, size, 0, READ_WRITE, flags).pack()
    gate = Gates(desk.world).hold(region)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("map", desk.ioctl(region.ino, abi.CREATE_MAPPING, create))
        await gate.reached.wait()
        assert tasks.done == []
        gate.open.set()
        assert await tasks.until(1) == ["map"]
    assert pages(region) == [(0, size // PAGE)]


async def test_much_that_is_replaced_without_a_reservation_is_slow_too(desk: Desk) -> None:
    """It asks for no memory, but gives back what was there."""
    region = desk.world.region(size=SIZE)
    desk.world.map(region, 0, SLOW_WORK)
    create = abi.CreateMapping(0, SIZE, 0, READ_WRITE, ANONYMOUS | abi.MAP_NORESERVE).pack()
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("map", desk.ioctl(region.ino, abi.CREATE_MAPPING, create))
        await tasks.until(1)
    assert (pages(region), desk.world.memory.used()) == ([(0, SIZE // PAGE)], 0)


def test_much_that_has_no_memory_is_quick(desk: Desk) -> None:
    """Neither to map without a reservation, nor to unmap where nothing is."""
    region = desk.world.region(size=SIZE)
    create = abi.CreateMapping(0, SIZE, 0, READ_WRITE, ANONYMOUS | abi.MAP_NORESERVE).pack()
    assert desk.unmap(region, 0, SIZE) == SUCCESS
    assert desk.ioctl(region.ino, abi.CREATE_MAPPING, create) == SUCCESS


async def test_changes_of_one_region_come_in_order(desk: Desk) -> None:
    """Small ones wait for a large one before them; each sees what the one before did."""
    region = desk.world.region(size=SIZE)
    gate = Gates(desk.world).hold(region)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("large", desk.map(region, 0, SLOW_WORK))
        tasks.start("cut", desk.unmap(region, PAGE, PAGE))
        tasks.start("again", desk.map(region, 0, 2 * PAGE))
        await gate.reached.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert tasks.done == []
        gate.open.set()
        assert await tasks.until(3) == ["large", "cut", "again"]
    rest = SLOW_WORK // PAGE - 2
    assert pages(region) == [(0, 2), (2, rest)]
    # The queue is gone: the next one is answered at once.
    assert desk.unmap(region, 0, PAGE) == SUCCESS


async def test_changes_of_other_regions_do_not_wait(desk: Desk) -> None:
    """Large ones run beside each other, and small ones are answered at once."""
    one, other, third = (desk.world.region(name, size=SIZE) for name in (b"1", b"2", b"3"))
    gates = Gates(desk.world)
    one_gate, other_gate = gates.hold(one), gates.hold(other)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("one", desk.map(one, 0, SLOW_WORK))
        tasks.start("other", desk.map(other, 0, SLOW_WORK))
        await one_gate.reached.wait()
        await other_gate.reached.wait()
        assert desk.map(third, 0, PAGE) == SUCCESS
        other_gate.open.set()
        assert await tasks.until(1) == ["other"]
        one_gate.open.set()
        assert await tasks.until(2) == ["other", "one"]
    assert desk.world.manager.tables.ledger.reserved == 2 * SLOW_WORK + PAGE


async def test_one_user_does_not_have_all_workers() -> None:
    """However many changes of his are long: another's begins at once, and his own go on in the end."""
    desk = Desk(make_world(capacity=60 * SLOW_WORK))
    gates = Gates(desk.world)
    regions = [desk.world.region(b"%d" % number, size=SIZE) for number in range(45)]
    held = [gates.hold(region) for region in regions]
    others = desk.world.region(b"other's", size=SIZE)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        for region in regions:
            tasks.start("his", desk.map(region, 0, SLOW_WORK))
        await trio.testing.wait_all_tasks_blocked()
        desk.uid += 1
        tasks.start("another's", desk.map(others, 0, SLOW_WORK))
        assert await tasks.until(1) == ["another's"]
        tasks.start("another's", desk.unmap(others, 0, SLOW_WORK))
        assert await tasks.until(2) == 2 * ["another's"]
        assert sum(gate.reached.is_set() for gate in held) == WORKERS_OF_A_USER
        for gate in held:
            gate.open.set()
        await tasks.until(2 + len(regions))
    assert all(pages(region) for region in regions)


async def test_a_refused_change_lets_the_next_one_pass(desk: Desk) -> None:
    """Bad arguments and failed work both end their turn."""
    region = desk.world.region(size=SIZE)
    gate = Gates(desk.world).hold(region)
    desk.world.faults.reset()
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("fails", desk.map(region, 0, SLOW_WORK))
        tasks.start("bad", desk.map(region, 1, PAGE))
        tasks.start("good", desk.map(region, 0, PAGE))
        await gate.reached.wait()
        desk.world.faults.arm(0, errno.ENOMEM)
        gate.open.set()
        assert await tasks.until(3) == ["fails: ENOMEM", "bad: EINVAL", "good"]
    assert (pages(region), desk.world.memory.limit) == ([(0, 1)], PAGE)


async def test_failed_work_changes_nothing(desk: Desk) -> None:
    """Out of memory in the worker thread."""
    region = desk.world.region(size=SIZE)
    desk.world.map(region, PAGE, PAGE)
    segment_of(region).poke(PAGE, b"kept")
    before = desk.world.snapshot()
    desk.world.faults.arm(2, errno.ENOMEM)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("map", desk.map(region, 0, SLOW_WORK))
        assert await tasks.until(1) == ["map: ENOMEM"]
    assert desk.world.snapshot() == before


async def test_work_is_tried_again_after_a_sweep(desk: Desk) -> None:
    """Somebody used the promised budget for a page in a hole."""
    region = desk.world.region(size=SIZE)
    gates = Gates(desk.world)
    gate = gates.hold(region)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("map", desk.map(region, 0, SLOW_WORK))
        await gate.reached.wait()
        segment_of(region).poke(SIZE - PAGE, b"stray")
        gate.open.set()
        assert await tasks.until(1) == ["map"]
    assert segment_of(region).pages == set(range(SLOW_WORK // PAGE))
    assert desk.world.memory.limit == SLOW_WORK


async def test_a_small_change_waits_for_a_look_at_all_regions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody has touched holes of many others: their pages are had back, some regions at a time,
    and nobody is told that there is no memory."""
    monkeypatch.setattr(sweeping, "SLICE", 2)
    world = make_world(capacity=20 * PAGE)
    regions = [world.region(b"%d" % number) for number in range(20)]
    for region in regions[1:]:
        segment_of(region).pages.add(9)
    desk = Desk(world)
    answer = desk.map(regions[0], 0, 10 * PAGE)
    assert not isinstance(answer, bytes)
    assert await answer == SUCCESS
    full = desk.map(regions[0], 10 * PAGE, 11 * PAGE)
    assert not isinstance(full, bytes)
    with refused(errno.ENOMEM):
        await full
    assert pages(regions[0]) == [(0, 10)]


async def started(nursery: trio.Nursery, answer: bytes | Awaitable[bytes]) -> trio.CancelScope:
    """A request that is answered later, on its way; and how it is interrupted."""
    assert not isinstance(answer, bytes)
    scope = trio.CancelScope()

    async def wait() -> None:
        with scope:
            await answer

    nursery.start_soon(wait)
    await trio.testing.wait_all_tasks_blocked()
    return scope


async def test_a_reservation_is_given_up(desk: Desk) -> None:
    """In the worker, with all as before; the next change of the region has its turn."""
    region = desk.world.region(size=SIZE)
    desk.world.map(region, PAGE, PAGE)
    segment_of(region).poke(PAGE, b"kept")
    before = desk.world.snapshot()
    gate = Gates(desk.world).hold(region)
    raised: list[BaseException] = []

    async def reserve(scope: trio.CancelScope) -> None:
        answer = desk.map(region, 0, SLOW_WORK)
        assert not isinstance(answer, bytes)
        try:
            with scope:
                await answer
        except RefusedError as error:
            raised.append(error)

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        nursery.start_soon(reserve, scope)
        await gate.reached.wait()
        scope.cancel()
        gate.open.set()
    assert [getattr(error, "errno", 0) for error in raised] == [errno.EINTR]
    assert desk.world.snapshot() == before
    assert desk.map(region, 0, PAGE) == SUCCESS


async def test_a_change_that_waits_for_its_turn_is_given_up(desk: Desk) -> None:
    """Those before and behind it have theirs."""
    region = desk.world.region(size=SIZE)
    gate = Gates(desk.world).hold(region)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("first", desk.map(region, 0, SLOW_WORK))
        await gate.reached.wait()
        scope = await started(nursery, desk.map(region, SLOW_WORK, PAGE))
        tasks.start("last", desk.map(region, SLOW_WORK + PAGE, PAGE))
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        gate.open.set()
        assert await tasks.until(2) == ["first", "last"]
    assert [mapping.start for mapping in region.layout] == [0, SLOW_WORK + PAGE]
    assert desk.map(region, SLOW_WORK, PAGE) == SUCCESS


async def test_a_change_is_given_up_before_it_begins(desk: Desk) -> None:
    """Nothing stays charged."""
    region = desk.world.region(size=SIZE)
    before = desk.world.snapshot()
    answer = desk.map(region, 0, SLOW_WORK)
    assert not isinstance(answer, bytes)
    with refused(errno.EINTR), trio.CancelScope() as scope:
        scope.cancel()
        await answer
    assert desk.world.snapshot() == before
    assert desk.map(region, 0, PAGE) == SUCCESS


async def test_who_waits_for_memory_is_given_up() -> None:
    """And nobody waits for his turn for ever."""
    world = make_world(capacity=2 * SLOW_WORK, reclaim_later=True)
    desk = Desk(world)
    old, new = world.region(b"old", size=SIZE), world.region(b"new", size=SIZE)
    world.map(old, 0, 2 * SLOW_WORK)
    world.manager.unlink(None, ROOT_INO, b"old")
    world.close(old)
    async with trio.open_nursery() as nursery:
        scope = await started(nursery, desk.map(new, 0, PAGE))
        scope.cancel()
    world.kernel.reclaimable.pop()[1].destroy()
    world.manager.tables.reclaimed(old.ino)
    assert desk.map(new, 0, PAGE) == SUCCESS


async def test_what_is_cleared_is_not_given_up(desk: Desk) -> None:
    """There is no way back from there."""
    region = desk.world.region(size=SIZE)
    desk.world.map(region, 0, 2 * SLOW_WORK)
    gate = Gates(desk.world).hold(region)
    async with trio.open_nursery() as nursery:
        answer = desk.unmap(region, 0, SLOW_WORK)
        assert not isinstance(answer, bytes)
        scope = await started(nursery, answer)
        await gate.reached.wait()
        scope.cancel()
        gate.open.set()
    assert pages(region) == [(SLOW_WORK // PAGE, SLOW_WORK // PAGE)]


async def test_a_change_is_remembered_for_its_own_request(desk: Desk) -> None:
    """Also one that had to wait for its turn, whoever was served meanwhile."""
    manager = desk.world.manager
    region = desk.world.region(size=SIZE)
    gate = Gates(desk.world).hold(region)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("large", desk.map(region, 0, SLOW_WORK))
        tasks.start("small", desk.map(region, 0, PAGE))
        manager.mkdir(Request(100, Opcode.MKDIR), ROOT_INO, b"d", 0o700, ALICE)
        assert [manager.applied(unique) is None for unique in (2, 4, 100)] == [True, True, False]
        gate.open.set()
        await tasks.until(2)
    changes = [manager.applied(unique) for unique in (2, 4)]
    assert [change and change.opcode for change in changes] == [Opcode.IOCTL, Opcode.IOCTL]


async def test_regions_that_are_gone_hold_nobody_up_who_needs_no_memory(desk: Desk) -> None:
    """The queue of a region waits for memory only where there is none."""
    world = make_world(capacity=4 * SLOW_WORK, reclaim_later=True)
    desk = Desk(world)
    old, new = world.region(b"old", size=SIZE), world.region(b"new", size=SIZE)
    world.map(old, 0, SLOW_WORK)
    world.manager.unlink(None, ROOT_INO, b"old")
    world.close(old)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("large", desk.map(new, 0, SLOW_WORK))
        tasks.start("small", desk.map(new, SLOW_WORK, PAGE))
        assert await tasks.until(2) == ["large", "small"]
    assert world.manager.tables.reclaiming == 1


async def test_memory_that_is_being_freed_is_waited_for(desk: Desk) -> None:
    """A region was removed just before, and its worker is not done: no ENOMEM."""
    world = make_world(capacity=2 * SLOW_WORK, reclaim_later=True)
    desk = Desk(world)
    old, new = world.region(b"old", size=SIZE), world.region(b"new", size=SIZE)
    world.map(old, 0, SLOW_WORK)
    world.manager.unlink(None, ROOT_INO, b"old")
    world.close(old)
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("map", desk.map(new, 0, 2 * SLOW_WORK))
        await trio.testing.wait_all_tasks_blocked()
        assert tasks.done == []
        for ino in world.kernel.take_reclaimable():
            world.manager.tables.reclaimed(ino)
        assert await tasks.until(1) == ["map"]
    assert world.memory.used() == 2 * SLOW_WORK


async def test_pages_that_the_kernel_holds_are_dropped_in_a_thread(desk: Desk) -> None:
    """Between the clearing and the commit, while the plane is told of the change."""
    region = desk.world.region(size=SIZE)
    desk.world.map(region, 0, 4 * PAGE)
    desk.plane.stale = True
    async with trio.open_nursery() as nursery:
        tasks = Tasks(nursery)
        tasks.start("unmap", desk.unmap(region, 0, PAGE))
        await tasks.until(1)
    assert [what for what, _ino in desk.plane.log] == ["changing", "drop", "changed"]
    assert pages(region) == [(1, 3)]


def test_changes_without_old_pages_need_no_thread(desk: Desk) -> None:
    """The kernel cannot hold pages of a hole."""
    region = desk.world.region(size=SIZE)
    desk.plane.stale = True
    assert desk.map(region, 0, PAGE) == SUCCESS
    assert desk.unmap(region, PAGE, PAGE) == SUCCESS
