"""System calls that Python 3.11 does not offer, as plain functions that raise OSError.

Owns the ctypes declarations and the constants of these calls; it decides nothing. Offsets
and sizes are bytes. Each call lets go of the interpreter lock while it waits.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Iterable

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_DIRSYNC = 0x80
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

FALLOC_FL_KEEP_SIZE = 0x1
FALLOC_FL_PUNCH_HOLE = 0x2

MADV_NOHUGEPAGE = 15
MADV_POPULATE_WRITE = 23
MADV_COLLAPSE = 25

PAGE_SIZE = os.sysconf("SC_PAGESIZE")

_AT_FDCWD = -100
AT_STATX_DONT_SYNC = 0x4000
_AT_NO_AUTOMOUNT = 0x800
_STATX_MNT_ID = 0x1000
_STATX = struct.Struct("=I132x2IQ104x")
"""struct statx: the mask, and of the file its device (major, minor) and its mount's id."""
_SIGSET_SIZE = 128
_SIGINFO = struct.Struct("=I124x")
"""struct signalfd_siginfo: the signal."""
_SFD_CLOEXEC = os.O_CLOEXEC
_RENAME_NOREPLACE = 1

MOUNT_ATTR_RDONLY = 0x1
_SYS_OPEN_TREE, _SYS_MOUNT_SETATTR = 428, 442
"""The same numbers on every architecture."""
_OPEN_TREE_CLONE = 0x1
_SYS_USERFAULTFD = {"x86_64": 323}.get(os.uname().machine, 282)
UFFD_USER_MODE_ONLY = 0x1
_MOUNT_ATTR = struct.Struct("=4Q")
_AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000

_SYS_CACHESTAT = 451
"""The same number on every architecture."""
_CACHESTAT_RANGE = struct.Struct("=2Q")
_CACHESTAT = struct.Struct("=5Q")
"""struct cachestat: pages in the cache, and four numbers of those that are not."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

_PROT_NONE = 0x0
_PROT_READ_WRITE = 0x3
_MAP_SHARED = 0x01
_MAP_PRIVATE = 0x02
_MAP_FIXED = 0x10
_MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.renameat2.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int64,
)
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_libc.statx.argtypes = (
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_char_p,
)
_libc.signalfd.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_libc.sigaddset.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def check(result: int, what: str) -> None:
    """Raises OSError where a call of the C library has failed, by errno."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2). Raises OSError."""
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        flags,
        data.encode() or None,
    )
    check(result, target)


def change_mounts(path: str, *, attributes: int, clear: int = 0, recursive: bool = False) -> None:
    """mount_setattr(2), Linux 5.12: give the mount at `path`, with `recursive` also all below
    it, these attributes and take others away. OSError(ENOSYS) on an older kernel."""
    flags = _AT_RECURSIVE if recursive else 0
    check(_mount_setattr(_AT_FDCWD, path, flags, attributes, clear), path)


def read_only_copy(directory: str) -> int:
    """A copy of the mount that a directory is on, which nothing can be changed through: an O_PATH
    descriptor of the directory there (open_tree(2) and mount_setattr(2), Linux 5.12). The copy is
    mounted nowhere and lasts as long as descriptors of it. Needs CAP_SYS_ADMIN. Raises OSError."""
    fd: int = _libc.syscall(
        ctypes.c_long(_SYS_OPEN_TREE),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(directory)),
        ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC),
    )
    check(min(fd, 0), directory)
    try:
        check(_mount_setattr(fd, "", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY), directory)
    except OSError:
        os.close(fd)
        raise
    return fd


def _mount_setattr(directory: int, path: str, flags: int, attributes: int, clear: int = 0) -> int:
    request = _MOUNT_ATTR.pack(attributes, clear, 0, 0)
    result: int = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(directory),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(flags),
        ctypes.c_char_p(request),
        ctypes.c_size_t(len(request)),
    )
    return result


def call_ourselves(name: str) -> None:
    """prctl(2), PR_SET_NAME: what ps -o comm and pkill show and take, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode())
    check(_libc.prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0), "prctl")


def umount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises OSError."""
    check(_libc.umount2(os.fsencode(target), flags), target)


def rename_to_free(old: str, new: str) -> None:
    """renameat2(2) with RENAME_NOREPLACE: EEXIST where the new name is taken."""
    result = _libc.renameat2(
        _AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE
    )
    check(result, new)


