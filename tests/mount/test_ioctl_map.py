"""CREATE_MAPPING with anonymous memory: every rule, and that a refusal changes nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import ANONYMOUS, HUGE, PAGE, create_mapping, opened, refused
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)

SIZE = 4 * HUGE
TOP = 2**64
RLIMIT_MEMLOCK = 8


@contextmanager
def unchanged(path: Path, *numbers: int) -> Iterator[None]:
    """The block is refused with one of these errnos; layout and blocks stay."""
    before = raw.layout(path), path.stat().st_blocks
    with refused(*numbers):
        yield
    assert (raw.layout(path), path.stat().st_blocks) == before


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A descriptor of a sized region with its third 2 MiB mapped."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 2 * HUGE, HUGE)
        yield fd


def test_mapping_gives_zeroed_memory_at_once(place: Path, client: poke.Poke) -> None:
    """C10: after the ioctl the range reads as zeros and can be written, in attached processes."""
    with raw.region(place, SIZE) as fd:
        address = client.attach(place, SIZE)
        assert client.probe(address, SIZE, step=HUGE) == "0000"
        create_mapping(fd, HUGE, HUGE)
        assert client.probe(address, SIZE, step=HUGE) == "0100"
        assert client.holds(address + HUGE, HUGE, 0)
        client.fill(address + HUGE, HUGE, 7)
        assert client.get(address + 2 * HUGE - 1) == b"\7"


def test_memory_is_reserved_when_the_ioctl_returns(place: Path) -> None:
    """C10: df shows it taken, though nobody has touched it."""
    with raw.region(place, SIZE) as fd:
        free = raw.free_bytes(place)
        create_mapping(fd, 0, 3 * HUGE)
        assert free - raw.free_bytes(place) == 3 * HUGE
    # The kernel tells of the last close in its own time.
    eventually(lambda: raw.free_bytes(place.parent) == free, what="memory of a removed region")


def test_unsized_region(place: Path) -> None:
    """I4: before the size is set it is EINVAL, and the region can still be sized."""
    with raw.region(place) as fd:
        with unchanged(place, errno.EINVAL):
            create_mapping(fd, 0, PAGE)
        os.ftruncate(fd, HUGE)
        create_mapping(fd, 0, PAGE)


def test_read_only_descriptor(place: Path, region: int) -> None:
    """I3: EACCES, whoever asks."""
    with opened(place, os.O_RDONLY) as fd, unchanged(place, errno.EACCES):
        create_mapping(fd, 0, PAGE)


def test_write_only_descriptor(place: Path, region: int) -> None:
    """I3: open for writing is enough."""
    with opened(place, os.O_WRONLY) as fd:
        create_mapping(fd, 0, HUGE)
    assert raw.mapped_ranges(place) == [(0, HUGE), (2 * HUGE, 3 * HUGE)]


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (SIZE, PAGE),
        (SIZE + PAGE, PAGE),
        (2 * SIZE, PAGE),
        (TOP - PAGE, PAGE),
        (0, SIZE + PAGE),
        (0, SIZE + 1),
        (HUGE, SIZE),
        (SIZE - PAGE, 2 * PAGE),
        (SIZE - PAGE, PAGE + 1),
        (PAGE, TOP - PAGE),
        (PAGE, TOP - 1),
        (HUGE, TOP - HUGE + PAGE),
        (0, TOP - 1),
        (0, TOP - PAGE),
        (2**63, PAGE),
        (0, 2**63),
    ],
)
def test_range_beyond_the_end(place: Path, region: int, offset: int, size: int) -> None:
    """C1: offset or end beyond the region, or a sum that wraps around 2**64: EINVAL."""
    with unchanged(place, errno.EINVAL):
        create_mapping(region, offset, size)


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 0), (HUGE, 0), (1, PAGE), (PAGE - 1, PAGE), (PAGE + 512, HUGE)]
)
def test_empty_or_unaligned_range(place: Path, region: int, offset: int, size: int) -> None:
    """C2: size 0 and a region_offset that is not page aligned are EINVAL."""
    with unchanged(place, errno.EINVAL):
        create_mapping(region, offset, size)


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE + 1, HUGE - 1])
def test_size_is_rounded_up(place: Path, size: int) -> None:
    """C3: to the page, in the layout and in the memory that is taken."""
    with raw.region(place, SIZE) as fd:
        rounded = -(-size // PAGE) * PAGE
        free = raw.free_bytes(place)
        create_mapping(fd, PAGE, size)
        assert raw.mapped_ranges(fd) == [(PAGE, PAGE + rounded)]
        assert free - raw.free_bytes(place) == rounded


def test_last_page_may_be_asked_for_in_part(place: Path, region: int) -> None:
    """C3: rounding up does not go beyond the end where the size itself does not."""
    create_mapping(region, SIZE - PAGE, 1)
    assert raw.mapped_ranges(place)[-1] == (SIZE - PAGE, SIZE)


@pytest.mark.parametrize(
    "flags",
    [
        0,
        raw.MAP_ANONYMOUS,
        raw.MAP_ANONYMOUS | raw.MAP_SHARED,
        raw.MAP_ANONYMOUS | raw.MAP_FIXED,
        raw.MAP_ANONYMOUS | raw.MAP_FIXED | raw.MAP_PRIVATE,
        raw.MAP_ANONYMOUS | raw.MAP_SHARED | raw.MAP_FIXED_NOREPLACE,
        ANONYMOUS | raw.MAP_PRIVATE,
        ANONYMOUS | raw.MAP_GROWSDOWN,
    ],
)
def test_shared_and_fixed_are_needed(place: Path, region: int, flags: int) -> None:
    """C4: flags without MAP_SHARED or MAP_FIXED, with another type or for a stack are EINVAL."""
    with unchanged(place, errno.EINVAL):
        create_mapping(region, 0, PAGE, flags=flags)


MEANINGFUL = {raw.MAP_FIXED_NOREPLACE, raw.MAP_NORESERVE, raw.MAP_HUGETLB}


@pytest.mark.by_mmap("the client's mmap is of no region")
@pytest.mark.parametrize("bit", [bit for bit in range(32) if 1 << bit not in MEANINGFUL])
def test_each_flag_is_taken_as_by_mmap(
    place: Path, region: int, client: poke.Poke, bit: int
) -> None:
    """C4, C18: a bit that means nothing here is refused or ignored as mmap(2) does it.

    That is, for shared anonymous memory, on the kernel that runs this test.
    """
    flags = ANONYMOUS | 1 << bit
    address = client.mmap(-1, PAGE, flags=raw.MAP_PRIVATE | raw.MAP_ANONYMOUS)
    try:
        client.mmap(-1, PAGE, flags=flags, address=address)
    except OSError as error:
        with unchanged(place, error.errno or 0):
            create_mapping(region, 0, PAGE, flags=flags)
    else:
        create_mapping(region, 0, PAGE, flags=flags)
        mapping = raw.layout(region)["mappings"][0]
        assert mapping == {
            "offset": 0,
            "size": PAGE,
            "prot": "rw-",
            "reserve": True,
            "huge": False,
        }


def test_locked_memory_is_memory_like_any_other(
    place: Path, region: int, client: poke.Poke
) -> None:
    """C19: MAP_LOCKED needs no right to lock memory, and the memory is there at once.

    It locks nothing: nowhere does the mapping count as locked.
    """
    fd = client.open(place)
    client.call("prlimit64", 0, RLIMIT_MEMLOCK, bytes(16), 0)
    free = raw.free_bytes(place)
    client.create_mapping(fd, 0, HUGE, flags=ANONYMOUS | raw.MAP_LOCKED)
    assert free - raw.free_bytes(place) == HUGE
    address = client.window(fd, HUGE)
    client.fill(address, HUGE, 1)
    assert poke.smaps(client.pid, address, HUGE)["Locked"] == 0


@pytest.mark.parametrize("bit", range(3, 32))
def test_each_unknown_protection(place: Path, region: int, bit: int) -> None:
    """C5: bits other than READ, WRITE and EXEC are ignored, as by mmap(2)."""
    create_mapping(region, 0, PAGE, prot=raw.PROT_READ | 1 << bit)
    assert raw.layout(region)["mappings"][0]["prot"] == "r--"


@pytest.mark.parametrize(
    ("prot", "text"),
    [(0, "---"), (1, "r--"), (2, "-w-"), (3, "rw-"), (4, "--x"), (5, "r-x"), (7, "rwx")],
)
def test_protection_is_recorded(
    place: Path, region: int, client: poke.Poke, prot: int, text: str
) -> None:
    """C15: the layout shows it; a process that attached for writing can write all the same."""
    create_mapping(region, 0, HUGE, prot=prot)
    assert raw.layout(place)["mappings"][0]["prot"] == text
    address = client.attach(place, HUGE)
    client.put(address, b"x")
    assert client.get(address) == b"x"


@pytest.mark.parametrize("number", [0, 1, 1000, 2**31 - 1, 2**31, 2**32 - 2])
def test_anonymous_memory_needs_no_file(place: Path, region: int, number: int) -> None:
    """C6: with MAP_ANONYMOUS the fd is ignored, and so is the offset in it."""
    create_mapping(region, 0, PAGE, file=number, offset=number + 1)
    assert raw.mapped_ranges(place)[0] == (0, PAGE)


def test_overlap_is_replaced_by_zeros(place: Path, client: poke.Poke) -> None:
    """C7: the overlapped part starts as zeros for all that have it attached; the rest stays."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, 2 * HUGE)
        address = client.attach(place, SIZE)
        client.fill(address, 2 * HUGE, 5)
        create_mapping(fd, HUGE + PAGE, HUGE, prot=raw.PROT_READ)
        assert client.get(address, HUGE + PAGE) == b"\5" * (HUGE + PAGE)
        assert client.get(address + HUGE + PAGE, HUGE) == bytes(HUGE)
        assert raw.mapped_ranges(fd) == [(0, 2 * HUGE + PAGE)]
        assert [m["prot"] for m in raw.layout(fd)["mappings"]] == ["rw-", "r--"]
        assert place.stat().st_blocks == (2 * HUGE + PAGE) // 512


