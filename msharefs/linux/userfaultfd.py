"""A fence around what a shared file does not have (userfaultfd(2)).

Owns the numbers and the two requests. What the file has, and for whom, is not known here.
"""

from __future__ import annotations

import fcntl
import os
import struct

from msharefs.linux import syscalls

_UFFDIO_API, _UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
_UFFD_API = 0xAA
_FEATURE_SIGBUS = 1 << 7
_MODE_MISSING = 1
_API = struct.Struct("=3Q")
_REGISTER = struct.Struct("=4Q")


def sigbus_where_nothing_is(address: int, size: int) -> int:
    """From now on a touch of a page in the range that the mapped file does not have is SIGBUS in this
    process, and EFAULT in a system call, and makes none. Returns a descriptor, for as long as which it
    holds. Forked children have the mapping without it.

    The range begins at a page and is mapped shared, of a file of a tmpfs that is open for writing. Needs
    no privilege (Linux 5.11). Raises OSError: EPERM or ENOSYS where it is forbidden.
    """
    whole = -(-size // syscalls.PAGE_SIZE) * syscalls.PAGE_SIZE
    fd = syscalls.userfaultfd(os.O_CLOEXEC | os.O_NONBLOCK | syscalls.UFFD_USER_MODE_ONLY)
    try:
        fcntl.ioctl(fd, _UFFDIO_API, _API.pack(_UFFD_API, _FEATURE_SIGBUS, 0))
        fcntl.ioctl(fd, _UFFDIO_REGISTER, _REGISTER.pack(address, whole, _MODE_MISSING, 0))
    except OSError:
        os.close(fd)
        raise
    return fd
