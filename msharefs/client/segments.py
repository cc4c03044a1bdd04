"""The memory of a region itself, where the mount gives it: the direct data plane.

Owns the conversation with the mount (docs/design/direct.md): a token by an ioctl, and for the token a
descriptor from a socket. It decides nothing about what is mapped where. A mount without such a plane
says so by one request.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from contextlib import suppress

from msharefs import abi

PLAINLY = frozenset({errno.ENOTTY, errno.EBUSY, errno.EINVAL, errno.EACCES, errno.EOPNOTSUPP})
"""Errors that mean: map the file of the region instead. mmap(2) says what is wrong, if anything is."""
AGAIN = frozenset({errno.ESTALE, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EAGAIN})
"""Errors that mean: what was told is out of date, because the server was replaced for example."""
PAUSE, LONGEST_PAUSE = 0.001, 0.1
"""Seconds after an attempt that ended so, twice as long each time. The ioctl waits for a server by itself."""
SECONDS = 10.0
"""So long it is begun again."""
PATIENCE = 10.0
"""Seconds that a server has to answer; it may be one that is stopped."""
_ANSWER = struct.Struct("=i")


def segment_of(fd: int) -> int | None:
    """A descriptor of the memory of the region that is open as `fd`, for reading or for writing as that
    is; the caller closes it. None where the region is to be mapped by its file.

    `fd`, or a duplicate, has to stay open for as long as the memory is mapped. Raises OSError:
    ENFILE or ENOMEM where the server has no descriptor left, ETIMEDOUT where it does not answer.
    """
    return _had(fd, abi.ATTACH)


def claim(fd: int) -> bool:
    """Have the region that is open as `fd` attached by its memory itself from now on, also on a mount
    that does so for those alone that are claimed. Whether it is so now: not where the mount cannot,
    where somebody else has the region open, or where `fd` is not open for reading and writing. Raises
    what `segment_of` does."""
    segment = _had(fd, abi.CLAIM)
    if segment is None:
        return False
    os.close(segment)
    return True


def _had(fd: int, command: int) -> int | None:
    """The descriptor, by this ioctl."""
    deadline, pause = time.monotonic() + SECONDS, PAUSE
    address = refused = b""
    while time.monotonic() < deadline:
        try:
            where = _ask(fd, command)
            address = where.address
            if address == refused:
                # The server lives, or another would have answered: it is in another network namespace.
                return None
            if not _has_what_it_takes():
                return None
            return _redeem(where)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from error
        except OSError as error:
            if error.errno in PLAINLY:
                return None
            if error.errno not in AGAIN:
                raise
            refused = address if error.errno == errno.ECONNREFUSED else b""
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    # Its mappings are being changed all the time, or servers end one after the other.
    return None


def _ask(fd: int, command: int) -> abi.Attach:
    """A token. OSError of the mount."""
    answer = bytearray(abi.Attach.FORMAT.size)
    while True:
        with suppress(InterruptedError):
            fcntl.ioctl(fd, command, answer)
            return abi.Attach.unpack(bytes(answer))


def _has_what_it_takes() -> bool:
    """Whether this Python has the modules for it; its files may be closed to who it runs as by now."""
    try:
        import ctypes  # noqa: F401, PLC0415 - few mounts have a direct plane, and it takes milliseconds
        import socket  # noqa: F401, PLC0415
    except ImportError:
        return False
    return True


def _redeem(where: abi.Attach) -> int:
    """The descriptor for a token. OSError: of the answer; EOPNOTSUPP where somebody else is at the
    address, or the mount is of another user namespace than this process; ECONNRESET where the server
    ended before it had answered."""
    import socket  # noqa: PLC0415 - the same

    from msharefs.linux.sockets import peer_uid, said_with_descriptors  # noqa: PLC0415

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.settimeout(PATIENCE)
        door.connect(b"\0" + where.address)
        if peer_uid(door) != where.uid:
            raise OSError(errno.EOPNOTSUPP, "the server is somebody else")
        door.send(where.token)
        message, descriptors = said_with_descriptors(door, _ANSWER.size)
    if descriptors:
        return descriptors[0]
    if len(message) != _ANSWER.size:
        raise OSError(errno.ECONNRESET, "the server is gone")
    (code,) = _ANSWER.unpack(message)
    # None could be given to us: this process has as many open as it may.
    code = code or errno.EMFILE
    raise OSError(code, os.strerror(code))
