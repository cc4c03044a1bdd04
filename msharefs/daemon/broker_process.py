"""The broker of files as its supervisor sees it: started when a file is wanted, and again if it ends.

Owns the process and both ends of the socket on which servers order: an order that nobody takes
waits in it, whichever server gave it, for a broker that is started because of it. So a broker that
is killed is missed by nobody but who had a file at that moment, and a mount that maps no files has
none. Knows nothing of what is ordered.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import msharefs.files
from msharefs.linux import syscalls

log = logging.getLogger(__name__)

_PROGRAM = os.path.join(
    os.path.dirname(os.path.abspath(msharefs.files.__file__)), "start_broker.py"
)

PAUSE = 1.0
"""Seconds until another is started where one could not be, or has failed: what is wrong with it
would be wrong with the next one, too."""


class BrokerProcess:
    """A broker, whenever one is needed. Whoever makes this has to `end` it."""

    def __init__(self, namespace: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Its processes are in the mount namespace of that descriptor, if they are not to be in
        ours: where servers are. Raises OSError."""
        self._namespace = namespace
        self._clock = clock
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._process: subprocess.Popen[bytes] | None = None
        self._retired: list[subprocess.Popen[bytes]] = []
        self._not_before = clock()

    @property
    def orders(self) -> int:
        """The descriptor on which servers order, theirs to inherit."""
        return self._ours.fileno()

    def fileno(self) -> int:
        """Readable when somebody has ordered and no broker has taken the order."""
        return self._theirs.fileno()

    def is_missed(self) -> bool:
        """Whether an order would be taken by nobody, and a broker may be started."""
        self._look()
        return self._process is None and self.pause() <= 0

    def pause(self) -> float:
        """Seconds until the next may be started; after that 0 or less."""
        return self._not_before - self._clock()

    def start(self) -> None:
        """Have one. Where it cannot be started that is logged, and orders wait for the next try."""
        try:
            self._process = _start(self._theirs.fileno(), self._namespace)
        except (OSError, subprocess.SubprocessError) as error:
            log.error("no process for the broker of files: %s", error)
            self._not_before = self._clock() + PAUSE

    def retire(self) -> None:
        """The next order is for another one, of the code that is installed now. This one ends when
        nobody uses it any more."""
        if self._process is not None:
            self._process.terminate()
            self._retired.append(self._process)
            self._process = None

    def end(self) -> None:
        """End what runs, and take no more orders."""
        self._ours.close()
        self._theirs.close()
        for process in (self._process, *self._retired):
            if process is not None:
                process.kill()
                process.wait()

    def _look(self) -> None:
        """Note what has ended."""
        self._retired = [process for process in self._retired if process.poll() is None]
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._process = None
        if code != 0:
            log.warning(
                "the broker of files ended with %d; another is started for the next file", code
            )
        if code > 0:
            self._not_before = self._clock() + PAUSE


def _start(orders: int, namespace: int | None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", _PROGRAM, str(orders)],
        stdin=subprocess.DEVNULL,
        pass_fds=[orders],
        start_new_session=True,
        preexec_fn=None if namespace is None else partial(_enter, namespace),
    )


def _enter(namespace: int) -> None:
    """What the child does before it becomes a broker. The supervisor has one thread, so running
    Python between fork and exec is safe."""
    syscalls.setns(namespace, syscalls.CLONE_NEWNS)
