"""The files that a server's state is in, opened.

Owns setting a journal aside that cannot be read. What is in the files is core's.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from msharefs.core.handles import HandleCounts
from msharefs.core.journal import Journal
from msharefs.core.schema import DamagedJournalError, DamagedTailError
from msharefs.core.tail import SIZE as TAIL_SIZE
from msharefs.daemon.state import write_whole

log = logging.getLogger(__name__)

TAIL = "-tail"
"""The name of the file of a journal's last changes ends like this."""


class StateError(Exception):
    """A file of the state directory cannot be had; the text says why."""


def open_journal(
    path: str, failpoint: Callable[[str], None], broken: Callable[[], None]
) -> Journal:
    """The journal; `failpoint` and `broken` are its own (see Journal). One that is torn or foreign
    is set aside, and a new one begun; its regions are lost, and that is logged. Where that is
    so of its last changes, they alone are. Raises JournalError where it cannot be opened now, or by
    this version, and StateError."""

    def opened() -> Journal:
        open_tail = partial(open_area, path + TAIL, TAIL_SIZE)
        return Journal(path, open_tail, failpoint, broken, Files(path).allocate)

    try:
        try:
            return opened()
        except DamagedTailError as error:
            aside = _set_aside(path, (TAIL,))
            log.error("%s; set aside as %s", error, aside + TAIL)
            return opened()
    except DamagedJournalError as error:
        aside = _set_aside(path, ("", "-wal", "-shm", TAIL))
        log.error("%s; set aside as %s, its regions are lost", error, aside)
        return opened()


def _set_aside(path: str, suffixes: Iterable[str]) -> str:
    """Give those files of a journal that there are another name, which is returned."""
    aside = f"{path}.bad-{time.time_ns()}"
    for suffix in suffixes:
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


class Files:
    """The files of a journal, which are kept open: to close one would take sqlite's locks away
    (https://sqlite.org/howtocorrupt.html, 2.2)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fds: dict[str, int] = {}

    def __del__(self) -> None:
        for fd in self._fds.values():
            os.close(fd)

    def allocate(self, suffix: str, size: int) -> None:
        """Have the first `size` bytes of the file with this suffix on disk; it may be longer.
        Raises OSError."""
        # Both at once: later there may be no descriptor left.
        for each in {"", "-wal"} - self._fds.keys():
            self._fds[each] = os.open(self._path + each, os.O_RDWR | os.O_CLOEXEC)
        os.posix_fallocate(self._fds[suffix], 0, size)


def open_area(path: str, size: int) -> memoryview:
    """A file of that many bytes, mapped shared: what is in it is not lost with the process
    that wrote it. Raises StateError."""
    with _told(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            return _mapped(fd, size)
        finally:
            os.close(fd)


def new_area(path: str, size: int) -> memoryview:
    """The same, and all zeros, whatever was in the file."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    return open_area(path, size)


def open_handles(path: str) -> HandleCounts:
    """The handle counts, in a file that is mapped shared, so that they are never lost with
    the process that wrote them. Raises StateError."""
    with _told(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return HandleCounts(partial(_mapped, fd), os.fstat(fd).st_size)


def write_file(path: str, content: bytes) -> None:
    """A file that is there with all of its content or as it was before. Raises StateError."""
    with _told(path):
        write_whole(path, content)


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}") from error


def _mapped(fd: int, size: int) -> memoryview:
    """A file, made so long where it is shorter. All its pages are there before one is touched: where
    the disk is full a touch would end the process, and a kill while the kernel copies into a
    new page would tear a request."""
    os.posix_fallocate(fd, 0, size)
    return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE))
