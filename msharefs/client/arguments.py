"""What callers of the Python client pass, checked before a system call sees it.

Only what cannot be passed on is refused here, so that no struct.error or
OverflowError escapes; whether a value fits the region is the mount's to say.
"""

from __future__ import annotations

import errno
from operator import index

from msharefs import abi, notation
from msharefs.client.errors import InvalidArgument, RegionTooLarge

_U64_MAX = (1 << 64) - 1


def byte_count(value: int, name: str) -> int:
    """`value` as the u64 that the ioctls carry; `name` is for the message."""
    try:
        number = index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name} is a number of bytes (int), not {kind}") from None
    if not 0 <= number <= _U64_MAX:
        raise InvalidArgument(errno.EINVAL, f"{name} {number} is out of range")
    return number


def region_size(value: int) -> int:
    """`value` as a size that a region could have on some mount."""
    size = byte_count(value, "size")
    if size == 0:
        raise InvalidArgument(errno.EINVAL, "a region has at least one byte")
    if size > abi.MAX_FILE_SIZE:
        raise RegionTooLarge(errno.EFBIG, f"no file has {size} bytes")
    return size


def prot_bits(prot: str) -> int:
    """The PROT_* bits of letters such as "rw", or "rw-" as a layout shows them."""
    try:
        return notation.prot_bits(prot)
    except ValueError as error:
        raise InvalidArgument(errno.EINVAL, str(error)) from None


def range_problem(size: int, start: int, length: int, unit: int) -> str | None:
    """What is wrong with a range of a region of `size` bytes, in words; None if nothing is."""
    if length == 0:
        return "the size is 0"
    if start % unit:
        return f"the offset is no multiple of {unit}"
    if start + length > size:
        return f"the region ends at {size}"
    return None
