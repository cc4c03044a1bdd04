"""Who is waited for: a command runs in another process than the one that was started.

A process in a request to a mount hears no signal until the mount answers, and if the mount hangs
not even SIGKILL ends it. So the command runs in a child, and its parent, which touches no mount,
passes signals on, asks the mounts that the command is about whether they answer, and ends when the
child has ended or will not. What is written into pipes goes through the parent too, because a
child that cannot be ended would hold them open, and who reads them would wait.
"""

from __future__ import annotations

import math
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence

from msharefs.inspect.probe import PATIENCE, Probe, silent
from msharefs.linux import syscalls

_LOOK = 0.05
"""Seconds between looks while a probe waits, or the child is to end."""
_GRACE = 1.0
"""Seconds in which a child that is to end has to, unless its mounts answer."""
_PASSED_ON = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
_WAITED_FOR = {*_PASSED_ON, signal.SIGCHLD}
_SI_KERNEL = 0x80
"""si_code of a signal of the terminal, which the child has got by itself."""
_EXIT_SIGNAL = 128


def watched(command: Callable[[], int], mounts: Sequence[str], seconds: float) -> int:
    """The exit code of `command`, run in a child, as shells have it.

    Raises TimeoutError if one of the mount points `mounts` does not answer for so many seconds
    meanwhile. The child leaves by SystemExit.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    pipes = _Pipes()
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        syscalls.die_with_parent(signal.SIGTERM)
        pipes.write_into()
        sys.exit(command())
    pipes.pass_on()
    watch = _Watch(child, mounts, seconds)
    try:
        code = watch.wait()
    finally:
        watch.end()
        # One that comes now has nobody to be passed on to, and nothing to say.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    pipes.drain()
    return code


class _Watch:
    """The parent of a command."""

    def __init__(self, child: int, mounts: Sequence[str], seconds: float) -> None:
        self._child = child
        self._mounts = mounts
        self._seconds = seconds
        self._probes: list[Probe] = []
        self._probe_at = time.monotonic() + PATIENCE
        # The signal that told us to end, and when the child has to.
        self._told = 0
        self._end_at = math.inf
        self._code: int | None = None

    def wait(self) -> int:
        """The exit code, the child's or that of a signal. Raises TimeoutError."""
        while self._code is None:
            received = signal.sigtimedwait(_WAITED_FOR, self._pause())
            if received is not None and received.si_signo in _PASSED_ON:
                self._pass_on(received)
            if not self._reap():
                self._look(time.monotonic())
        return self._code

    def end(self) -> None:
        """Leave nobody behind who can be ended."""
        for probe in self._probes:
            probe.end()
        if not self._reap():
            # It may have something half made that is not on the mount, such as a file.
            os.kill(self._child, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE / 4
            while not self._reap() and time.monotonic() < deadline:
                signal.sigtimedwait({signal.SIGCHLD}, _LOOK)
        if not self._reap():
            os.kill(self._child, signal.SIGKILL)

    def _pause(self) -> float:
        if self._probes or self._told:
            return _LOOK
        return max(self._probe_at - time.monotonic(), 0.0) if self._mounts else PATIENCE

    def _pass_on(self, received: signal.struct_siginfo) -> None:
        if self._told:
            self._code = _EXIT_SIGNAL + received.si_signo
            return
        self._told = received.si_signo
        self._end_at = time.monotonic() + _GRACE
        if received.si_code != _SI_KERNEL:
            os.kill(self._child, received.si_signo)
        self._probe_at = 0.0

    def _reap(self) -> bool:
        """Whether the child has ended."""
        if self._child == 0:
            return True
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if pid:
            self._child = 0
            code = os.waitstatus_to_exitcode(status)
            self._code = code if code >= 0 else _EXIT_SIGNAL - code
        return bool(pid)

    def _look(self, now: float) -> None:
        if not self._probes and now >= self._probe_at:
            self._probes = [Probe(path) for path in self._mounts]
        waiting = [probe for probe in self._probes if probe.answer(0.0) is None]
        if self._told and now >= self._end_at:
            # Whose mount answers has something to take away, and the time for it.
            if waiting or not self._mounts:
                self._code = _EXIT_SIGNAL + self._told
            self._end_at = now + _GRACE
        for probe in waiting:
            if probe.age > self._seconds and not self._told:
                raise silent(probe.path)
        if self._probes and not waiting:
            for probe in self._probes:
                probe.end()
            self._probes = []
            self._probe_at = now + PATIENCE


class _Pipes:
    """Standard output and error as far as they are pipes, with another pipe before each."""

    def __init__(self) -> None:
        self._pipes: dict[tuple[int, int], tuple[int, int]] = {}
        self._places: dict[int, tuple[int, int]] = {}
        self._threads: list[threading.Thread] = []
        for stream in (sys.stdout, sys.stderr):
            # What is written already would be written by the child as well.
            if stream is not None:
                stream.flush()
        for number in (1, 2):
            try:
                facts = os.fstat(number)
            except OSError:
                continue  # closed by who started us
            if stat.S_ISFIFO(facts.st_mode) or stat.S_ISSOCK(facts.st_mode):
                # Both in one pipe stay in the order in which they were written.
                key = (facts.st_dev, facts.st_ino)
                if key not in self._pipes:
                    self._pipes[key] = os.pipe()
                self._places[number] = key

    def write_into(self) -> None:
        """In the child: what it writes goes to the parent."""
        for number, key in self._places.items():
            os.dup2(self._pipes[key][1], number)
        for ends in self._pipes.values():
            for end in ends:
                os.close(end)

    def pass_on(self) -> None:
        """In the parent: what comes goes on. Who reads it no more ends us, as in any filter."""
        for key, (reader, writer) in self._pipes.items():
            os.close(writer)
            target = next(number for number, place in self._places.items() if place == key)
            thread = threading.Thread(target=_copy, args=(reader, target), daemon=True)
            thread.start()
            self._threads.append(thread)

    def drain(self) -> None:
        """In the parent, when the child has ended: wait for the last bytes."""
        for thread in self._threads:
            thread.join()


def _copy(source: int, target: int) -> None:
    while data := os.read(source, 1 << 16):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(target, rest) :]
