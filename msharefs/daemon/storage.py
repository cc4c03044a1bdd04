"""The files that a server's state is in, opened.

Owns setting a journal aside that cannot be read. What is in the files is core's.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress

from msharefs.core.handles import HandleCounts
from msharefs.core.journal import Journal, JournalError, NewerJournalError

log = logging.getLogger(__name__)


def open_journal(
    path: str, failpoint: Callable[[str], None], broken: Callable[[], None]
) -> Journal:
    """The journal; `failpoint` and `broken` are its own (see Journal). One that is torn or foreign
    is set aside, and a new one begun; its regions are lost, and that is logged. Raises
    NewerJournalError."""
    try:
        return Journal(path, failpoint, broken)
    except NewerJournalError:
        raise
    except JournalError as error:
        aside = f"{path}.bad-{time.time_ns()}"
        log.error("%s; set aside as %s, its regions are lost", error, aside)
        os.rename(path, aside)
        for suffix in ("-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, aside + suffix)
        return Journal(path, failpoint, broken)


def open_area(path: str, size: int) -> memoryview:
    """A file of that many bytes, mapped shared: what is in it is not lost with the process
    that wrote it. Raises OSError where there is no room: a touch later would end the process."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        # All pages at once: a kill while the kernel copies into a new one would tear a request.
        return memoryview(mmap.mmap(fd, size, mmap.MAP_SHARED | mmap.MAP_POPULATE))
    finally:
        os.close(fd)


def new_area(path: str, size: int) -> memoryview:
    """The same, and all zeros, whatever was in the file."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    return open_area(path, size)


def open_handles(path: str) -> HandleCounts:
    """The handle counts, in a file that is mapped shared, so that they are never lost with
    the process that wrote them."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def resize(size: int) -> memoryview:
        os.ftruncate(fd, size)
        return memoryview(mmap.mmap(fd, size))

    return HandleCounts(resize, os.fstat(fd).st_size)
