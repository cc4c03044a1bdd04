"""/dev/fuse: the one descriptor on which a mount's server and the kernel talk.

Owns every system call on it, and which failure of them means nothing. The descriptor
belongs to whoever opened it. Requests and replies are bytes here; what they say is not known.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence

from msharefs.fuse import kernel, messages

GONE = frozenset({errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN})
"""Of any call: the connection has ended, by umount or by fusectl (fuse_dev_read, fuse_dev_write
and fuse_notify in fs/fuse/dev.c)."""
TAKEN_BACK = frozenset({errno.ENOENT, errno.EINTR})
"""Of a read: the request was taken back by its caller, or a signal came."""
DROPPED = frozenset({errno.ENOENT, errno.EPERM})
"""Of BACKING_CLOSE: an earlier server dropped the registration before it died."""


class ConnectionGone(Exception):
    """The mount is gone, or its connection was aborted."""


class Device:
    """The /dev/fuse descriptor of a mount."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        """The descriptor, to be waited for."""
        return self.fd

    def set_blocking(self, blocking: bool) -> None:
        """Whether `read_into` waits for a request."""
        os.set_blocking(self.fd, blocking)

    def read_into(self, buffer: bytearray | memoryview) -> int:
        """The next request, into a buffer of REQUEST_ROOM bytes (mounting.py). Returns its
        length; 0 where there is none now. Raises ConnectionGone, or OSError."""
        while True:
            try:
                return self._readv([buffer])
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno in GONE:
                    raise ConnectionGone from error
                if error.errno not in TAKEN_BACK:
                    raise

    def reply(self, header: bytes, payload: bytes | memoryview = b"") -> None:
        """Answer a request; one that nobody waits for any more takes no answer. OSError where
        the kernel does not take this one."""
        try:
            self._writev((header, payload))
        except OSError as error:
            if error.errno != errno.ENOENT and error.errno not in GONE:
                raise

    def notify(self, message: bytes) -> bool:
        """Tell the kernel something that it did not ask for. Returns whether it concerns an
        inode that the kernel has. Raises ConnectionGone, or OSError."""
        try:
            self._writev((message,))
        except OSError as error:
            if error.errno in GONE:
                raise ConnectionGone from error
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def register_backing(self, fd: int) -> int:
        """Let handles be backed by the file behind `fd` (Linux 6.9, CAP_SYS_ADMIN). Returns
        its backing id, which belongs to the connection, not to this process. Raises OSError."""
        request = bytearray(messages.encode_backing_map(fd))
        return self._ioctl(kernel.FUSE_DEV_IOC_BACKING_OPEN, request)

    def drop_backing(self, backing_id: int) -> None:
        """The id is not used for a further open. Raises OSError."""
        request = bytearray(messages.encode_backing_id(backing_id))
        try:
            self._ioctl(kernel.FUSE_DEV_IOC_BACKING_CLOSE, request)
        except OSError as error:
            if error.errno not in DROPPED and error.errno not in GONE:
                raise

    # The system calls themselves, so that tests can let each of them fail.

    def _readv(self, buffers: Sequence[bytearray | memoryview]) -> int:
        return os.readv(self.fd, buffers)

    def _writev(self, parts: Sequence[bytes | memoryview]) -> int:
        return os.writev(self.fd, parts)

    def _ioctl(self, number: int, argument: bytearray) -> int:
        result: int = fcntl.ioctl(self.fd, number, argument)
        return result
