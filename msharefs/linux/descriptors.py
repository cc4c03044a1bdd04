"""Descriptors of other processes, and what the kernel knows of a file without asking the file.

Owns the system calls for it: pidfd_open(2), pidfd_getfd(2), kcmp(2), statx(2), fstatfs(2). What may
be done with a file that was got in this way is not decided here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from types import TracebackType
from typing import NamedTuple, Self

from msharefs.linux import proc, syscalls

_PIDFD_THREAD = os.O_EXCL
"""Linux 6.9: of a thread, and not only of a process."""
_SYS_PIDFD_GETFD = 438
"""The same number on every architecture."""
_SYS_KCMP = {"x86_64": 312}.get(os.uname().machine, 272)
_KCMP_FILES = 2
_STATX_BASIC = 0x7FF
_STATX = struct.Struct("=I24xH2xQ96x2I112x")
"""struct statx: the mask, the mode, the inode, the device (major, minor)."""
_STATFS_SIZE = 256

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fstatfs.argtypes = (ctypes.c_int, ctypes.c_char_p)

_MAGIC = {
    0xEF53: "ext4",
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0xF2F52010: "f2fs",
    0x01021994: "tmpfs",
    0x794C7630: "overlay",
}
"""f_type (statfs(2)) of file systems whose files are on this machine."""


class Identity(NamedTuple):
    """What a file is: its st_mode, st_dev and st_ino."""

    mode: int
    device: int
    inode: int


class Thread:
    """A thread of our pid namespace, held so that its number cannot become another's."""

    def __init__(self, number: int) -> None:
        """Raises OSError: ESRCH where there is none; EBADF where it is no leader of its process,
        has descriptors of its own and the kernel has no way to them (before Linux 6.9)."""
        if number <= 0:
            raise OSError(errno.EBADF, "the caller is outside of our pid namespace")
        self.number = number
        self._pidfd = _open_thread(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._pidfd)

    def duplicate(self, descriptor: int) -> int:
        """A descriptor of ours for the file that the thread has open as `descriptor`. Raises
        OSError: EBADF, EPERM where we may not look into it, ESRCH where it has ended."""
        fd = _libc.syscall(
            ctypes.c_long(_SYS_PIDFD_GETFD),
            ctypes.c_int(self._pidfd),
            ctypes.c_int(descriptor),
            ctypes.c_uint(0),
        )
        syscalls.check(min(fd, 0), "pidfd_getfd")
        return int(fd)


def identity(fd: int) -> Identity:
    """What the kernel knows of an open file already (AT_STATX_DONT_SYNC): its file system is not
    asked again. Raises OSError."""
    flags = syscalls.AT_EMPTY_PATH | syscalls.AT_STATX_DONT_SYNC
    _mask, mode, inode, major, minor = syscalls.statx(fd, "", flags, _STATX_BASIC, _STATX)
    return Identity(mode, os.makedev(major, minor), inode)


def file_system(fd: int) -> str:
    """The name of an open file's file system, if it is one that is on this machine; else empty.
    Asks the file system, which may not answer. Raises OSError."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    syscalls.check(_libc.fstatfs(fd, buffer), "fstatfs")
    kind = struct.unpack_from("@l", buffer.raw)[0] & 0xFFFFFFFF
    return _MAGIC.get(kind, "")


def seals(fd: int) -> int:
    """The seals of a memfd; 0 of what cannot have any."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return 0


def _open_thread(number: int) -> int:
    try:
        return os.pidfd_open(number, _PIDFD_THREAD)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return _open_process_of(number)


def _open_process_of(thread: int) -> int:
    """The thread's process, if that has the same descriptors."""
    process = proc.process_of(thread)
    pidfd = os.pidfd_open(process)
    same = _libc.syscall(
        ctypes.c_long(_SYS_KCMP),
        ctypes.c_long(thread),
        ctypes.c_long(process),
        ctypes.c_int(_KCMP_FILES),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    if same != 0 or not os.path.exists(f"/proc/{process}/task/{thread}"):
        os.close(pidfd)
        raise OSError(errno.EBADF, "the thread has descriptors of its own")
    return pidfd
