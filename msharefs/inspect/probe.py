"""Whether a mount answers, asked without waiting for one that does not.

Owns the children that ask. A process that waits for a mount that hangs cannot even be killed, so
whoever must not wait sends another one, which is left behind if it has to be. A mount that hangs
is TimeoutError here.
"""

from __future__ import annotations

import errno
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn, TypeVar

from msharefs.linux import syscalls

ANSWER_SECONDS = 2.0
"""A mount that has not answered by then hangs."""
PATIENCE = 1.0
"""Seconds that work on a mount may take before the mount is asked whether it answers at all."""
_ENDING_SECONDS = 0.2
"""A child that has not ended so long after SIGKILL waits for a mount."""
_MOST_DESCRIPTORS = 1 << 20

T = TypeVar("T")


class Child:
    """A process that does something which might wait for ever, and says with bytes what it found.

    It ends with the process that started it, as soon as it can.
    """

    def __init__(self, work: Callable[[], bytes]) -> None:
        """Start it. Raises OSError."""
        self._reader, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _be_child(work, writer)
        os.close(writer)

    def is_ready(self, seconds: float) -> bool:
        """Wait until there is something to read, but no longer than that."""
        return bool(select.select([self._reader], [], [], max(seconds, 0.0))[0])

    def read(self) -> bytes:
        """The next bytes; none when it has ended."""
        return os.read(self._reader, 1 << 16)

    def end(self) -> bool:
        """End it; false if it waits, and will end when it need not any more."""
        # Where the program reaps its children, or ignores their end, it may be gone already.
        with suppress(ProcessLookupError, ChildProcessError):
            pidfd = os.pidfd_open(self._pid)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if not select.select([pidfd], [], [], _ENDING_SECONDS)[0]:
                    return False
            finally:
                os.close(pidfd)
            os.waitpid(self._pid, os.WNOHANG)
        os.close(self._reader)
        return True


class Probe:
    """A look at a mount."""

    def __init__(self, path: str) -> None:
        """Look at the mount point `path`. Raises OSError."""
        self.path = path
        self._child = Child(lambda: bytes([_errno_of_looking_at(path)]))
        self._started = time.monotonic()
        self._answer: int | None = None

    def answer(self, seconds: float = ANSWER_SECONDS) -> int | None:
        """The errno of looking, 0 if the mount is well, None if it has not answered so long after
        the start."""
        if self._answer is None and self._child.is_ready(seconds - self.age):
            self._answer = (self._child.read() or bytes([errno.EIO]))[0]
        return self._answer

    @property
    def age(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def end(self) -> None:
        """Let go of it."""
        self._child.end()


def answers_of(paths: Iterable[str]) -> list[int | None]:
    """What each mount answers, all asked at once, so that the slowest decides how long it takes."""
    probes: list[Probe] = []
    try:
        probes += map(Probe, paths)
        return [probe.answer() for probe in probes]
    finally:
        for probe in probes:
            probe.end()


class Asker:
    """Has others wait for mounts. It remembers who waits in vain, so that they do not get more."""

    def __init__(self) -> None:
        self._stuck: dict[str, Child] = {}

    def ask(self, path: str, work: Callable[[], T]) -> T:
        """The result of work that may wait for the mount at `path`, done in a child.

        It may take however long, as long as the mount answers others. Raises what the work raises,
        and TimeoutError for a mount that hangs. Result and exceptions must be fit for pickle, and
        the work has no descriptor of ours.
        """
        stuck = self._stuck.pop(path, None)
        if stuck is not None and not stuck.end():
            self._stuck[path] = stuck
            raise silent(path)
        child = Child(lambda: pickle.dumps(_outcome(work)))
        try:
            result, error = pickle.loads(_all_of(child, path))
        finally:
            if not child.end():
                self._stuck[path] = child
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]  # it was made by `work`


def silent(path: str) -> TimeoutError:
    """The exception for a mount that hangs."""
    return TimeoutError(errno.ETIMEDOUT, "the mount does not answer", path)


def _all_of(child: Child, path: str) -> bytes:
    """What the child writes, as long as the mount answers."""
    parts: list[bytes] = []
    while True:
        while not child.is_ready(PATIENCE):
            if answers_of([path]) == [None]:
                raise silent(path)
        part = child.read()
        if part:
            parts.append(part)
        elif parts:
            return b"".join(parts)
        else:
            raise OSError(errno.EIO, "the process that looked at it has ended", path)


def _outcome(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - raised again by who asked
        return None, error


def _errno_of_looking_at(path: str) -> int:
    try:
        os.statvfs(path)
    except OSError as error:
        return min(error.errno or errno.EIO, 255)
    return 0


def _be_child(work: Callable[[], bytes], writer: int) -> NoReturn:
    """Whatever happens, this process ends here, and in silence."""
    try:
        syscalls.die_with_parent(signal.SIGKILL)
        # Whoever reads what somebody of us writes must not wait for a child that waits.
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, writer)
        os.closerange(writer + 1, _MOST_DESCRIPTORS)
        # The terminal's signals are for the one who asked.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        rest = memoryview(work())
        while rest:
            rest = rest[os.write(writer, rest) :]
    finally:
        os._exit(0)
