"""Locks and inotify, on any directory that keeps to POSIX as Linux does."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

from tests.conformance.names import make
from tests.helpers.raw import opened, refused
from tests.helpers.users import in_child

IN_ATTRIB = 0x4
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
F_OFD_SETLK = 37

_libc = ctypes.CDLL(None, use_errno=True)


def check_flock(root: Path) -> None:
    """R4: shared locks agree, an exclusive one is alone: EWOULDBLOCK."""
    file = make(root / "file")
    with opened(file) as one, opened(file) as two:
        fcntl.flock(one, fcntl.LOCK_SH)
        fcntl.flock(two, fcntl.LOCK_SH)
        with refused(errno.EWOULDBLOCK):
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with refused(errno.EWOULDBLOCK):
            fcntl.flock(one, fcntl.LOCK_SH | fcntl.LOCK_NB)


def check_flock_ends_with_its_descriptor(root: Path) -> None:
    """R4: close frees the lock."""
    file = make(root / "file")
    with opened(file) as keeper:
        with opened(file) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
        fcntl.flock(keeper, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with opened(file) as third, refused(errno.EWOULDBLOCK):
            fcntl.flock(third, fcntl.LOCK_EX | fcntl.LOCK_NB)


def check_record_locks(root: Path) -> None:
    """R4: another process is refused in the locked range, and only there."""
    file = make(root / "file")

    def attempt(start: int) -> None:
        with opened(file) as fd:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)

    with opened(file) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX, 10, 100)
        with refused(errno.EAGAIN, errno.EACCES):
            in_child(lambda: attempt(105))
        in_child(lambda: attempt(110))
        fcntl.lockf(fd, fcntl.LOCK_UN, 10, 100)
        in_child(lambda: attempt(105))


def check_open_file_description_locks(root: Path) -> None:
    """R4: locks of open file descriptions conflict within one process, too."""
    file = make(root / "file")
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    with opened(file) as one, opened(file) as two:
        fcntl.fcntl(one, F_OFD_SETLK, lock)
        with refused(errno.EAGAIN):
            fcntl.fcntl(two, F_OFD_SETLK, lock)


def events(fd: int) -> list[tuple[int, str]]:
    """The waiting inotify events: what happened, and to which name."""
    data = os.read(fd, 65536)
    found = []
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        found.append((mask & 0xFFFF, os.fsdecode(data[16 : 16 + length].rstrip(b"\0"))))
        data = data[16 + length :]
    return found


def check_inotify(root: Path) -> None:
    """R4: a watcher of the directory hears of each change of names and modes."""
    watcher = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert watcher >= 0
    try:
        wanted = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB
        assert _libc.inotify_add_watch(watcher, os.fsencode(root), wanted) >= 0
        make(root / "file")
        (root / "file").chmod(0o600)
        (root / "file").rename(root / "moved")
        (root / "moved").unlink()
        seen = events(watcher)
    finally:
        os.close(watcher)
    # Unlinking changes the link count, which some kernels report as IN_ATTRIB as well.
    assert [event for event in seen if event != (IN_ATTRIB, "moved")] == [
        (IN_CREATE, "file"),
        (IN_ATTRIB, "file"),
        (IN_MOVED_FROM, "file"),
        (IN_MOVED_TO, "moved"),
        (IN_DELETE, "moved"),
    ]