def unshare(flags: int) -> None:
    """unshare(2). Raises OSError."""
    check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2). Raises OSError."""
    check(_libc.setns(fd, kind), "setns")


def identity(path: str) -> tuple[int, int]:
    """Which file system a file is on (st_dev), and which mount of it leads there.

    From what the kernel knows already (statx(2), AT_STATX_DONT_SYNC): the file system, which
    may be one that does not answer, is not asked about the file.
    """
    flags = AT_STATX_DONT_SYNC | _AT_NO_AUTOMOUNT
    mask, major, minor, mount = statx(_AT_FDCWD, path, flags, _STATX_MNT_ID, _STATX)
    if not mask & _STATX_MNT_ID:
        raise OSError(errno.ENOSYS, "the kernel does not tell the mount (Linux 5.8)", path)
    return os.makedev(major, minor), mount


def statx(
    directory: int, path: str, flags: int, wanted: int, form: struct.Struct
) -> tuple[int, ...]:
    """statx(2): of the whole struct what `form` takes out of it. Raises OSError."""
    buffer = ctypes.create_string_buffer(form.size)
    check(_libc.statx(directory, os.fsencode(path), flags, wanted, buffer), path or "statx")
    return form.unpack(buffer.raw)


def signalfd(signals: Iterable[signal.Signals]) -> int:
    """A descriptor that is readable while one of these signals is pending (signalfd(2)).
    They have to be blocked. `next_signal` reads it."""
    chosen = ctypes.create_string_buffer(_SIGSET_SIZE)
    for each in signals:
        check(_libc.sigaddset(chosen, each), "sigaddset")
    fd: int = _libc.signalfd(-1, chosen, _SFD_CLOEXEC)
    check(min(fd, 0), "signalfd")
    return fd


def next_signal(fd: int) -> signal.Signals:
    """Take a signal from a descriptor of `signalfd`; waits for one if none is pending."""
    (number,) = _SIGINFO.unpack(os.read(fd, _SIGINFO.size))
    return signal.Signals(number)


def punch_hole(fd: int, start: int, size: int) -> None:
    """fallocate(2): give the range's memory back; it is gone from every mapping at once."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    check(_libc.fallocate(fd, mode, start, size), "fallocate")


def have_room(fd: int, start: int, size: int) -> None:
    """fallocate(2): let the range of a file have room where it is stored, and its length as it
    is. OSError says why a page of it cannot be written."""
    check(_libc.fallocate(fd, FALLOC_FL_KEEP_SIZE, start, size), "fallocate")


def populate_small(fd: int, start: int, size: int) -> None:
    """Give each page of a shared file's range memory, one small page at a time.

    As a write by a process would (madvise(2), MADV_POPULATE_WRITE, Linux 5.14), but without
    its signal: where SIGBUS would come, OSError(ENOSPC). `start` is page aligned.
    """
    base = _libc.mmap(None, size, _PROT_READ_WRITE, _MAP_SHARED, fd, start)
    check(base == _MAP_FAILED, "mmap")
    try:
        check(_libc.madvise(base, size, MADV_NOHUGEPAGE), "madvise")
        check(_libc.madvise(base, size, MADV_POPULATE_WRITE), "madvise")
    except OSError as error:
        if error.errno == errno.EFAULT:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    finally:
        _libc.munmap(base, size)


def protect(address: int, size: int, prot: int) -> None:
    """mprotect(2): give whole pages of this process a protection."""
    check(_libc.mprotect(address, size, prot), "mprotect")


def map_shared(address: int, size: int, prot: int, fd: int, offset: int) -> None:
    """mmap(2): put a range of a file at an address of this process, over what is there."""
    at = _libc.mmap(address, size, prot, _MAP_SHARED | _MAP_FIXED, fd, offset)
    check(at == _MAP_FAILED, "mmap")


def userfaultfd(flags: int) -> int:
    """userfaultfd(2). Raises OSError."""
    fd: int = _libc.syscall(ctypes.c_long(_SYS_USERFAULTFD), ctypes.c_int(flags))
    check(min(fd, 0), "userfaultfd")
    return fd


def resident_pages(address: int, size: int) -> bytes:
    """mincore(2): for each page of a window of this process whether it is in memory (1) or not (0).

    Touches none of them. `address` is page aligned.
    """
    pages = ctypes.create_string_buffer(-(-size // PAGE_SIZE))
    check(_libc.mincore(address, size, pages), "mincore")
    return pages.raw


def cached_pages(fd: int, start: int, size: int) -> int:
    """cachestat(2), Linux 6.5: how many pages of a range of a file are in memory, touched yet or
    not. OSError(ENOSYS) on an older kernel."""
    found = ctypes.create_string_buffer(_CACHESTAT.size)
    request = _CACHESTAT_RANGE.pack(start, size)
    result = _libc.syscall(
        ctypes.c_long(_SYS_CACHESTAT), ctypes.c_uint(fd), request, found, ctypes.c_uint(0)
    )
    check(result, "cachestat")
    pages: int = _CACHESTAT.unpack(found.raw)[0]
    return pages


def adopt_orphans() -> None:
    """prctl(2), PR_SET_CHILD_SUBREAPER: descendants whose parents end become our children."""
    check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def die_with_parent(signal: int) -> None:
    """prctl(2), PR_SET_PDEATHSIG: get that signal when the thread that forked us ends."""
    check(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl")


def collapse(fd: int, start: int, size: int, huge_page: int) -> None:
    """Put a range of a shared file into huge pages (madvise(2) with MADV_COLLAPSE, Linux 6.1).

    `start` and `size` are multiples of `huge_page`. Succeeds only if all of it is huge.
    """
    room = size + huge_page
    base = _libc.mmap(None, room, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    check(base == _MAP_FAILED, "mmap")
    try:
        aligned = -(-base // huge_page) * huge_page
        flags = _MAP_SHARED | _MAP_FIXED
        at = _libc.mmap(aligned, size, _PROT_READ_WRITE, flags, fd, start)
        check(at == _MAP_FAILED, "mmap")
        check(_libc.madvise(aligned, size, MADV_COLLAPSE), "madvise")
    finally:
        _libc.munmap(base, room)