def test_overlap_in_the_middle_splits(place: Path, client: poke.Poke) -> None:
    """C7: a mapping inside another leaves both of its ends with their contents."""
    with raw.region(place, HUGE, mapped=True) as fd:
        address = client.attach(place, HUGE)
        client.fill(address, HUGE, 9)
        create_mapping(fd, 4 * PAGE, 2 * PAGE, prot=raw.PROT_READ)
        seen = client.get(address, HUGE)
        assert seen == b"\x09" * 4 * PAGE + bytes(2 * PAGE) + b"\x09" * (HUGE - 6 * PAGE)
        offsets = [(m["offset"], m["size"]) for m in raw.layout(fd)["mappings"]]
        assert offsets == [(0, 4 * PAGE), (4 * PAGE, 2 * PAGE), (6 * PAGE, HUGE - 6 * PAGE)]


def test_same_range_again(place: Path, client: poke.Poke) -> None:
    """C7: mapping a range anew takes no more memory, and its contents are zeros."""
    with raw.region(place, HUGE, mapped=True) as fd:
        address = client.attach(place, HUGE)
        free = raw.free_bytes(place)
        for byte in (1, 2, 3):
            client.fill(address, HUGE, byte)
            create_mapping(fd, 0, HUGE)
            assert client.get(address, HUGE) == bytes(HUGE)
        assert raw.free_bytes(place) == free
        assert raw.layout(fd)["mapping_count"] == 1


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (2 * HUGE, HUGE),
        (2 * HUGE - PAGE, 2 * PAGE),
        (3 * HUGE - PAGE, 2 * PAGE),
        (2 * HUGE + PAGE, PAGE),
        (0, SIZE),
        (2 * HUGE - PAGE, PAGE + 1),
    ],
)
def test_noreplace_over_a_mapping(
    place: Path, region: int, client: poke.Poke, offset: int, size: int
) -> None:
    """C8: MAP_FIXED_NOREPLACE over any part of a mapping is EEXIST, contents unharmed."""
    address = client.attach(place, SIZE)
    client.fill(address + 2 * HUGE, HUGE, 3)
    with unchanged(place, errno.EEXIST):
        create_mapping(region, offset, size, flags=ANONYMOUS | raw.MAP_FIXED_NOREPLACE)
    assert client.get(address + 2 * HUGE, HUGE) == b"\3" * HUGE


