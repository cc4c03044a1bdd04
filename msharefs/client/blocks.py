"""Blocks: regions in the form that SharedMemory gives them.

Owns that form (the bytes from the start, and in the last sixteen of what is mapped a footer with
the exact size), how a block comes to its name, and the recognising of what is no finished block.
A block is made under a hidden name, and its maker holds a lock on the file until it is renamed:
so nobody meets one that is half made, and a hidden file without a lock belongs to a maker that
was killed, whoever finds it. The interface of the standard library is shared_memory.py's.

Every request of the mount counts here: small blocks come and go by the thousand.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import random
import re
import secrets
import stat
import struct
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from msharefs.client.attachment import Attachment, map_memory, map_small
from msharefs.client.creation import map_by_hand, settle_size
from msharefs.client.errors import (
    InvalidArgument,
    MappingExists,
    MshareError,
    NotARegion,
    OutOfInodes,
    OutOfMemory,
    QuotaExceeded,
    RegionTooLarge,
    translated,
)
from msharefs.client.mount import alignment, not_mounted
from msharefs.client.region import Region
from msharefs.client.requests import attach_advice

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msharefs.client.layout import Layout

_FOOTER = struct.Struct("=8sQ")
_MAGIC = b"mshr.len"

_HIDDEN = ".shm-"
_HALF_MADE = re.compile(re.escape(_HIDDEN) + "[0-9a-f]{16}")
_USUAL_ALIGNMENT = 2 << 20
_COLLECT_ONE_IN = 256
"""How many blocks are made for one look for half-made ones, which lists the directory."""
_COLLECT_EACH_BYTES = 64 << 20
"""How much memory is made for one: of large blocks fewer half-made ones may lie about."""
_COLLECT_AT_MOST = 64
"""How many files one look opens."""
_PAUSES = (0.001, 0.01, 0.1)
"""Seconds between attempts while the mount has not heard yet that what was collected is closed."""


class BlockAttachment(Attachment):
    """All that is mapped of a block, the footer too; it shows the bytes of the block alone."""

    __slots__ = ()

    def show_only(self, size: int) -> None:
        """Hide what follows the first `size` bytes; before anybody has seen `buf`."""
        self._buf.release()
        self._size = size
        self._buf = self._view()


_SMALL = 128 << 10
"""Bytes of a block up to which its file is mapped, in the direct data plane too: so much comes with one
page fault, which costs less than to have the memory itself."""
_FULL = (OutOfMemory, OutOfInodes, QuotaExceeded)

Block = tuple[Region, Attachment]
"""What a SharedMemory owns: the open region, and its bytes in this process."""


def create(path: str, size: int, mode: int) -> Block:
    """A new block of `size` bytes at the absolute `path`, zeroed, open for writing.

    `mode` is the permission of its file, less the umask. Raises RegionExists if the name is
    taken, NotMounted, OutOfMemory, OutOfInodes, QuotaExceeded, RegionTooLarge, AccessDenied,
    RegionNotFound if the directory is missing; nothing is left then.
    """
    try:
        return _create(path, size, mode)
    except _FULL:
        if not collect(os.path.dirname(path)):
            raise
    for pause in _PAUSES:
        with suppress(*_FULL):
            return _create(path, size, mode)
        time.sleep(pause)
    return _create(path, size, mode)


def open_block(path: str, *, writable: bool) -> Block:
    """The block at the absolute `path`; for what else may be there see `attach`.

    Raises RegionNotFound, AccessDenied, NotARegion, and what `attach` raises.
    """
    flags = os.O_RDWR if writable else os.O_RDONLY
    with translated("cannot open the shared memory", path):
        region = Region(os.open(path, flags | os.O_CLOEXEC), path, writable=writable)
    return region, attach(region)


def attach(region: Region) -> Attachment:
    """The bytes of a block, as many as were asked for when it was made.

    A region of any other making is as long as what is mapped from its start without a hole, and
    as writable as its mappings allow. Raises InvalidArgument (EINVAL) if that is nothing,
    NotARegion, OutOfMemory without address space; the region is closed then.
    """
    try:
        attachment = _attach_by_footer(region)
        return attachment or region.attach(0, _size_by_layout(region))
    except BaseException:
        region.close()
        raise


def collect(directory: str) -> int:
    """Remove the half-made blocks in a directory whose makers were killed, as far as one may.

    Returns how many. Those that are being made now are left alone, and so are other users', of
    which there may be any number; of very many some are left for later.
    """
    try:
        with os.scandir(directory) as entries:
            paths = [e.path for e in entries if _HALF_MADE.fullmatch(e.name) and _may_be_ours(e)]
    except OSError:
        return 0
    chosen = random.sample(paths, min(len(paths), _COLLECT_AT_MOST))
    return sum(map(_remove_unlocked, chosen))


class _Collected(Exception):
    """Another process has removed our hidden file, because it took us for killed."""


def _create(path: str, size: int, mode: int) -> Block:
    """Make it; again, where another process has removed it half made."""
    directory = os.path.dirname(path)
    while True:
        token = secrets.token_bytes(8)
        if int.from_bytes(token) < 2**64 * max(1 / _COLLECT_ONE_IN, size / _COLLECT_EACH_BYTES):
            collect(directory)
        hidden = os.path.join(directory, _HIDDEN + token.hex())
        with suppress(_Collected), _errors_name(path):
            return _create_as(hidden, path, size, mode)


def _create_as(hidden: str, path: str, size: int, mode: int) -> Block:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with translated("cannot create the shared memory"):
        fd = os.open(hidden, flags, mode)
    # It has the name that it will get: by renaming, the open file becomes that of its name.
    region = Region(fd, path, writable=True)
    with ExitStack() as undo:
        undo.callback(region.close)
        undo.callback(_forget, hidden)
        _lock(fd)
        try:
            attachment = _fill(region, size)
        except NotARegion as error:
            raise not_mounted(path) from error
        undo.callback(attachment.close)
        _rename(hidden, path)
        undo.pop_all()
    fcntl.flock(fd, fcntl.LOCK_UN)
    return region, attachment


def _forget(hidden: str) -> None:
    """Remove the file of a block that does not come to be."""
    with suppress(OSError):
        os.unlink(hidden)


def _lock(fd: int) -> None:
    """Show that the maker of this block lives. Raises _Collected if another process is removing
    it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _Collected from None


