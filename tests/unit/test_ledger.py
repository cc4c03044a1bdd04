"""The sums, the limit that follows them, and the taking back of pages in holes."""

from __future__ import annotations

import errno

import pytest

from msharefs.core.errors import OutOfMemory, StorageFailed
from msharefs.core.layout import Layout, Mapping
from msharefs.core.ledger import Ledger, Totals, storage_error
from msharefs.core.region import Region
from msharefs.core.sweeping import sweep
from tests.unit.support.fakes import FakeMemory, FakeSegment, failure
from tests.unit.support.worlds import ALICE, ALIGN, PAGE, refused

CAPACITY = 100 * PAGE


@pytest.fixture
def memory() -> FakeMemory:
    """100 pages."""
    return FakeMemory(CAPACITY)


@pytest.fixture
def ledger(memory: FakeMemory) -> Ledger:
    """Settled: nothing is promised, nothing may be used."""
    ledger = Ledger(memory)
    assert ledger.settle([])
    memory.faults.reset()
    return ledger


def make_region(memory: FakeMemory, ino: int = 3) -> tuple[Region, FakeSegment]:
    """A sized region with its segment."""
    region = Region(ino, 0o600, 0, 0, 1, ALICE)
    segment = memory.create(ino)
    segment.set_size(ALIGN)
    region.segment = segment
    region.become_sized(ALIGN)
    return region, segment


def insert(ledger: Ledger, layout: Layout, mapping: Mapping) -> None:
    """Change a layout and tell the ledger."""
    before = Totals(layout)
    layout.insert(mapping)
    ledger.account(before, layout)


def sums(ledger: Ledger) -> tuple[int, int, int, int]:
    """Mappings, and pages reserved, pending and optional."""
    return (
        ledger.mappings,
        ledger.reserved // PAGE,
        ledger.pending // PAGE,
        ledger.optional // PAGE,
    )


def test_a_new_ledger_allows_nothing(ledger: Ledger, memory: FakeMemory) -> None:
    """The limit is 0, whatever the capacity."""
    assert (ledger.limit, memory.limit, ledger.capacity) == (0, 0, CAPACITY)


def test_a_promise_raises_the_limit(ledger: Ledger, memory: FakeMemory) -> None:
    """By exactly what is needed; uncharged and settled it is as before."""
    ledger.charge(7 * PAGE, [])
    assert (sums(ledger), memory.limit) == ((0, 0, 7, 0), 7 * PAGE)
    ledger.uncharge(7 * PAGE)
    assert ledger.settle([])
    assert (sums(ledger), memory.limit) == ((0, 0, 0, 0), 0)


def test_a_promise_of_nothing_asks_nothing(ledger: Ledger, memory: FakeMemory) -> None:
    """No system call for a mapping that needs no memory."""
    ledger.charge(0, [])
    assert memory.faults.calls == []


def test_promises_end_at_the_capacity(ledger: Ledger) -> None:
    """ENOMEM for one page more; all of it can be promised."""
    ledger.charge(60 * PAGE, [])
    ledger.charge(40 * PAGE, [])
    with refused(errno.ENOMEM):
        ledger.charge(PAGE, [])
    assert sums(ledger) == (0, 0, 100, 0)


def test_reserved_memory_counts_against_promises(ledger: Ledger) -> None:
    """What is mapped is not there a second time."""
    insert(ledger, Layout(), Mapping(0, 90 * PAGE, 3))
    with refused(errno.ENOMEM):
        ledger.charge(11 * PAGE, [])
    ledger.charge(10 * PAGE, [])


def test_memory_in_use_counts_against_promises(ledger: Ledger, memory: FakeMemory) -> None:
    """Such as that of a region that is unlinked and still mapped somewhere."""
    memory.held = 90 * PAGE
    with refused(errno.ENOMEM):
        ledger.charge(11 * PAGE, [])
    assert sums(ledger) == (0, 0, 0, 0)


def test_pages_of_a_promise_are_not_counted_twice(ledger: Ledger, memory: FakeMemory) -> None:
    """While a worker reserves, what it has got is in use and pending both."""
    _region, segment = make_region(memory)
    ledger.charge(60 * PAGE, [])
    segment.reserve(0, 60 * PAGE)
    ledger.charge(40 * PAGE, [])
    assert memory.limit == CAPACITY


