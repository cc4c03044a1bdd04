"""The arguments of CREATE_MAPPING and UNMAP: every bit, every edge, and the order of refusals."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs import abi
from msharefs.abi import CreateMapping, Unmap
from msharefs.core.checks import maps_file, unmapped_range
from msharefs.core.checks import wanted_mapping as wanted
from msharefs.core.errors import RefusedError
from msharefs.core.layout import Mapping, Range
from msharefs.core.region import Region
from tests.unit.support.worlds import (
    ALICE,
    ANONYMOUS,
    MIB,
    PAGE,
    READ_WRITE,
    attempt,
    refused,
)

SIZE = 8 * MIB
HUGE = 2 * MIB
TOP = 1 << 64

# What mmap(2) refuses for shared anonymous memory: another type, and a stack.
FORBIDDEN_FLAGS = {0x2: "MAP_PRIVATE", 0x4: "type", 0x8: "MAP_DROPPABLE", 0x100: "MAP_GROWSDOWN"}
FROM_FILE = abi.MAP_SHARED | abi.MAP_FIXED
# Beside MAP_SHARED, MAP_FIXED and MAP_ANONYMOUS these bits mean something.
MEANINGFUL_FLAGS = {0x4000: "MAP_NORESERVE", 0x40000: "MAP_HUGETLB"}

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, TOP - 1)
near = st.sampled_from(
    [0, 1, PAGE - 1, PAGE, HUGE, SIZE - PAGE, SIZE - 1, SIZE, TOP - PAGE, TOP - 1]
)


def sized_region(size: int = SIZE) -> Region:
    """A region whose size is set, unless it is 0."""
    region = Region(3, 0o600, 0, 0, 1, ALICE)
    if size:
        region.become_sized(size)
    return region


def create(
    start: int = 0, size: int = PAGE, *, flags: int = 0, prot: int = READ_WRITE
) -> CreateMapping:
    """A request for anonymous memory, with further `flags`."""
    return CreateMapping(start, size, 0, prot, ANONYMOUS | flags)


# What is taken


def test_an_ordinary_mapping() -> None:
    """Exactly the range, reserved, small pages."""
    assert wanted(sized_region(), create(PAGE, 3 * PAGE)) == Mapping(PAGE, 4 * PAGE, READ_WRITE)


def test_the_whole_region() -> None:
    """The last byte belongs to it."""
    assert wanted(sized_region(), create(0, SIZE)) == Mapping(0, SIZE, READ_WRITE)


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE])
def test_size_is_rounded_up_to_a_page(size: int) -> None:
    """One page for each of these, for UNMAP too."""
    assert wanted(sized_region(), create(PAGE, size)).size == PAGE
    assert unmapped_range(sized_region(), Unmap(PAGE, size)) == Range(PAGE, 2 * PAGE)


def test_noreserve_is_remembered() -> None:
    """Pages then come at first touch."""
    assert not wanted(sized_region(), create(flags=abi.MAP_NORESERVE)).reserve


def test_populate_changes_nothing() -> None:
    """Memory is there in any case."""
    assert wanted(sized_region(), create(flags=abi.MAP_POPULATE)) == wanted(
        sized_region(), create()
    )


@pytest.mark.parametrize("prot", range(8))
def test_every_protection_is_recorded(prot: int) -> None:
    """READ, WRITE and EXEC in any combination, none included."""
    assert wanted(sized_region(), create(prot=prot)).prot == prot


def test_anonymous_memory_ignores_descriptor_and_offset() -> None:
    """MAP_ANONYMOUS with fd != -1, and an odd offset in no file."""
    request = CreateMapping(0, PAGE, 12345, READ_WRITE, ANONYMOUS, fd=99)
    assert wanted(sized_region(), request) == Mapping(0, PAGE, READ_WRITE)


# Range


@pytest.mark.parametrize(
    ("start", "size"),
    [
        (SIZE, PAGE),  # begins at the end
        (SIZE + PAGE, PAGE),
        (0, SIZE + 1),  # one byte too long
        (SIZE - PAGE, PAGE + 1),
        (PAGE, SIZE),
        (PAGE, TOP - PAGE),  # wraps to 0 in 64 bits
        (PAGE, TOP - 1),
        (TOP - PAGE, PAGE),  # wraps, too
        (TOP - PAGE, 2 * PAGE),
        (0, TOP - 1),
        (0, 0),  # nothing
        (PAGE, 0),
        (SIZE, 0),
        (1, PAGE),  # not page aligned
        (PAGE - 1, PAGE),
        (PAGE + 8, 1),
        (512, 512),
    ],
)
def test_bad_ranges_are_invalid(start: int, size: int) -> None:
    """EINVAL from both ioctls: beyond the end, wrapping around, empty, not aligned."""
    with refused(errno.EINVAL):
        wanted(sized_region(), create(start, size))
    with refused(errno.EINVAL):
        unmapped_range(sized_region(), Unmap(start, size))


@given(start=u64 | near, size=u64 | near)
def test_only_ranges_within_the_region_pass(start: int, size: int) -> None:
    """Whatever the numbers: the range is inside, aligned and not empty, or EINVAL."""
    region = sized_region()
    fits = start % PAGE == 0 and size > 0 and start + size <= SIZE
    for check in (
        lambda: wanted(region, create(start, size)),
        lambda: unmapped_range(region, Unmap(start, size)),
    ):
        if fits:
            found = check()
            assert (found.start, found.end) == (start, -(-(start + size) // PAGE) * PAGE)
        else:
            with refused(errno.EINVAL):
                check()


@given(u64 | near, u64 | near, u64, u32, u32, u32)
def test_random_requests_are_mapped_or_refused(
    start: int, size: int, offset: int, prot: int, flags: int, fd: int
) -> None:
    """Never another exception, and never a mapping outside of the region."""
    request = CreateMapping(start, size, offset, prot, flags, fd)
    outcome = attempt(lambda: wanted(sized_region(), request))
    if isinstance(outcome, RefusedError):
        assert outcome.errno in (errno.EINVAL, errno.EBADF)
    else:
        assert 0 <= outcome.start < outcome.end <= SIZE


# Flags


@pytest.mark.parametrize("bit", range(32))
def test_every_flag_bit(bit: int) -> None:
    """SHARED and FIXED must be there; most others mean nothing, as for mmap(2)."""
    flag = 1 << bit
    if flag in (abi.MAP_SHARED, abi.MAP_FIXED):
        with refused(errno.EINVAL):
            wanted(sized_region(), CreateMapping(0, PAGE, flags=ANONYMOUS & ~flag))
    elif flag == abi.MAP_ANONYMOUS:
        with refused(errno.EBADF):
            wanted(sized_region(), CreateMapping(0, PAGE, flags=ANONYMOUS & ~flag))
    elif flag in FORBIDDEN_FLAGS:
        with refused(errno.EINVAL):
            wanted(sized_region(), create(flags=flag))
    else:
        mapping = wanted(sized_region(), create(flags=flag))
        plain = wanted(sized_region(), create())
        assert (mapping == plain) is (flag not in MEANINGFUL_FLAGS)


def test_all_flags_together() -> None:
    """None of those that are taken excludes another."""
    flags = 0x03FFFFFF & ~sum(FORBIDDEN_FLAGS) | abi.MAP_HUGE_2MB
    mapping = wanted(sized_region(), create(0, HUGE, flags=flags))
    assert mapping == Mapping(0, HUGE, READ_WRITE, reserve=False, huge=True)


@pytest.mark.parametrize("number", range(64))
def test_every_huge_page_size(number: int) -> None:
    """0 (the default) and 21 (2 MiB) with MAP_HUGETLB, any other number EINVAL; without
    MAP_HUGETLB the bits mean nothing."""
    bits = number << abi.MAP_HUGE_SHIFT
    if number in (0, 21):
        assert wanted(sized_region(), create(flags=abi.MAP_HUGETLB | bits)).huge
    else:
        with refused(errno.EINVAL):
            wanted(sized_region(), create(flags=abi.MAP_HUGETLB | bits))
    assert wanted(sized_region(), create(flags=bits)) == wanted(sized_region(), create())


@pytest.mark.parametrize("size", [1, PAGE, HUGE - 1, HUGE])
def test_huge_sizes_are_rounded_up_to_the_huge_page(size: int) -> None:
    """One huge page for each of these."""
    mapping = wanted(sized_region(), create(HUGE, size, flags=abi.MAP_HUGETLB))
    assert (mapping.start, mapping.end) == (HUGE, 2 * HUGE)


@pytest.mark.parametrize("start", [PAGE, MIB, HUGE - PAGE, HUGE + PAGE])
def test_huge_offsets_are_aligned_to_the_huge_page(start: int) -> None:
    """EINVAL otherwise."""
    with refused(errno.EINVAL):
        wanted(sized_region(), create(start, HUGE, flags=abi.MAP_HUGETLB))


def test_a_huge_page_must_fit_into_the_region() -> None:
    """EINVAL where rounding up goes beyond the end (a small -o align)."""
    with refused(errno.EINVAL):
        wanted(sized_region(HUGE + PAGE), create(HUGE, PAGE, flags=abi.MAP_HUGETLB))


@pytest.mark.parametrize("bit", range(3, 32))
def test_other_protection_bits_mean_nothing(bit: int) -> None:
    """PROT_SEM, PROT_GROWSDOWN and all the rest are not even recorded."""
    assert wanted(sized_region(), create(prot=READ_WRITE | 1 << bit)).prot == READ_WRITE


# Files and overlap


def of_file(offset: int = 0, size: int = PAGE, *, flags: int = 0, fd: int = 5) -> CreateMapping:
    """A request for a file's bytes, with further `flags`."""
    return CreateMapping(0, size, offset, READ_WRITE, FROM_FILE | flags, fd)


