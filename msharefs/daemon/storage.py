"""The files that a server's state is in, opened; and the seam at which tests end it.

Owns setting a journal aside that cannot be read. What is in the files is core's.
"""

from __future__ import annotations

import logging
import mmap
import os
import signal
import time
from contextlib import suppress

from msharefs.core.handles import HandleCounts
from msharefs.core.journal import Journal, JournalError, NewerJournalError

log = logging.getLogger(__name__)


def open_journal(path: str) -> Journal:
    """The journal. One that is torn or foreign is set aside, and a new one begun; its regions
    are lost, and that is logged. Raises NewerJournalError."""
    try:
        return Journal(path)
    except NewerJournalError:
        raise
    except JournalError as error:
        aside = f"{path}.bad-{time.time_ns()}"
        log.error("%s; set aside as %s, its regions are lost", error, aside)
        os.rename(path, aside)
        for suffix in ("-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, aside + suffix)
        return Journal(path)


def open_handles(path: str) -> HandleCounts:
    """The handle counts, in a file that is mapped shared, so that they are never lost with
    the process that wrote them."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def resize(size: int) -> memoryview:
        os.ftruncate(fd, size)
        return memoryview(mmap.mmap(fd, size))

    return HandleCounts(resize, os.fstat(fd).st_size)


class CrashPoint:
    """Ends the process at a step, as kill -9 would: "STEP:N" is the Nth time it comes there.

    An order "@PATH" names a file where such an order is put while the mount is in use; it
    is looked for with each request, and taken away.
    """

    def __init__(self, order: str, *, restarts: int) -> None:
        """Nothing happens without an order, or in a server that replaces another, unless
        the order comes in a file."""
        self._file = order[1:] if order.startswith("@") else None
        self._step, self._left = "", 0
        if order and self._file is None and not restarts:
            self._take(order)

    def reached(self, step: str) -> None:
        """The process came to a step."""
        if self._file is not None and step == "request read":
            self._look(self._file)
        if step != self._step:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def _look(self, path: str) -> None:
        with suppress(FileNotFoundError):
            with open(path, encoding="ascii") as file:
                self._take(file.read())
            os.unlink(path)

    def _take(self, order: str) -> None:
        step, _, number = order.partition(":")
        self._step, self._left = step.replace("_", " "), int(number or 1)
