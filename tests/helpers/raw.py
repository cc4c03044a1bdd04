"""The contract with client programs once more, written for the tests alone.

The numbers stand here as semantics.md gives them, and are not taken from msharefs.abi,
so that a mistake there cannot hide. Everything goes through plain system calls.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PAGE = 4096
MIB = 1 << 20
HUGE = 2 * MIB
GIB = 1 << 30

CREATE_MAPPING = 0x40287800
CREATE_MAPPING_X86_32 = 0x40247800
UNMAP = 0x40107801

PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
RW = PROT_READ | PROT_WRITE

MS_SYNC = 4

MAP_SHARED = 0x1
MAP_PRIVATE = 0x2
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_GROWSDOWN = 0x100
MAP_LOCKED = 0x2000
MAP_NORESERVE = 0x4000
MAP_POPULATE = 0x8000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
MAP_HUGE_SHIFT = 26
MAP_HUGE_2MB = 21 << MAP_HUGE_SHIFT
MAP_HUGE_1GB = 30 << MAP_HUGE_SHIFT
ANONYMOUS = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS
FROM_FILE = MAP_SHARED | MAP_FIXED

NO_FD = 0xFFFFFFFF

PathLike = Path | str


def ioctl_number(kind: str, number: int, size: int, direction: int = 1) -> int:
    """_IOC of asm-generic/ioctl.h; direction 1 is _IOW, 2 is _IOR, 0 is _IO."""
    return direction << 30 | size << 16 | ord(kind) << 8 | number


def create_payload(
    region_offset: int,
    size: int,
    *,
    prot: int = RW,
    flags: int = ANONYMOUS,
    fd: int = NO_FD,
    offset: int = 0,
) -> bytes:
    """struct mshare_create of a 64-bit program: 36 bytes and 4 of padding."""
    return struct.pack("=QQQIII4x", region_offset, size, offset, prot, flags, fd & 0xFFFFFFFF)


def unmap_payload(region_offset: int, size: int) -> bytes:
    """struct mshare_unmap."""
    return struct.pack("=QQ", region_offset, size)


def create_mapping(
    fd: int,
    region_offset: int,
    size: int,
    *,
    prot: int = RW,
    flags: int = ANONYMOUS,
    file: int = NO_FD,
    offset: int = 0,
) -> None:
    """MSHAREFS_CREATE_MAPPING. Raises OSError."""
    payload = create_payload(region_offset, size, prot=prot, flags=flags, fd=file, offset=offset)
    fcntl.ioctl(fd, CREATE_MAPPING, payload)


def map_file(
    fd: int, region_offset: int, size: int, file: int, *, offset: int = 0, prot: int = PROT_READ
) -> None:
    """MSHAREFS_CREATE_MAPPING of a file that is open as `file`. Raises OSError."""
    create_mapping(fd, region_offset, size, prot=prot, flags=FROM_FILE, file=file, offset=offset)


def unmap(fd: int, region_offset: int, size: int) -> None:
    """MSHAREFS_UNMAP. Raises OSError."""
    fcntl.ioctl(fd, UNMAP, unmap_payload(region_offset, size))


def hand_over(fd: int) -> None:
    """Have the kernel give the daemon what processes stored in a region of the paged plane, as it does by itself
    some time later. No file that is mapped into the region hears of it, as it would by fsync."""
    libc = ctypes.CDLL(None, use_errno=True)
    everything = 1 | 2 | 4  # SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER
    if libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), everything):
        raise OSError(ctypes.get_errno(), "sync_file_range")


@contextmanager
def opened(path: PathLike, flags: int = os.O_RDWR, mode: int = 0o600) -> Iterator[int]:
    """A descriptor of `path`, closed at the end."""
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def region(path: PathLike, size: int | None = None, *, mapped: bool = False) -> Iterator[int]:
    """A new region, open for reading and writing, of `size` bytes if given; removed at the end.

    With `mapped` all of it has anonymous memory.
    """
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
        try:
            if size is not None:
                os.ftruncate(fd, size)
                if mapped:
                    create_mapping(fd, 0, size)
            yield fd
        finally:
            # A test may have removed or renamed it itself.
            with suppress(FileNotFoundError):
                os.unlink(path)


@contextmanager
def refused(*expected: int) -> Iterator[None]:
    """The block must raise OSError with one of these errnos."""
    names = "|".join(errno.errorcode[number] for number in expected)
    try:
        yield
    except OSError as error:
        seen = errno.errorcode.get(error.errno or 0, str(error.errno))
        if error.errno not in expected:
            raise AssertionError(f"expected {names}, got {seen}: {error}") from error
    else:
        raise AssertionError(f"expected {names}, but it succeeded")


def layout(path: PathLike | int) -> dict[str, Any]:
    """user.msharefs.layout of a region, all its parts put together; without what changes by itself,
    which is how much is in huge pages: see `collapsed`."""
    whole: dict[str, Any] = json.loads(os.getxattr(path, "user.msharefs.layout"))
    following = whole["next"]
    while following is not None:
        part = json.loads(os.getxattr(path, f"user.msharefs.layout.{following}"))
        whole["mappings"] += part["mappings"]
        following = part["next"]
    del whole["collapsed"]
    return whole


def collapsed(path: PathLike | int) -> int:
    """Bytes of a region that are in huge pages by now, as its layout says."""
    return int(json.loads(os.getxattr(path, "user.msharefs.layout"))["collapsed"])


def mapped_ranges(path: PathLike | int) -> list[tuple[int, int]]:
    """Start and end of what is mapped in a region; neighbours are put together."""
    ranges: list[tuple[int, int]] = []
    for mapping in layout(path)["mappings"]:
        start, end = mapping["offset"], mapping["offset"] + mapping["size"]
        if ranges and ranges[-1][1] == start:
            start = ranges.pop()[0]
        ranges.append((start, end))
    return ranges


def read_as_announced(path: PathLike, name: str, meanwhile: Callable[[], object]) -> bytes:
    """An attribute as getfattr, cp -a, tar --xattrs and rsync -X read it: first its size, then,
    after `meanwhile`, so many bytes."""
    getxattr = ctypes.CDLL(None, use_errno=True).getxattr
    arguments = os.fsencode(path), name.encode()
    size = getxattr(*arguments, None, 0)
    meanwhile()
    value = ctypes.create_string_buffer(size)
    length = getxattr(*arguments, value, size)
    assert length == size, os.strerror(ctypes.get_errno())
    return value.raw


def free_bytes(path: PathLike) -> int:
    """What df shows as free."""
    numbers = os.statvfs(path)
    return numbers.f_bfree * numbers.f_frsize


def used_inodes(path: PathLike) -> int:
    """What df -i shows as used."""
    numbers = os.statvfs(path)
    return numbers.f_files - numbers.f_ffree