@pytest.mark.parametrize("fd", [abi.NO_FD, 1 << 31])
def test_a_number_that_no_descriptor_has(fd: int) -> None:
    """EBADF without MAP_ANONYMOUS."""
    with refused(errno.EBADF):
        wanted(sized_region(), of_file(fd=fd))


def test_a_mapping_of_a_file() -> None:
    """As one of memory; MAP_NORESERVE lets its holes be without."""
    request = of_file(PAGE, 3 * PAGE - 1, flags=abi.MAP_NORESERVE)
    assert maps_file(request)
    assert not maps_file(create())
    assert wanted(sized_region(), request) == Mapping(0, 3 * PAGE, READ_WRITE, reserve=False)


@pytest.mark.parametrize("offset", [1, PAGE - 1, PAGE + 512, abi.MAX_FILE_SIZE, TOP - PAGE])
def test_where_in_no_file_a_mapping_can_begin(offset: int) -> None:
    """EINVAL for what is not page aligned, and beyond the largest file that there can be."""
    with refused(errno.EINVAL):
        wanted(sized_region(), of_file(offset))


def test_the_end_of_the_largest_file() -> None:
    """The last whole page of it, and no byte more."""
    last = abi.MAX_FILE_SIZE // PAGE * PAGE - PAGE
    assert wanted(sized_region(), of_file(last)).size == PAGE
    with refused(errno.EINVAL):
        wanted(sized_region(), of_file(last, PAGE + 1))


