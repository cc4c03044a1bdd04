"""mshare run: what goes into the region, what stays outside, and what comes back when.

The program maps by mmap(2) alone; it was compiled without a word of mshare.
"""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import pytest

from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.run.conftest import Start
from tests.run.programs import MIB, Run, layout, planes, sizes

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=512M"
PLANES = planes()
HUGE = 2 * MIB


@pytest.fixture
def work(start: Start, place: Path) -> Run:
    """A run with the defaults."""
    return start(place)


def test_three_mappings_live_in_the_region(work: Run, mounted: Mount) -> None:
    """Each has a range of its own with a hole behind it, huge-page aligned, full of zeros."""
    addresses = [work.map(slot, 64 + slot) for slot in range(3)]
    assert [address % HUGE for address in addresses] == [0, 0, 0]
    assert sizes(work.path) == [64, 65, 66]
    spans = layout(work.path)
    for (offset, size), (following, _) in itertools.pairwise(spans):
        assert offset % HUGE == 0
        assert following - (offset + size) >= HUGE
    assert mounted.status()["arena"]["reserved"] == 195 * MIB
    for slot in range(3):
        assert work.inside(slot)
        assert work.ask(f"get {slot} {64 * MIB - 1}") == "0"
        work.ok(f"put {slot} 5 {slot + 1}")
    assert [work.ask(f"get {slot} 5") for slot in range(3)] == ["1", "2", "3"]
    assert work.end() == (0, "")
    assert not work.path.exists()


def test_small_and_private_mappings_are_the_kernels(work: Run) -> None:
    """A byte less than the limit, or MAP_PRIVATE, and nothing is different."""
    assert work.ask(f"map 0 {64 * MIB - 4096} 0").startswith("0x")
    work.map(1, 128, "0", "private")
    assert not work.inside(0)
    assert not work.inside(1)
    assert layout(work.path) == []
    assert work.end() == (0, "")


def test_min_size_moves_the_limit(start: Start, place: Path) -> None:
    """With --min-size 4096 a single page lives in the region."""
    work = start(place, "--min-size", "4096")
    assert work.ask("map 0 4096 0").startswith("0x")
    assert layout(place) == [(0, 4096)]


def test_a_child_shares_the_memory_and_keeps_it(work: Run) -> None:
    """What parent or child writes the other reads, and the parent's munmap takes nothing."""
    work.map(0, 64)
    work.map(1, 65)
    work.ask("fork")
    work.ok("put 0 7 42", ">put 0 8 43")
    assert (work.ask(">get 0 7"), work.ask("get 0 8")) == ("42", "43")
    work.ok("unmap 0")
    assert sizes(work.path) == [64, 65]
    assert work.ask(">get 0 7") == "42"
    assert work.ask("get 0 7") == "SIGSEGV"
    work.ok(">unmap 1", ">unmap 0")
    assert sizes(work.path) == [65]
    work.ok("unmap 1")
    assert layout(work.path) == []


@pytest.mark.parametrize("end", ["> exit 0", "kill"])
def test_the_end_of_the_last_holder_gives_the_range_back(work: Run, end: str) -> None:
    """A child that alone has a range and ends without munmap, or is killed, gives it back."""
    work.map(0, 64)
    work.ask("fork")
    work.ok("unmap 0")
    assert sizes(work.path) == [64]
    assert work.ask(end) in {"ok", "gone"}
    work.eventually_sizes([])


def test_a_grandchild_keeps_a_range_that_both_others_gave_up(work: Run) -> None:
    """Whoever forks from whom: the range is there while one process has it."""
    work.map(0, 64)
    work.ask("fork")
    work.ask(">fork")
    work.ok("put 0 1 9", "unmap 0", ">unmap 0")
    assert sizes(work.path) == [64]
    assert work.ask(">>get 0 1") == "9"
    work.ok(">>unmap 0")
    assert layout(work.path) == []


def test_exec_gives_the_range_back(work: Run) -> None:
    """The program becomes another one: nobody unmaps, yet nobody has the range."""
    work.map(0, 64)
    work.ask("fork")
    work.ok("unmap 0")
    work.ok(">exec")
    assert work.ask(">hello") == "hello"
    # The next munmap is a reason to look.
    work.map(1, 65)
    work.ok("unmap 1")
    work.eventually_sizes([])


def test_memory_is_free_again_when_munmap_returns(work: Run) -> None:
    """300 MiB again and again on a mount of 512 MiB: it is the region's every time."""
    for _ in range(5):
        work.map(0, 300)
        assert work.inside(0)
        work.ok(f"put 0 {299 * MIB} 1", "unmap 0")
    assert work.end() == (0, "")


def test_memory_of_a_killed_child_is_found_when_it_is_needed(work: Run) -> None:
    """A child maps 300 MiB and is killed; the parent's next 300 MiB fit at once."""
    work.ask("fork")
    assert work.ask(f">map 0 {300 * MIB} 0").startswith("0x")
    work.ok("kill")
    work.map(0, 300)
    assert work.inside(0)


