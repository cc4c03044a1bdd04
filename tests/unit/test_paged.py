"""The paged plane: page faults and write-backs, and what it throws away during a change."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import pytest
import trio

from msharefs import abi
from msharefs.abi import CreateMapping, Unmap
from msharefs.core.errors import RefusedError
from msharefs.core.region import Region
from msharefs.fuse import kernel
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.messages import ReadIn, WriteIn
from msharefs.fuse.planes import loans
from msharefs.fuse.planes.loans import REFUSALS
from msharefs.fuse.planes.paged import PagedPlane
from tests.unit.support.devices import KernelEnd, connected
from tests.unit.support.worlds import (
    ANONYMOUS,
    PAGE,
    World,
    attempt,
    make_world,
    refused,
    segment_of,
)

READ_LOCKOWNER = 2
WRITE_CACHE = 1
NORESERVE = 0x4000
KEEP_CACHE = 2
DIRECT_IO = 1
ALLOW_MMAP = 0x10
RESEND = 0x80
THREAD = 77
PASSTHROUGH = 0x20


def offer(flags2: int) -> InitOffer:
    """Of a kernel with these capabilities."""
    return InitOffer(major=7, minor=45, flags=1 << 30 | 0x80000, flags2=flags2)


@pytest.fixture
def kernel_end() -> Iterator[KernelEnd]:
    """At the other end of /dev/fuse."""
    with connected() as end:
        yield end


@pytest.fixture
def plane(kernel_end: KernelEnd) -> PagedPlane:
    """On a kernel that tells read(2) from page faults."""
    return PagedPlane(kernel_end.device.notify, "a test", offer(ALLOW_MMAP | RESEND))


@pytest.fixture
def world() -> World:
    """A mount of 64 MiB."""
    return make_world()


@pytest.fixture
def region(world: World) -> Region:
    """Pages 2 to 5 hold their numbers, the others are holes."""
    region = world.region(size=1 << 21)
    world.map(region, 2 * PAGE, 4 * PAGE)
    for page in range(2, 6):
        segment_of(region).poke(page * PAGE, b"%d" % page)
    return region


def fault(first: int, pages: int = 1, flags: int = 0) -> ReadIn:
    """What the kernel asks when a page is touched that it does not have."""
    return ReadIn(2, first * PAGE, pages * PAGE, flags, 0, 0, 0)


def read(plane: PagedPlane, region: Region, request: ReadIn, thread: int) -> memoryview:
    """The answer to a fault that is answered at once."""
    answer = plane.read(region, request, thread)
    assert isinstance(answer, memoryview)
    return answer


def write_back(first: int, pages: int = 1, flags: int = WRITE_CACHE) -> tuple[WriteIn, memoryview]:
    """Dirty pages."""
    data = b"".join(b"new%d" % page + bytes(PAGE - 4) for page in range(first, first + pages))
    return WriteIn(2, first * PAGE, len(data), flags, 0, 0, 0), memoryview(data)


def contents(region: Region) -> list[bytes]:
    """The first bytes of pages 2 to 5."""
    return [segment_of(region).peek(page * PAGE, 4).rstrip(b"\0") for page in range(2, 6)]


# Faults


def test_a_fault_is_answered_from_the_segment(plane: PagedPlane, region: Region) -> None:
    """One page, or several with the read-ahead."""
    assert bytes(read(plane, region, fault(3), THREAD)[:2]) == b"3\0"
    whole = bytes(read(plane, region, fault(2, 4), THREAD))
    assert len(whole) == 4 * PAGE
    assert [whole[page * PAGE : page * PAGE + 1] for page in range(4)] == [b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize(("first", "pages"), [(0, 1), (1, 1), (6, 1), (1, 2), (5, 2), (0, 16)])
def test_a_fault_in_a_hole_is_refused(
    plane: PagedPlane, region: Region, first: int, pages: int
) -> None:
    """EIO, and the process gets SIGBUS; of a part in a hole nothing is answered, and the
    kernel asks page by page."""
    with refused(errno.EIO):
        read(plane, region, fault(first, pages), THREAD)


def test_a_fault_beyond_the_end_is_refused(plane: PagedPlane, world: World) -> None:
    """And so is one of a region without a size, or never opened."""
    region = world.region(b"other", size=PAGE << 9)
    world.map(region, 0, region.size)
    with refused(errno.EIO):
        read(plane, region, fault((region.size // PAGE) - 1, 2), THREAD)
    with refused(errno.EIO):
        read(plane, world.region(b"unsized", size=0), fault(0), THREAD)


def test_a_touched_page_of_noreserve_memory_is_counted(plane: PagedPlane, world: World) -> None:
    """It comes with the fault, within the mount's size."""
    world = make_world(capacity=4 * PAGE)
    region = world.region(size=1 << 21)
    world.map(region, 0, 2 * PAGE, flags=NORESERVE)
    assert bytes(read(plane, region, fault(0), THREAD)) == bytes(PAGE)
    assert world.memory.used() == PAGE
    other = world.region(b"other", size=1 << 21)
    world.map(other, 0, 3 * PAGE)
    with refused(errno.EIO):
        read(plane, region, fault(1), THREAD)


