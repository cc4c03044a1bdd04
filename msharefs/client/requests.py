"""What is asked of a mount about an open region, and why it was refused.

Owns the two ioctls, the words that they carry, and the sentences for their refusals: a mount
gives an errno alone, so the reason is looked for here. It works on a descriptor, with the path
for messages; what a region is to its user it does not know (region.py).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from msharefs import abi
from msharefs.client.arguments import prot_bits, range_problem
from msharefs.client.errors import (
    AccessDenied,
    InvalidArgument,
    MappingExists,
    NotMappable,
    SizeNotSet,
    from_os_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msharefs.client.errors import MshareError
    from msharefs.client.layout import Mapping

    Path = str | bytes

WORTH_ADVICE = 2 << 20
"""Bytes of an attachment from which on it is asked what helps its first touches."""


def file_flags(*, replace: bool, reserve: bool) -> int:
    """The MAP_* flags of a mapping of a file; the words are those of `Region.map_file`."""
    flags = abi.MAP_SHARED | abi.MAP_FIXED
    if not replace:
        flags |= abi.MAP_FIXED_NOREPLACE
    if not reserve:
        flags |= abi.MAP_NORESERVE
    return flags


def map_file(
    fd: int,
    path: Path,
    start: int,
    length: int,
    *,
    file: int,
    file_offset: int,
    prot: str,
    flags: int,
) -> None:
    """CREATE_MAPPING of a file that is open here as `file`; the words are those of
    `Region.map_file`, which see.

    Raises what `create_mapping` does, NotMappable, and MshareError with EBADF.
    What fails has changed nothing.
    """
    request = abi.CreateMapping(
        start, length, offset=file_offset, prot=prot_bits(prot), flags=flags, fd=file
    )
    try:
        _send(fd, abi.CREATE_MAPPING, request.pack())
    except OSError as error:
        what = f"cannot map {length} bytes of the file at {start}"
        if error.errno == errno.EEXIST:
            text = f"{what}: something is mapped there"
            raise MappingExists(errno.EEXIST, text, path) from None
        if error.errno == errno.ENODEV:
            text = f"{what}: it is no regular file of a file system on this machine"
            raise NotMappable(errno.ENODEV, text, path) from None
        if error.errno in {errno.EACCES, errno.EPERM}:
            _say_whose_rights(error, fd, path, what)
        if error.errno == errno.EINVAL and file_offset % mmap.PAGESIZE:
            text = f"{what}: the offset in the file is no multiple of {mmap.PAGESIZE}"
            raise InvalidArgument(errno.EINVAL, text, path) from None
        raise _refusal(error, fd, path, what, start, length, mmap.PAGESIZE) from None


def create_mapping(
    fd: int,
    path: Path,
    start: int,
    length: int,
    *,
    prot: str,
    huge: bool,
    reserve: bool,
    replace: bool,
) -> None:
    """CREATE_MAPPING of anonymous memory; the words are those of `Region.map`, which see.

    Raises MappingExists, InvalidArgument, SizeNotSet, AccessDenied, OutOfMemory, NotARegion.
    What fails has changed nothing.
    """
    flags = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS
    if huge:
        flags |= abi.MAP_HUGETLB | abi.MAP_HUGE_2MB
    if not reserve:
        flags |= abi.MAP_NORESERVE
    if not replace:
        flags |= abi.MAP_FIXED_NOREPLACE
    request = abi.CreateMapping(start, length, prot=prot_bits(prot), flags=flags)
    try:
        _send(fd, abi.CREATE_MAPPING, request.pack())
    except OSError as error:
        unit = abi.HUGE_PAGE_SIZE if huge else mmap.PAGESIZE
        what = f"cannot map {length} bytes at {start}"
        if error.errno == errno.EEXIST:
            text = f"{what}: something is mapped there"
            raise MappingExists(errno.EEXIST, text, path) from None
        raise _refusal(error, fd, path, what, start, length, unit) from None


def unmap(fd: int, path: Path, start: int, length: int) -> None:
    """UNMAP. Raises InvalidArgument, SizeNotSet, AccessDenied, NotARegion."""
    try:
        _send(fd, abi.UNMAP, abi.Unmap(start, length).pack())
    except OSError as error:
        what = f"cannot unmap {length} bytes at {start}"
        raise _refusal(error, fd, path, what, start, length, mmap.PAGESIZE) from None


def require_range(fd: int, path: Path, what: str, start: int, length: int, unit: int) -> None:
    """Raise what is wrong with a range of the region, if anything is: SizeNotSet or
    InvalidArgument, with `what` could not be done before the reason."""
    size = os.fstat(fd).st_size
    if size == 0:
        raise SizeNotSet(errno.EINVAL, f"{what}: the region has no size yet", path)
    problem = range_problem(size, start, length, unit)
    if problem is not None:
        raise InvalidArgument(errno.EINVAL, f"{what}: {problem}", path)


def may_write(mappings: Iterable[Mapping], path: Path) -> bool:
    """Whether all of a range with these mappings may be written; AccessDenied if a part of it
    may not even be read."""
    allowed = True
    for mapping in mappings:
        # A processor that can write a page can read it.
        if not {"r", "w"} & set(mapping.prot):
            text = f"cannot attach: {mapping.size} bytes at {mapping.offset} have prot none"
            raise AccessDenied(errno.EACCES, text, path)
        allowed = allowed and "w" in mapping.prot
    return allowed


def _send(fd: int, number: int, payload: bytes) -> None:
    """One ioctl on an open region. OSError if the mount refuses."""
    while True:
        try:
            fcntl.ioctl(fd, number, payload)
        except InterruptedError:
            # The fcntl module leaves it to the caller (PEP 475 is about the os module).
            continue
        return


def _say_whose_rights(error: OSError, fd: int, path: Path, what: str) -> None:
    """The region's own refusals are told by `_refusal`; these are the file's."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR:
        text = f"{what}: the way it was opened does not allow it, or the daemon may not have it"
        raise AccessDenied(error.errno, text, path) from None


def _refusal(
    error: OSError, fd: int, path: Path, what: str, start: int, length: int, unit: int
) -> MshareError:
    """The exception for an ioctl that the mount refused, with the reason if it shows."""
    if error.errno == errno.EINVAL:
        require_range(fd, path, what, start, length, unit)
    if error.errno == errno.EACCES and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
        what += " of a region that is open for reading only"
    hint = _memory_left(fd) if error.errno == errno.ENOMEM else ""
    return from_os_error(error, what, path, hint)


def _memory_left(fd: int) -> str:
    """What the mount has of memory, as the end of a sentence."""
    with suppress(OSError):
        memory = os.fstatvfs(fd)
        free, total = memory.f_bfree * memory.f_frsize, memory.f_blocks * memory.f_frsize
        return f" ({free} of the {total} bytes of the mount's size= are free)"
    return ""


def attach_advice(fd: int, length: int, *, writable: bool) -> int:
    """What an attachment of `length` bytes is advised with (madvise(2)); 0 for nothing.

    Small ones are not worth the request. Nor are those for reading, of which the kernel may make
    huge pages of its own that go again, with all pages of the file, when somebody opens it for
    writing (CONFIG_READ_ONLY_THP_FOR_FS).
    """
    if not writable or length < WORTH_ADVICE:
        return 0
    try:
        return int(os.getxattr(fd, abi.ADVICE_ATTRIBUTE))
    except (OSError, ValueError):
        # It needs none, or may not be asked by who has no right to read.
        return 0