def _fill(region: Region, size: int) -> Attachment:
    """Give a new region its size, its memory and its footer."""
    mapped = _round_up(size + _FOOTER.size, mmap.PAGESIZE)
    try:
        _settle(region, mapped)
    except OutOfMemory:
        # Only in a directory with automap a size takes memory.
        map_by_hand(region.fileno())
        _settle(region, mapped)
    # Before there is memory, which costs nothing: afterwards the mmap module's look at the length
    # of the file would be one more request.
    attachment = _attach_whole(region, mapped)
    try:
        _map(region, mapped)
    except BaseException:
        attachment.close()
        raise
    _FOOTER.pack_into(attachment.map, mapped - _FOOTER.size, _MAGIC, size)
    attachment.show_only(size)
    return attachment


def _map(region: Region, mapped: int) -> None:
    """Give a region that has a size its memory, and no more."""
    try:
        region.map(0, mapped, replace=False)
    except MappingExists:
        # Its directory has automap. To turn that off beforehand would be a request for each block.
        map_by_hand(region.fileno())
        region.unmap(0, region.size)
        region.map(0, mapped)


def _settle(region: Region, mapped: int) -> None:
    """Give a new region a size for so many bytes."""
    fd, path = region.fileno(), region.path
    try:
        # Fits nearly every mount, and to ask for the alignment would be requests.
        settle_size(fd, path, _round_up(mapped, _USUAL_ALIGNMENT))
    except (InvalidArgument, RegionTooLarge):
        settle_size(fd, path, _round_up(mapped, alignment(path)))