def test_noreplace_beside_mappings(place: Path, region: int) -> None:
    """C8: right before and right after a mapping it is allowed."""
    for offset in (HUGE, 3 * HUGE):
        create_mapping(region, offset, HUGE, flags=ANONYMOUS | raw.MAP_FIXED_NOREPLACE)
    assert raw.mapped_ranges(place) == [(HUGE, 4 * HUGE)]


def test_refusals_come_in_order(place: Path, region: int) -> None:
    """C1 to C16: range, flags and protection are looked at before overlap, file and memory."""
    taken = 2 * HUGE
    noreplace = ANONYMOUS | raw.MAP_FIXED_NOREPLACE
    with unchanged(place, errno.EINVAL):
        create_mapping(region, taken, SIZE, flags=noreplace)
    with unchanged(place, errno.EINVAL):
        create_mapping(region, taken + 1, PAGE, flags=noreplace)
    with unchanged(place, errno.EINVAL):
        create_mapping(region, taken, PAGE, flags=noreplace | raw.MAP_GROWSDOWN)
    with unchanged(place, errno.EINVAL):
        create_mapping(region, taken, 0, flags=raw.FROM_FILE, file=raw.NO_FD)
    with opened(place, os.O_RDONLY) as fd, unchanged(place, errno.EACCES):
        create_mapping(fd, SIZE, PAGE)


def test_populate_is_accepted(place: Path, client: poke.Poke) -> None:
    """C11: MAP_POPULATE makes no difference: the memory is there either way."""
    with raw.region(place, HUGE) as fd:
        create_mapping(fd, 0, HUGE, flags=ANONYMOUS | raw.MAP_POPULATE)
        assert place.stat().st_blocks == HUGE // 512
        assert client.get(client.attach(place, HUGE), HUGE) == bytes(HUGE)


