"""A process of a mount that there is on demand: started with the first order, and again if it ends.

Owns the process and both ends of the socket on which servers order: an order that nobody takes
waits in it, whichever server gave it, for a process that is started because of it. So one that
is killed is missed by nobody but who had it at work at that moment, and a mount that needs none
has none. Knows nothing of what is ordered.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from msharefs.linux import syscalls

log = logging.getLogger(__name__)

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "start_on_demand.py")

PAUSE = 1.0
"""Seconds until another is started where one could not be, or has failed: what is wrong with it
would be wrong with the next one, too."""
FAREWELL = 1.0
"""Seconds in which it ends by itself when nobody can order any more."""
END = 10.0
"""Seconds in which one that was killed has ended."""


class OnDemand:
    """A process, whenever one is needed. Whoever makes this has to `end` it."""

    def __init__(
        self,
        name: str,
        module: str,
        given: Sequence[int] = (),
        arguments: Sequence[str] = (),
        *,
        namespace: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` is for the log. The arguments of the `module`'s main are the descriptor of its socket,
        those `given`, which it inherits, and `arguments`. It is in the mount `namespace` of that
        descriptor, if it is not to be in ours. Raises OSError."""
        self._name = name
        self._module = module
        self._given = given
        self._arguments = arguments
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
        """Readable when somebody has ordered and nobody has taken the order."""
        return self._theirs.fileno()

    def is_missed(self) -> bool:
        """Whether an order would be taken by nobody, and a process may be started."""
        self._look()
        return self._process is None and self.pause() <= 0

    def pause(self) -> float:
        """Seconds until the next may be started; after that 0 or less."""
        return self._not_before - self._clock()

    def start(self) -> None:
        """Have one. Where it cannot be started that is logged, and orders wait for the next try."""
        inherited = [self._theirs.fileno(), *self._given]
        arguments = [self._module, *map(str, inherited), *self._arguments]
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                start_new_session=True,
                preexec_fn=None if self._namespace is None else partial(_enter, self._namespace),
            )
        except (OSError, subprocess.SubprocessError) as error:
            log.error("no process for the %s: %s", self._name, error)
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
            if process is not None and not _ends(process, FAREWELL):
                process.kill()
                if not _ends(process, END):
                    log.error("the %s (process %d) does not end", self._name, process.pid)

    def _look(self) -> None:
        """Note what has ended."""
        self._retired = [process for process in self._retired if process.poll() is None]
        if self._process is None or (code := self._process.poll()) is None:
            return
        self._process = None
        if code != 0:
            log.warning(
                "the %s ended with %d; another is started when it is needed", self._name, code
            )
        if code > 0:
            self._not_before = self._clock() + PAUSE


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it does so in time."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


def _enter(namespace: int) -> None:
    """What the child does before it becomes another program. The supervisor has one thread, so
    running Python between fork and exec is safe."""
    syscalls.setns(namespace, syscalls.CLONE_NEWNS)