def test_pages_in_holes_do_not_count_against_promises(ledger: Ledger, memory: FakeMemory) -> None:
    """Whoever reads through a region's holes while budget is free cannot use the mount up."""
    region, segment = make_region(memory)
    insert(ledger, region.layout, Mapping(0, 90 * PAGE, 3, reserve=False))
    assert ledger.settle([region])
    segment.poke(0, bytes(20 * PAGE))
    segment.poke(100 * PAGE, bytes(70 * PAGE))
    ledger.charge(80 * PAGE, [region])
    assert segment.pages == set(range(20))


def test_a_full_mount_refuses_without_a_look_at_its_regions(
    ledger: Ledger, memory: FakeMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be very many, and anybody may ask again and again. Only where more is in use
    than is reserved can there be pages to take back."""
    looked: list[int] = []
    allocated = FakeSegment.allocated

    def look(segment: FakeSegment) -> int:
        looked.append(segment.ino)
        return allocated(segment)

    region, segment = make_region(memory)
    insert(ledger, region.layout, Mapping(0, 100 * PAGE, 3))
    assert ledger.settle([region])
    segment.reserve(0, 100 * PAGE)
    monkeypatch.setattr(memory, "used", lambda: 100 * PAGE)
    monkeypatch.setattr(FakeSegment, "allocated", look)
    with refused(errno.ENOMEM):
        ledger.charge(PAGE, [region])
    assert looked == []
    monkeypatch.setattr(memory, "used", lambda: 101 * PAGE)
    with refused(errno.ENOMEM):
        ledger.charge(PAGE, [region])
    assert looked == [3]


def test_a_promise_that_the_system_refuses_is_none(ledger: Ledger, memory: FakeMemory) -> None:
    """ENOMEM, and the sums are as before."""
    memory.faults.arm(0, errno.ENOMEM)
    with refused(errno.ENOMEM):
        ledger.charge(PAGE, [])
    assert (sums(ledger), memory.limit) == ((0, 0, 0, 0), 0)
    ledger.charge(PAGE, [])
    assert memory.limit == PAGE


def test_accounts_follow_the_layout(ledger: Ledger) -> None:
    """Reserved and optional bytes, and the count, through replacement and removal."""
    layout = Layout()
    insert(ledger, layout, Mapping(0, 10 * PAGE, 3))
    assert sums(ledger) == (1, 10, 0, 0)
    insert(ledger, layout, Mapping(4 * PAGE, 6 * PAGE, 3, reserve=False))
    assert sums(ledger) == (3, 8, 0, 2)
    insert(ledger, layout, Mapping(0, 5 * PAGE, 3))
    assert sums(ledger) == (3, 9, 0, 1)
    before = Totals(layout)
    layout.remove(0, 10 * PAGE)
    ledger.account(before, layout)
    assert sums(ledger) == (0, 0, 0, 0)


def test_optional_memory_raises_the_limit_up_to_the_capacity(
    ledger: Ledger, memory: FakeMemory
) -> None:
    """MAP_NORESERVE promises nothing, and cannot break the mount's size."""
    insert(ledger, Layout(), Mapping(0, 30 * PAGE, 3, reserve=False))
    assert ledger.settle([])
    assert memory.limit == 30 * PAGE
    insert(ledger, Layout(), Mapping(0, 300 * PAGE, 3, reserve=False))
    assert ledger.settle([])
    assert memory.limit == CAPACITY


def test_settling_what_is_settled_asks_nothing(ledger: Ledger, memory: FakeMemory) -> None:
    """Each call of the system costs, so there is none without a change."""
    assert ledger.settle([])
    assert memory.faults.calls == []


def test_settling_sweeps_where_more_is_in_use(ledger: Ledger, memory: FakeMemory) -> None:
    """A page that was touched in a hole goes, what is mapped stays."""
    region, segment = make_region(memory)
    ledger.charge(4 * PAGE, [])
    segment.reserve(0, 2 * PAGE)
    segment.poke(8 * PAGE, b"stray")
    ledger.uncharge(4 * PAGE)
    insert(ledger, region.layout, Mapping(0, 2 * PAGE, 3))
    assert ledger.settle([region])
    assert memory.limit == 2 * PAGE
    assert segment.pages == {0, 1}


def test_settling_later_where_memory_cannot_be_had_back(ledger: Ledger, memory: FakeMemory) -> None:
    """The limit is what is in use, no hole can be touched, and a later look succeeds."""
    ledger.charge(4 * PAGE, [])
    memory.held = 3 * PAGE
    ledger.uncharge(4 * PAGE)
    assert not ledger.settle([])
    assert memory.limit == 3 * PAGE
    memory.held = 0
    assert ledger.settle([])
    assert memory.limit == 0


def test_room_is_made_for_all_that_is_promised(ledger: Ledger, memory: FakeMemory) -> None:
    """Pages in holes go, and the limit leaves every promise its memory, with some to spare."""
    region, segment = make_region(memory)
    ledger.charge(30 * PAGE, [])
    ledger.charge(20 * PAGE, [])
    segment.poke(100 * PAGE, bytes(50 * PAGE))
    ledger.make_room(8 * PAGE, [region])
    assert (segment.pages, memory.limit) == (set(), 58 * PAGE)
    segment.reserve(0, 50 * PAGE)


def test_room_ends_at_the_capacity(ledger: Ledger, memory: FakeMemory) -> None:
    """Whatever is asked to spare."""
    ledger.charge(30 * PAGE, [])
    ledger.make_room(1 << 40, [])
    assert memory.limit == CAPACITY


def test_sweep_takes_pages_in_holes_alone(memory: FakeMemory) -> None:
    """And says how many bytes; regions without stray pages are not touched."""
    memory.limit = CAPACITY
    region, segment = make_region(memory, 3)
    clean, other = make_region(memory, 4)
    unsized = Region(5, 0o600, 0, 0, 1, ALICE)
    for each, seg in ((region, segment), (clean, other)):
        each.layout.insert(Mapping(4 * PAGE, 6 * PAGE, 3))
        seg.reserve(4 * PAGE, 2 * PAGE)
        seg.poke(4 * PAGE, b"kept")
    for page in (0, 3, 6, 60):
        segment.poke(page * PAGE, b"x")
    assert sweep([region, clean, unsized]) == 4 * PAGE
    assert segment.pages == other.pages == {4, 5}
    assert segment.peek(4 * PAGE, 4) == b"kept"
    assert sweep([region, clean, unsized]) == 0


def test_a_sweep_goes_on_after_a_region_that_cannot_be_opened(
    memory: FakeMemory, caplog: pytest.LogCaptureFixture
) -> None:
    """No descriptor is left at this moment: that is said, the others are swept, and a later
    sweep finds it."""
    memory.limit = CAPACITY
    regions = [make_region(memory, ino) for ino in (3, 4)]
    for _region, segment in regions:
        segment.poke(0, b"stray")
    memory.faults.arm(0, errno.EMFILE)
    assert sweep([region for region, _ in regions]) == PAGE
    assert [len(segment.pages) for _, segment in regions] == [1, 0]
    assert "region 3" in caplog.text
    assert sweep([region for region, _ in regions]) == PAGE


def test_sweep_leaves_pages_of_noreserve_mappings(memory: FakeMemory) -> None:
    """They were touched by right."""
    memory.limit = CAPACITY
    region, segment = make_region(memory)
    region.layout.insert(Mapping(0, 2 * PAGE, 3, reserve=False))
    segment.poke(0, b"kept")
    segment.poke(2 * PAGE, b"stray")
    assert sweep([region]) == PAGE
    assert (segment.pages, segment.peek(0, 4)) == ({0}, b"kept")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM])
def test_no_memory_is_enomem(code: int) -> None:
    """Also where tmpfs says ENOSPC."""
    refusal = storage_error(failure(code, "reserve"))
    assert isinstance(refusal, OutOfMemory)
    assert refusal.errno == errno.ENOMEM


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor_is_enfile(code: int) -> None:
    """EMFILE would tell the caller that he has too many files open himself."""
    assert storage_error(failure(code, "open")).errno == errno.ENFILE


@pytest.mark.parametrize("code", [errno.EPERM, errno.EIO])
def test_other_failures_keep_their_errno(code: int) -> None:
    """The caller learns what the system said."""
    refusal = storage_error(failure(code, "create"))
    assert isinstance(refusal, StorageFailed)
    assert (refusal.errno, refusal.code) == (code, errno.errorcode[code])
    assert storage_error(OSError("no number")).errno == errno.EIO