def test_huge_pages_are_for_memory_alone() -> None:
    """EINVAL, as mmap(2) has it for a file of any other file system than hugetlbfs."""
    with refused(errno.EINVAL):
        wanted(sized_region(), of_file(size=HUGE, flags=abi.MAP_HUGETLB))


def test_overlap_comes_before_the_descriptor() -> None:
    """EEXIST, whatever the number is."""
    region = sized_region()
    region.layout.insert(Mapping(0, PAGE, READ_WRITE))
    with refused(errno.EEXIST):
        wanted(region, of_file(flags=abi.MAP_FIXED_NOREPLACE, fd=abi.NO_FD))


@pytest.mark.parametrize(
    ("start", "size", "taken"),
    [
        (0, 2 * PAGE, False),
        (0, 2 * PAGE + 1, True),
        (2 * PAGE, PAGE, True),
        (3 * PAGE, PAGE, True),
        (4 * PAGE, PAGE, False),
        (0, 8 * PAGE, True),
    ],
)
def test_noreplace_looks_for_a_shared_byte(start: int, size: int, taken: bool) -> None:
    """EEXIST if the rounded range meets the mapping of pages 2 and 3."""
    region = sized_region()
    region.layout.insert(Mapping(2 * PAGE, 4 * PAGE, READ_WRITE))
    request = create(start, size, flags=abi.MAP_FIXED_NOREPLACE)
    if taken:
        with refused(errno.EEXIST):
            wanted(region, request)
    else:
        assert wanted(region, request).start == start
    assert list(region.layout) == [Mapping(2 * PAGE, 4 * PAGE, READ_WRITE)]


# Order


def test_without_a_size_nothing_else_matters() -> None:
    """EINVAL for good arguments and bad ones, in both ioctls."""
    region = sized_region(0)
    file = CreateMapping(0, PAGE, flags=abi.MAP_SHARED | abi.MAP_FIXED)
    for request in (create(), create(1, 0), file):
        with refused(errno.EINVAL):
            wanted(region, request)
    for range_ in (Unmap(0, PAGE), Unmap(0, 0), Unmap(1, TOP - 1)):
        with refused(errno.EINVAL):
            unmapped_range(region, range_)


@pytest.mark.parametrize(
    "request_",
    [
        CreateMapping(SIZE, PAGE, flags=abi.MAP_SHARED | abi.MAP_FIXED),
        CreateMapping(1, PAGE, flags=abi.MAP_SHARED | abi.MAP_FIXED),
        CreateMapping(0, 0, flags=abi.MAP_SHARED | abi.MAP_FIXED),
        CreateMapping(0, PAGE, flags=abi.MAP_SHARED),
        CreateMapping(0, PAGE, flags=abi.MAP_FIXED | abi.MAP_PRIVATE),
        create(0, PAGE, flags=abi.MAP_FIXED_NOREPLACE | abi.MAP_GROWSDOWN),
        create(0, SIZE + 1, flags=abi.MAP_FIXED_NOREPLACE),
        create(0, PAGE, flags=abi.MAP_FIXED_NOREPLACE | abi.MAP_PRIVATE),
    ],
)
def test_arguments_are_checked_before_files_and_overlap(request_: CreateMapping) -> None:
    """EINVAL comes before EBADF and EEXIST."""
    region = sized_region()
    region.layout.insert(Mapping(0, SIZE, READ_WRITE))
    with refused(errno.EINVAL):
        wanted(region, request_)