def _rename(hidden: str, path: str) -> None:
    from msharefs.linux import syscalls  # noqa: PLC0415 - who only attaches needs no ctypes

    try:
        with translated("cannot give the shared memory its name"):
            syscalls.rename_to_free(hidden, path)
    except FileNotFoundError:
        # Of the directory, if it is that, the next attempt will say so.
        raise _Collected from None


def _may_be_ours(entry: os.DirEntry[str]) -> bool:
    """Whether we could remove it in a directory that is sticky, as a mount's root is."""
    try:
        # Told with the listing: no request.
        owner = entry.stat(follow_symlinks=False).st_uid
    except OSError:
        return False
    return os.geteuid() in {0, owner}


def _remove_unlocked(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # With the lock held: a maker that comes to its own only now sees that it is too late.
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _attach_whole(region: Region, mapped: int) -> BlockAttachment:
    with translated("cannot attach the shared memory", region.path):
        advice = attach_advice(region.fileno(), mapped, writable=region.writable)
        source = map_small if mapped <= _SMALL else map_memory
        return BlockAttachment(
            region.fileno(), 0, mapped, writable=region.writable, advice=advice, source=source
        )


def _attach_by_footer(region: Region) -> Attachment | None:
    """The bytes of a region that has the form of a block; one request at most.

    What has been mapped anew in a block since, with other rights, does not show here.
    """
    status = os.fstat(region.fileno())
    # In a block all that is mapped is reserved, and begins at the start.
    extent = status.st_blocks * 512
    plausible = 0 < extent <= status.st_size and extent % mmap.PAGESIZE == 0
    if not plausible or not stat.S_ISREG(status.st_mode):
        return None
    attachment = _attach_whole(region, extent)
    size = _size_in(_read_if_there(attachment.buf, extent - _FOOTER.size), extent)
    if size is None:
        attachment.close()
        return None
    attachment.show_only(size)
    return attachment


def _read_if_there(buf: memoryview, start: int) -> bytes:
    """The bytes from `start` on, eight at least and in one page; none where a look at them would be
    SIGBUS."""
    taker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        # The kernel looks for us, and says EFAULT. What it makes of the number is all the same.
        with buf[start : start + 8] as part:
            os.write(taker, part)
    except OSError as error:
        if error.errno == errno.EFAULT:
            return b""
    finally:
        os.close(taker)
    return bytes(buf[start:])


def _size_in(footer: bytes, extent: int) -> int | None:
    """The size that a footer at the end of `extent` bytes tells, if it is one."""
    if len(footer) != _FOOTER.size:
        return None
    magic, size = _FOOTER.unpack(footer)
    if magic == _MAGIC and _round_up(size + _FOOTER.size, mmap.PAGESIZE) == extent:
        return int(size)
    return None


def _size_by_layout(region: Region) -> int:
    """How many bytes a region holds for its users, whoever made it."""
    extent = _extent(region.layout())
    if extent == 0:
        text = "nothing is mapped at its start"
        raise InvalidArgument(errno.EINVAL, text, region.path)
    with region.attach(extent - mmap.PAGESIZE, mmap.PAGESIZE, writable=False) as last:
        stated = _size_in(bytes(last.buf[-_FOOTER.size :]), extent)
    return extent if stated is None else stated


def _extent(layout: Layout) -> int:
    """How far it is mapped from its start without a hole."""
    end = 0
    for mapping in layout.mappings:
        if mapping.offset != end:
            break
        end = mapping.end
    return end


@contextmanager
def _errors_name(path: str) -> Iterator[None]:
    """An error is about the name that was asked for, never about the hidden one."""
    try:
        yield
    except MshareError as error:
        error.filename = path
        raise


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
