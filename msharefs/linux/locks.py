"""Locks that die with their process: of open files (fcntl(2)), and in shared memory (pthreads).

Owns the calls and the forms of what they are given. Nothing here waits.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

# struct flock: type, whence, start, length, pid.
_FLOCK = struct.Struct("hhqqi4x")

_PTHREAD_PROCESS_SHARED = 1
_PTHREAD_MUTEX_ROBUST = 1
_ATTRIBUTE_BYTES = 64

MUTEX_BYTES = 40
"""sizeof(pthread_mutex_t) where pointers have 64 bits."""

_libc = ctypes.CDLL(None)
for _name in (
    "pthread_mutexattr_init",
    "pthread_mutex_trylock",
    "pthread_mutex_unlock",
    "pthread_mutex_consistent",
):
    getattr(_libc, _name).argtypes = (ctypes.c_void_p,)
for _name in ("pthread_mutexattr_setpshared", "pthread_mutexattr_setrobust"):
    getattr(_libc, _name).argtypes = (ctypes.c_void_p, ctypes.c_int)
_libc.pthread_mutex_init.argtypes = (ctypes.c_void_p, ctypes.c_void_p)


def try_lock(fd: int, start: int, *, size: int = 1, shared: bool = False) -> bool:
    """Lock bytes of an open file until it is closed everywhere; False if another has them."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, size, 0))
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def unlock(fd: int, start: int, *, size: int = 1) -> None:
    """Give such a lock back."""
    lock = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, size, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


def is_locked(fd: int, start: int, *, size: int = 1) -> bool:
    """Whether another open file has a lock on any of the bytes."""
    lock = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, size, 0)
    found = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, lock))
    return bool(found[0] != fcntl.F_UNLCK)


def is_open_elsewhere(fd: int) -> bool:
    """Whether the file of `fd`, which must be open for reading and its only one here, is open
    anywhere else: in a descriptor, in a memory area, or on its way through a socket.

    The kernel knows: it grants a lease for writing (fcntl(2), F_SETLEASE) only to who has the
    file alone. Descriptors of O_PATH do not count. OSError if the file is another user's.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        raise
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


class SharedMutex:
    """A mutex in memory that processes share, which the death of its owner sets free."""

    def __init__(self, address: int) -> None:
        """The one at an address, MUTEX_BYTES long."""
        self._address = address

    def make(self) -> None:
        """Make it; nobody may use it before."""
        attributes = ctypes.create_string_buffer(_ATTRIBUTE_BYTES)
        _libc.pthread_mutexattr_init(attributes)
        _libc.pthread_mutexattr_setpshared(attributes, _PTHREAD_PROCESS_SHARED)
        _libc.pthread_mutexattr_setrobust(attributes, _PTHREAD_MUTEX_ROBUST)
        _libc.pthread_mutex_init(self._address, attributes)

    def try_lock(self) -> bool:
        """Take it, also from an owner that has died; False if somebody has it."""
        result = _libc.pthread_mutex_trylock(self._address)
        if result == errno.EOWNERDEAD:
            result = _libc.pthread_mutex_consistent(self._address)
        if result not in {0, errno.EBUSY}:
            raise OSError(result, os.strerror(result))
        return bool(result == 0)

    def unlock(self) -> None:
        """Give it back."""
        _libc.pthread_mutex_unlock(self._address)
