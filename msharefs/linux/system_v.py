"""System V shared memory as the kernel knows it (shmctl(2))."""

from __future__ import annotations

import ctypes
import errno

_IPC_STAT = 2
_STATUS_BYTES = 256

_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmctl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_char_p)


def exists(segment: int) -> bool:
    """Whether the segment with that id exists in this IPC namespace.

    One that was removed exists until the last process has detached it.
    """
    status = ctypes.create_string_buffer(_STATUS_BYTES)
    if _libc.shmctl(segment, _IPC_STAT, status) == 0:
        return True
    return ctypes.get_errno() not in {errno.EINVAL, errno.EIDRM}