@pytest.mark.parametrize("size_bits", [0, raw.MAP_HUGE_2MB], ids=["default", "2MB"])
def test_huge_pages(place: Path, client: poke.Poke, size_bits: int, *, paged: bool) -> None:
    """C13: every 2 MiB of a MAP_HUGETLB mapping is one huge page: one entry in smaps."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, HUGE, HUGE + 1, flags=ANONYMOUS | raw.MAP_HUGETLB | size_bits)
        (mapping,) = raw.layout(fd)["mappings"]
        assert (mapping["offset"], mapping["size"], mapping["huge"]) == (HUGE, 2 * HUGE, True)
        address = client.attach(place, SIZE)
        client.fill(address + HUGE, 2 * HUGE, 1)
        # The pages of a process are copies of the kernel's own on the paged plane.
        mapped = 0 if paged else 2 * HUGE // 1024
        assert poke.smaps(client.pid, address, SIZE)["ShmemPmdMapped"] == mapped


def test_overlap_inside_a_huge_page(place: Path, client: poke.Poke) -> None:
    """C7: a page in the middle of a MAP_HUGETLB mapping can be replaced; the rest stays."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, 2 * HUGE, flags=ANONYMOUS | raw.MAP_HUGETLB)
        address = client.attach(place, SIZE)
        client.fill(address, 2 * HUGE, 7)
        create_mapping(fd, 3 * PAGE, PAGE)
        assert client.holds(address, 3 * PAGE, 7)
        assert client.holds(address + 3 * PAGE, PAGE, 0)
        assert client.holds(address + 4 * PAGE, 2 * HUGE - 4 * PAGE, 7)
        assert [m["huge"] for m in raw.layout(fd)["mappings"]] == [True, False, True]


@pytest.mark.parametrize("offset", [PAGE, HUGE - PAGE, HUGE + PAGE, 1])
def test_huge_pages_need_alignment(place: Path, region: int, offset: int) -> None:
    """C13: a region_offset that is not a multiple of 2 MiB is EINVAL."""
    with unchanged(place, errno.EINVAL):
        create_mapping(region, offset, HUGE, flags=ANONYMOUS | raw.MAP_HUGETLB)


@pytest.mark.parametrize("log2", [log2 for log2 in range(1, 64) if log2 != 21])
def test_other_huge_page_sizes(place: Path, region: int, log2: int) -> None:
    """C14: the size bits of every size but 2 MiB are EINVAL; C18: without MAP_HUGETLB nothing."""
    size_bits = log2 << raw.MAP_HUGE_SHIFT
    with unchanged(place, errno.EINVAL):
        create_mapping(region, 0, HUGE, flags=ANONYMOUS | raw.MAP_HUGETLB | size_bits)
    create_mapping(region, 0, HUGE, flags=ANONYMOUS | size_bits)
    assert not raw.layout(region)["mappings"][0]["huge"]


def test_huge_pages_beyond_a_small_region(make_mount: MakeMount) -> None:
    """C13: where rounding up to 2 MiB leaves the region it is EINVAL."""
    mounted = make_mount("size=16M,align=4096")
    with raw.region(mounted.path / "r", 3 * raw.MIB) as fd:
        with unchanged(mounted.path / "r", errno.EINVAL):
            create_mapping(fd, HUGE, PAGE, flags=ANONYMOUS | raw.MAP_HUGETLB)
        create_mapping(fd, 0, PAGE, flags=ANONYMOUS | raw.MAP_HUGETLB)
        assert raw.mapped_ranges(fd) == [(0, HUGE)]


def test_file_that_is_not_open(place: Path, region: int) -> None:
    """C16: no MAP_ANONYMOUS and a number that is no open file: EBADF."""
    for number in (raw.NO_FD, 12345, 2**31):
        with unchanged(place, errno.EBADF):
            create_mapping(region, 0, PAGE, flags=raw.FROM_FILE, file=number)


def test_hundreds_of_mappings(place: Path, client: poke.Poke) -> None:
    """C10: every second page of 4 MiB, mapped one by one in any order, is there and no other."""
    with raw.region(place, 2 * HUGE) as fd:
        pages = range(0, 2 * HUGE // PAGE, 2)
        for page in sorted(pages, key=lambda number: number * 7919 % 1024):
            create_mapping(fd, page * PAGE, PAGE)
        assert raw.layout(fd)["mapping_count"] == len(pages)
        assert raw.mapped_ranges(fd) == [(p * PAGE, (p + 1) * PAGE) for p in pages]
        assert client.probe(client.attach(place, 2 * HUGE), 2 * HUGE) == "10" * len(pages)