def test_part_of_a_window_unmapped_keeps_the_range(work: Run) -> None:
    """The middle goes, then the ends; the range comes back with the last of them."""
    work.map(0, 64)
    work.ok("put 0 0 1", f"put 0 {63 * MIB} 2")
    work.ok(f"unmap 0 {16 * MIB} {16 * MIB}")
    assert work.ask(f"get 0 {20 * MIB}") == "SIGSEGV"
    assert (work.ask("get 0 0"), work.ask(f"get 0 {63 * MIB}")) == ("1", "2")
    work.ok(f"unmap 0 0 {16 * MIB}")
    assert sizes(work.path) == [64]
    work.ok(f"unmap 0 {32 * MIB} {32 * MIB}")
    assert layout(work.path) == []


def test_a_fixed_mapping_over_a_window_gives_the_range_back(work: Run) -> None:
    """Another mapping takes the window's addresses: that is munmap too."""
    address = work.map(0, 64)
    assert work.map(1, 64, str(address), "fixed", "private") == address
    assert layout(work.path) == []
    assert work.ask("get 1 0") == "0"


def test_a_fixed_mapping_goes_where_it_is_told(work: Run) -> None:
    """MAP_FIXED over memory of the program: same address, the region's zeros."""
    address = work.map(0, 80, "0", "private")
    work.ok("put 0 0 1")
    assert work.map(1, 80, str(address), "fixed") == address
    assert work.inside(1)
    assert work.ask("get 1 0") == "0"
    work.ok("unmap 1")
    assert layout(work.path) == []


def test_noreplace_refuses_taken_addresses(work: Run) -> None:
    """MAP_FIXED_NOREPLACE: EEXIST as ever, or exactly that address."""
    address = work.map(0, 64)
    taken = work.ask(f"map 1 {64 * MIB} {address} noreplace")
    assert taken == errno.errorcode[errno.EEXIST]
    assert sizes(work.path) == [64]
    work.ok("unmap 0")
    assert work.map(1, 64, str(address), "noreplace") == address
    assert work.inside(1)
    assert work.end() == (0, "")


def test_a_hint_is_honoured(work: Run) -> None:
    """An address that is free and asked for is the one that comes."""
    address = work.map(0, 64, "0", "private") + 4096
    work.ok("unmap 0")
    assert work.map(0, 32 * 2, str(address)) == address
    assert work.inside(0)


def test_noreserve_is_passed_on(work: Run, mounted: Mount) -> None:
    """What becomes of MAP_NORESERVE is the mount's to say: without overcommit it is reserved."""
    work.map(0, 64, "0", "noreserve")
    assert work.inside(0)
    assert mounted.status()["arena"]["reserved"] == 64 * MIB
    work.ok("put 0 4096 1")
    assert work.ask("get 0 4096") == "1"


def test_noreserve_with_overcommit_takes_memory_at_touch(
    make_mount: MakeMount, start: Start
) -> None:
    """Nothing is set aside, and memory comes when it is touched."""
    generous = make_mount("size=64M,overcommit")
    run = start(generous.path / "run")
    run.map(0, 1 << 10, "0", "noreserve")
    assert run.inside(0)
    assert generous.status()["arena"]["reserved"] == 0
    run.ok("put 0 4096 1")
    assert run.ask("get 0 4096") == "1"


def test_hugetlb_gets_huge_pages_of_the_region(work: Run) -> None:
    """MAP_HUGETLB: huge pages are asked for, the size is rounded up to them."""
    assert work.ask(f"map 0 {65 * MIB} 0 hugetlb").startswith("0x")
    assert sizes(work.path) == [66]
    work.ok(f"put 0 {65 * MIB} 1", f"unmap 0 0 {66 * MIB}")
    assert layout(work.path) == []


@pytest.mark.parametrize("word", ["populate", "locked"])
def test_populated_memory_is_there(work: Run, word: str) -> None:
    """MAP_POPULATE and MAP_LOCKED work, and the memory is usable."""
    work.map(0, 64, "0", word)
    assert work.inside(0)
    work.ok(f"put 0 {64 * MIB - 1} 3")


def test_memory_without_rights_gets_them_later(work: Run) -> None:
    """PROT_NONE first and mprotect(2) then, as programs do that keep addresses for later."""
    work.map(0, 64, "0", "none")
    assert work.ask("get 0 0") == "SIGSEGV"
    work.ok("protect 0", "put 0 0 1")


def test_a_window_does_not_grow_into_its_neighbour(work: Run) -> None:
    """mremap beyond the end: ENOMEM, and the next range is not touched by it."""
    work.map(0, 64)
    work.map(1, 64)
    assert work.ask(f"remap 0 {64 * MIB} {200 * MIB} move") == "ENOMEM"
    work.ok("put 0 0 1", "put 1 0 2")


def test_a_moved_window_is_still_known(work: Run) -> None:
    """mremap that shrinks and moves; munmap at the new address gives the range back."""
    work.map(0, 64)
    work.ok("put 0 9 1")
    assert work.ask(f"remap 0 {64 * MIB} {32 * MIB} move").startswith("0x")
    assert work.ask("get 0 9") == "1"
    work.ok(f"unmap 0 0 {32 * MIB}")
    assert layout(work.path) == []


def test_a_copied_window_keeps_the_range(work: Run) -> None:
    """mremap with an old size of 0 makes a second window: the first one's munmap is not all."""
    work.map(0, 64)
    work.ok("put 0 3 1")
    copy = int(work.ask(f"remap 0 0 {64 * MIB} move"), 16)
    work.ok("unmap 0")
    assert sizes(work.path) == [64]
    assert work.map(1, 64, str(copy), "fixed", "private") == copy
    assert layout(work.path) == []
