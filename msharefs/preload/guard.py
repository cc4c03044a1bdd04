"""The guard: a process that takes the region's name away if mshare run is killed.

Owns one forked child, which waits for the end of its parent and for nothing else.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

_DONE = b"d"


class Guard:
    """Made by the parent while it has one thread."""

    def __init__(self, path: str, identity: tuple[int, int]) -> None:
        """From now on the name goes if this process dies, unless it is another file's."""
        self._region = path, identity
        reader, self._writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _wait(reader, path, identity)
            finally:
                os._exit(0)
        os.close(reader)

    def end(self) -> None:
        """Remove the region, and let the child go."""
        try:
            _remove(*self._region)
        finally:
            # It may have been killed.
            with suppress(BrokenPipeError):
                os.write(self._writer, _DONE)
            os.close(self._writer)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)


def _wait(reader: int, path: str, identity: tuple[int, int]) -> None:
    # What is sent to the parent's process group or service is not for us: we outlive it.
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # No descriptor of the region, so that it is not kept; no end of anybody's pipe.
    reader = os.dup2(reader, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    if os.read(reader, 1) != _DONE:
        _remove(path, identity)


def _remove(path: str, identity: tuple[int, int]) -> None:
    """Unlink the region, if the name is still its own."""
    try:
        status = os.stat(path, follow_symlinks=False)
        if (status.st_dev, status.st_ino) == identity:
            os.unlink(path)
    except FileNotFoundError:
        return