def test_a_large_read_ahead_is_not_copied(plane: PagedPlane, world: World) -> None:
    """It is shown; also untouched memory, which it reserves first; but not while the region
    changes, because a look could bring back a page that is being taken away."""
    region = world.region(size=1 << 21)
    world.map(region, 0, 16 * PAGE)
    world.map(region, 16 * PAGE, 16 * PAGE, flags=NORESERVE)
    segment = segment_of(region)
    segment.poke(3 * PAGE, b"here")
    assert bytes(read(plane, region, fault(0, 32), THREAD)[3 * PAGE : 3 * PAGE + 4]) == b"here"
    assert segment.windows == 1
    with plane.changing(world.plan(region, CreateMapping(40 * PAGE, PAGE, 0, 3, ANONYMOUS, 0))):
        assert bytes(read(plane, region, fault(0, 32), THREAD)[3 * PAGE : 3 * PAGE + 4]) == b"here"
    assert segment.windows == 1


def test_what_cannot_be_shown_is_copied(plane: PagedPlane, world: World) -> None:
    """To show it takes a descriptor and a mapping more: for want of them nobody loses a page."""
    region = world.region(size=1 << 21)
    world.map(region, 0, 16 * PAGE)
    segment_of(region).poke(3 * PAGE, b"here")
    world.memory.faults.arm(1, errno.EMFILE)
    assert bytes(read(plane, region, fault(0, 16), THREAD)[3 * PAGE : 3 * PAGE + 4]) == b"here"
    assert world.memory.faults.calls == ["open", "window"]


def test_a_write_back_without_a_descriptor_is_a_refusal(plane: PagedPlane, world: World) -> None:
    """And no fault of the server's."""
    region = world.region(size=1 << 21)
    world.map(region, 0, PAGE)
    world.memory.faults.arm(0, errno.EMFILE)
    with refused(errno.ENFILE):
        plane.write(region, *write_back(0))


