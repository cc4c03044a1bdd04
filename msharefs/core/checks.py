"""The rules of CREATE_MAPPING and UNMAP arguments, in the order of semantics.md ("ioctl").

Owns the step from a client's numbers to a `Mapping` or a `Range` of a sized region.
Looks at the arguments and the region only; memory and budget come later.
"""

from __future__ import annotations

from msharefs.abi import (
    HUGE_PAGE_SIZE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_FIXED_NOREPLACE,
    MAP_GROWSDOWN,
    MAP_HUGE_2MB,
    MAP_HUGE_MASK,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_SHARED,
    MAP_TYPE,
    MAX_FILE_SIZE,
    PAGE_SIZE,
    PROT_ALL,
    CreateMapping,
    Unmap,
)
from msharefs.core.errors import AlreadyExists, BadDescriptor, InvalidArgument
from msharefs.core.layout import Mapping, Range
from msharefs.core.region import Event, Region

LARGEST_FD = (1 << 31) - 1


def wanted_mapping(region: Region, request: CreateMapping) -> Mapping:
    """What CREATE_MAPPING asks for, of a file without the file: that is looked at later.

    Raises SizeNotSet, InvalidArgument, AlreadyExists (MAP_FIXED_NOREPLACE over a mapping) or
    BadDescriptor (no number that a descriptor can have)."""
    region.next_state(Event.MAP)
    _check_within(region, request.region_offset, request.size)
    _check_flags(request.flags)
    unit = HUGE_PAGE_SIZE if request.flags & MAP_HUGETLB else PAGE_SIZE
    start, end = _in_units(region, request.region_offset, request.size, unit)
    of_file = maps_file(request)
    if of_file:
        _check_offset(request, end - start)
    if request.flags & MAP_FIXED_NOREPLACE and region.layout.overlapping(start, end):
        raise AlreadyExists(f"something is mapped in {start:#x}-{end:#x}")
    if of_file and request.fd > LARGEST_FD:
        raise BadDescriptor(f"no MAP_ANONYMOUS, and {request.fd} is no descriptor")
    return Mapping(
        start,
        end,
        # mmap(2) ignores bits that it does not know, PROT_SEM among them.
        request.prot & PROT_ALL,
        reserve=not request.flags & MAP_NORESERVE,
        huge=bool(request.flags & MAP_HUGETLB),
    )


def maps_file(request: CreateMapping) -> bool:
    """Whether it asks for a file's bytes."""
    return not request.flags & MAP_ANONYMOUS


def unmapped_range(region: Region, request: Unmap) -> Range:
    """What UNMAP asks for. Raises SizeNotSet or InvalidArgument."""
    region.next_state(Event.MAP)
    _check_within(region, request.region_offset, request.size)
    return Range(*_in_units(region, request.region_offset, request.size, PAGE_SIZE))


def _check_within(region: Region, offset: int, size: int) -> None:
    # Both are u64 in the payload and exact here, so a sum that wraps in C is just too large.
    if offset >= region.size or offset + size > region.size:
        raise InvalidArgument(f"{offset:#x}+{size:#x} is beyond the region's {region.size:#x}")
    if size == 0:
        raise InvalidArgument("size is 0")
    if offset % PAGE_SIZE:
        raise InvalidArgument(f"region_offset {offset:#x} is not page aligned")


def _check_flags(flags: int) -> None:
    """What do_mmap() of the kernel (mm/mmap.c) checks for anonymous memory. It ignores all
    other bits, known or not, and so must we: programs pass MAP_LOCKED or MAP_STACK."""
    if flags & (MAP_TYPE | MAP_FIXED) != MAP_SHARED | MAP_FIXED:
        raise InvalidArgument(f"flags {flags:#x} need MAP_SHARED, no other type, and MAP_FIXED")
    if flags & MAP_GROWSDOWN:
        raise InvalidArgument("shared memory does not grow down")
    if flags & MAP_HUGETLB and flags & MAP_HUGE_MASK not in (0, MAP_HUGE_2MB):
        raise InvalidArgument(f"flags {flags:#x} ask for huge pages of another size")


def _in_units(region: Region, offset: int, size: int, unit: int) -> tuple[int, int]:
    if offset % unit:
        raise InvalidArgument(f"region_offset {offset:#x} is not a multiple of {unit}")
    end = offset + -(-size // unit) * unit
    if end > region.size:
        raise InvalidArgument(f"the end rounded up, {end:#x}, is beyond the region")
    return offset, end


def _check_offset(request: CreateMapping, size: int) -> None:
    """Where in the file it begins, for a mapping of `size` bytes."""
    if request.flags & MAP_HUGETLB:
        raise InvalidArgument("MAP_HUGETLB is for anonymous memory")
    if request.offset % PAGE_SIZE:
        raise InvalidArgument(f"offset {request.offset:#x} is not page aligned")
    if request.offset + size > MAX_FILE_SIZE:
        raise InvalidArgument(f"no file has {size:#x} bytes at {request.offset:#x}")
