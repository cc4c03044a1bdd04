"""What the kernel tells as something to read: signals (signalfd) and files (inotify).

Owns the descriptors and the forms of what is read from them. What an event means is the
caller's business.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass

IN_ATTRIB = 0x00000004
IN_CLOSE = 0x00000018
"""A file that was open, for writing or not, was let go of for good: the last of its descriptors
and memory areas has gone."""
IN_Q_OVERFLOW = 0x00004000

_CLOEXEC = os.O_CLOEXEC
_NONBLOCK = os.O_NONBLOCK
_SIGSET_BYTES = 128
# struct signalfd_siginfo: number, errno, code.
_SIGNAL = struct.Struct("=Iii116x")
_FILE = struct.Struct("=iIII")
_BUFFER = 65536

_libc = ctypes.CDLL(None, use_errno=True)
_libc.signalfd.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal that has come, and how (si_code of sigaction(2))."""

    number: int
    code: int


class Signals:
    """Signals as something to wait for beside other descriptors; they must be blocked."""

    def __init__(self, numbers: Iterable[int]) -> None:
        """Each of `numbers`, and no others. OSError without a descriptor."""
        mask = sum(1 << (number - 1) for number in numbers)
        text = mask.to_bytes(_SIGSET_BYTES, "little")
        self._fd = _checked(_libc.signalfd(-1, text, _CLOEXEC | _NONBLOCK), "signalfd")

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._fd

    def read(self) -> list[Signal]:
        """The signals that have come, in no order that means anything; none is no error."""
        try:
            data = os.read(self._fd, 64 * _SIGNAL.size)
        except BlockingIOError:
            return []
        return [Signal(number, code) for number, _, code in _SIGNAL.iter_unpack(data)]

    def close(self) -> None:
        """Let go of it; the signals stay blocked."""
        os.close(self._fd)


class FileEvents:
    """Files that are watched (inotify(7)), each by a number of the kernel's."""

    def __init__(self) -> None:
        """OSError where this user watches too much already, or without a descriptor."""
        self._fd = _checked(_libc.inotify_init1(_CLOEXEC | _NONBLOCK), "inotify_init1")

    def fileno(self) -> int:
        """Readable when something has happened."""
        return self._fd

    def watch(self, path: str, mask: int) -> int:
        """The number by which `read` names the file at `path`. OSError if it cannot be watched."""
        return _checked(_libc.inotify_add_watch(self._fd, os.fsencode(path), mask), path)

    def forget(self, number: int) -> None:
        """Watch it no longer; one that the kernel has forgotten by itself is no error."""
        _libc.inotify_rm_watch(self._fd, number)

    def read(self) -> set[int]:
        """The files to which something has happened; -1 among them: perhaps to any of them."""
        found: set[int] = set()
        try:
            data = os.read(self._fd, _BUFFER)
        except BlockingIOError:
            return found
        at = 0
        while at < len(data):
            number, mask, _, length = _FILE.unpack_from(data, at)
            found.add(-1 if mask & IN_Q_OVERFLOW else number)
            at += _FILE.size + length
        return found

    def close(self) -> None:
        """Let go of it and of all that it watches."""
        os.close(self._fd)