def test_a_read_need_not_be_of_whole_pages(kernel_end: KernelEnd, world: World) -> None:
    """An old kernel passes read(2) of a descriptor with O_DIRECT on as it is, from memory that
    comes at the first touch, too, and however large it is."""
    plane = PagedPlane(kernel_end.device.notify, "a test", offer(0))
    region = world.region(size=1 << 21)
    world.map(region, 0, 1 << 21, flags=abi.MAP_NORESERVE)
    segment = segment_of(region)
    for offset, size in ((1, 2), (PAGE - 1, 2), (PAGE // 2, PAGE), (3, 100_001)):
        assert bytes(read(plane, region, ReadIn(2, offset, size, 0, 0, 0, 0), THREAD)) == bytes(
            size
        )
    assert segment.allocated() % PAGE == 0
    assert bytes(read(plane, region, ReadIn(2, PAGE, 0, 0, 0, 0, 0), THREAD)) == b""
    with refused(errno.EINVAL):
        read(plane, region, ReadIn(2, 0, (1 << 20) + 1, 0, 0, 0, 0), THREAD)


def test_read_2_is_refused(plane: PagedPlane, region: Region) -> None:
    """It has a lock owner, a fault has none."""
    with refused(errno.EINVAL):
        read(plane, region, fault(3, flags=READ_LOCKOWNER), THREAD)


def test_an_old_kernel_cannot_tell(kernel_end: KernelEnd, region: Region) -> None:
    """Before Linux 6.6 everything goes through the page cache: read(2) gives what is mapped."""
    plane = PagedPlane(kernel_end.device.notify, "a test", offer(0))
    assert bytes(read(plane, region, fault(3, flags=READ_LOCKOWNER), THREAD)[:1]) == b"3"
    assert plane.open_flags(region) == KEEP_CACHE


# Write-backs


def test_dirty_pages_go_to_the_segment(plane: PagedPlane, region: Region) -> None:
    """Those that are mapped; what is behind in a hole is thrown away, and takes no memory."""
    plane.write(region, *write_back(4, 4))
    assert contents(region) == [b"2", b"3", b"new4", b"new5"]
    assert segment_of(region).pages == {2, 3, 4, 5}


def test_dirty_pages_of_a_hole_are_thrown_away(plane: PagedPlane, region: Region) -> None:
    """Without an error: the process that wrote them is past it."""
    plane.write(region, *write_back(0, 2))
    plane.write(region, *write_back(6, 2))
    assert segment_of(region).pages == {2, 3, 4, 5}


def test_write_2_is_refused(plane: PagedPlane, region: Region) -> None:
    """It does not come from the page cache."""
    with refused(errno.EINVAL):
        plane.write(region, *write_back(3, flags=0))
    assert contents(region) == [b"2", b"3", b"4", b"5"]


def test_dirty_pages_of_a_region_that_was_never_open(plane: PagedPlane) -> None:
    """There is nowhere to write them to."""
    region = Region(9, 0o600, 0, 0, 0, make_world().region().creator)
    plane.write(region, *write_back(0))
    assert region.segment is None


# During a change


def test_what_is_being_unmapped_is_neither_read_nor_written(
    plane: PagedPlane, world: World, region: Region
) -> None:
    """From the clearing to the commit; what is beside it is served."""
    plan = world.manager.mappings.plan_unmap(None, region, Unmap(3 * PAGE, 2 * PAGE), writable=True)
    assert plane.has_stale_pages(plan)
    with plane.changing(plan):
        plan.clear()
        with refused(errno.EIO):
            read(plane, region, fault(4), THREAD)
        with refused(errno.EIO):
            read(plane, region, fault(2, 2), THREAD)
        assert bytes(read(plane, region, fault(2), THREAD)[:1]) == b"2"
        plane.write(region, *write_back(2, 4))
        world.manager.mappings.commit(plan)
    assert contents(region) == [b"new2", b"", b"", b"new5"]
    assert segment_of(region).pages == {2, 5}


def test_what_is_being_replaced_reads_as_zeros(
    plane: PagedPlane, world: World, region: Region
) -> None:
    """Old dirty pages are thrown away: they come because they are being dropped."""
    request = CreateMapping(3 * PAGE, 8 * PAGE, 0, 3, ANONYMOUS)
    plan = world.plan(region, request)
    plan.acquire(lambda extra: False)
    with plane.changing(plan):
        plan.clear()
        plane.write(region, *write_back(2, 4))
        assert bytes(read(plane, region, fault(3), THREAD)) == bytes(PAGE)
        world.manager.mappings.commit(plan)
    plane.write(region, *write_back(5))
    assert contents(region) == [b"new2", b"", b"", b"new5"]


def test_changes_of_other_regions_do_not_matter(
    plane: PagedPlane, world: World, region: Region
) -> None:
    """Nor does one that is done."""
    other = world.region(b"other", size=1 << 21)
    world.map(other, 2 * PAGE, 4 * PAGE)
    plan = world.manager.mappings.plan_unmap(None, other, Unmap(0, 1 << 21), writable=True)
    with plane.changing(plan):
        assert bytes(read(plane, region, fault(3), THREAD)[:1]) == b"3"
    assert not isinstance(attempt(lambda: read(plane, other, fault(3), THREAD)), RefusedError)


def test_stale_pages_are_dropped_from_every_process(
    plane: PagedPlane, world: World, region: Region, kernel_end: KernelEnd
) -> None:
    """One notice, however many parts were mapped: for all from the first to the last."""
    world.map(region, 8 * PAGE, PAGE)
    plan = world.manager.mappings.plan_unmap(None, region, Unmap(4 * PAGE, 1 << 20), writable=True)
    plane.drop_stale_pages(plan)
    assert kernel_end.heard() == [
        struct.pack("<IiQQqq", 40, 2, 0, region.ino, 4 * PAGE, 5 * PAGE),
    ]


def test_a_change_of_holes_leaves_no_stale_pages(
    plane: PagedPlane, world: World, region: Region
) -> None:
    """Nothing was mapped there, so the kernel has nothing of it."""
    request = CreateMapping(8 * PAGE, PAGE, 0, 3, ANONYMOUS)
    assert not plane.has_stale_pages(world.plan(region, request))


# Those who populate


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, who asks again was refused just before."""
    monkeypatch.setattr(loans, "GRACE", 60.0)


def populating(kernel_end: KernelEnd) -> PagedPlane:
    """A plane on which every thread is in mlock."""
    return PagedPlane(
        kernel_end.device.notify,
        "a test",
        offer(ALLOW_MMAP | RESEND),
        call_of=lambda thread: "mlock",
    )


def ask_until_lent(plane: PagedPlane, region: Region, first: int) -> None:
    """As the kernel does for a thread that cannot be refused."""
    for _ in range(REFUSALS):
        with refused(errno.EIO):
            read(plane, region, fault(first), THREAD)
    assert bytes(read(plane, region, fault(first), THREAD)) == bytes(PAGE)


def test_who_populates_a_hole_is_lent_zeros(kernel_end: KernelEnd, region: Region) -> None:
    """Page by page, and what is read ahead, if all of it is a hole: nothing hides what is mapped."""
    plane = populating(kernel_end)
    ask_until_lent(plane, region, 0)
    with refused(errno.EIO):
        read(plane, region, fault(1, 2), THREAD)
    assert bytes(read(plane, region, fault(6), THREAD)) == bytes(PAGE)
    assert bytes(read(plane, region, fault(8, 16), THREAD)) == bytes(16 * PAGE)
    assert bytes(read(plane, region, fault(2), THREAD)[:1]) == b"2"
    with refused(errno.EIO):
        read(plane, region, fault(region.size // PAGE), THREAD)


def dropped(region: Region, first: int, pages: int = 1) -> bytes:
    """What tells the kernel to let go of pages."""
    return struct.pack("<IiQQqq", 40, 2, 0, region.ino, first * PAGE, pages * PAGE)


async def test_what_was_lent_is_taken_back(kernel_end: KernelEnd, region: Region) -> None:
    """With what the kernel read ahead in vain behind it, but for the last page of the hole."""
    plane = populating(kernel_end)
    ask_until_lent(plane, region, region.size // PAGE - 5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(plane.tend)
        heard: list[bytes] = []
        while not heard:
            await trio.lowlevel.checkpoint()
            heard = kernel_end.heard()
        nursery.cancel_scope.cancel()
    assert heard == [dropped(region, region.size // PAGE - 5, 4)]


async def test_the_last_page_of_a_hole_is_lent_when_the_others_are_back(
    kernel_end: KernelEnd, region: Region
) -> None:
    """The call may return behind it. What is read ahead never has it."""
    plane = populating(kernel_end)
    ask_until_lent(plane, region, 0)
    with refused(errno.EIO):
        read(plane, region, fault(region.size // PAGE - 16, 16), THREAD)
    assert bytes(read(plane, region, fault(0), THREAD)) == bytes(PAGE)
    last = plane.read(region, fault(1), THREAD)
    assert not isinstance(last, memoryview)
    assert kernel_end.heard() == []
    assert await last == bytes(PAGE)
    assert kernel_end.heard() == [dropped(region, 0)]
    await plane.take_back()
    assert kernel_end.heard() == [dropped(region, 1)]


async def test_a_last_page_that_is_mapped_meanwhile(
    kernel_end: KernelEnd, world: World, region: Region
) -> None:
    """It is what was mapped; while that goes on it is refused, and asked for again."""
    plane = populating(kernel_end)
    ask_until_lent(plane, region, 0)
    answers = [plane.read(region, fault(1), THREAD) for _ in range(2)]
    plan = world.plan(region, CreateMapping(PAGE, PAGE, 0, 3, ANONYMOUS, 0))
    plan.acquire(lambda extra: False)
    with plane.changing(plan):
        with refused(errno.EIO):
            assert not isinstance(answers[0], memoryview)
            await answers[0]
        plan.clear()
        world.manager.mappings.commit(plan)
    segment_of(region).poke(PAGE, b"here")
    assert not isinstance(answers[1], memoryview)
    assert (await answers[1])[:4] == b"here"


def test_a_mapping_over_what_is_lent(kernel_end: KernelEnd, world: World, region: Region) -> None:
    """It drops the zeros, into which somebody may have written; and nothing is lent meanwhile."""
    plane = populating(kernel_end)
    ask_until_lent(plane, region, 0)
    plan = world.plan(region, CreateMapping(0, PAGE, 0, 3, ANONYMOUS, 0))
    assert plan.stale is None
    assert plane.has_stale_pages(plan)
    with plane.changing(plan):
        with refused(errno.EIO):
            read(plane, region, fault(0), THREAD)
        plane.drop_stale_pages(plan)
    assert kernel_end.heard() == [dropped(region, 0)]


# INIT and open


def test_what_is_negotiated(plane: PagedPlane) -> None:
    """mmap of direct-I/O files, resending, KILLPRIV: where offered; nothing is stacked."""
    negotiation = plane.negotiate(offer(ALLOW_MMAP | RESEND | PASSTHROUGH))
    assert (negotiation.flags2, negotiation.stack_depth) == (ALLOW_MMAP | RESEND, 0)
    assert negotiation.flags == kernel.FUSE_HANDLE_KILLPRIV
    assert plane.negotiate(offer(0)).flags2 == 0


def test_opens_are_direct(plane: PagedPlane, world: World, region: Region) -> None:
    """And there is nothing to register or to let go of."""
    assert plane.register(segment_of(region)) == 0
    assert plane.open_flags(region) == DIRECT_IO
    plane.unregister(0)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV, errno.ECONNABORTED])
def test_pages_that_nobody_has_are_not_missed(
    plane: PagedPlane, world: World, region: Region, kernel_end: KernelEnd, code: int
) -> None:
    """The kernel has no such inode in its cache, or the mount is gone."""
    kernel_end.device.writes = [code]
    gone = Unmap(4 * PAGE, PAGE)
    plane.drop_stale_pages(world.manager.mappings.plan_unmap(None, region, gone, writable=True))
    assert kernel_end.device.writes == []
