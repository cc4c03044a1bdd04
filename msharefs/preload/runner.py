"""mshare run itself: starts a collector, which starts the program, and stays until that ends.

Owns what the caller sees of a run: signals are passed on to the program, and its exit code comes
back. If the collector is killed another one takes its place.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from msharefs.linux.events import Signals
from msharefs.linux.sockets import said
from msharefs.linux.syscalls import adopt_orphans
from msharefs.preload.collecting import Command, Task, begin

EXIT_SIGNAL = 128
NEWS_BYTES = 4096
REPLACEMENTS = 10
"""Where so many collectors have died something is wrong that one more does not mend."""

FORWARDED = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGWINCH,
}
# si_code of a signal that the kernel sent: one from the terminal, which every process of the
# foreground has got by itself.
_SI_KERNEL = 0x80


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run has ended."""

    code: int
    """The exit code for the shell."""
    left: bool
    """Processes that the program has left behind go on with the region."""
    peak: int
    """The most bytes that lived in the region."""


class Runner:
    """One run of one program. It changes how this process is told of its children."""

    def __init__(self, task: Task) -> None:
        """Nothing happens before `run`."""
        self._task = task
        self._replacements = 0
        self._collector = 0
        self._channel: socket.socket | None = None
        self._command = 0
        self._pidfd: int | None = None
        # Signals for a command that runs and of which nothing was heard yet.
        self._early: list[int] = []
        self._status: int | None = None
        self._failure: int | None = None
        self._outcome: Outcome | None = None

    def run(self, arguments: Sequence[str], environment: dict[str, str]) -> Outcome:
        """Start the program and wait for its end. OSError if it cannot be started."""
        # The collector's children become ours if it dies.
        adopt_orphans()
        # Whoever started us may have it ignored: then the kernel would not keep what became of
        # children.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
        signals = Signals(FORWARDED | {signal.SIGCHLD})
        # Python ignores these two; the program must not inherit that.
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]
        command = Command(arguments, environment, os.getpgrp(), set(map(int, before)), defaults)
        self._start_collector(command)
        while self._outcome is None:
            self._step(signals)
        signals.close()
        if not self._outcome.left:
            with suppress(ChildProcessError):
                os.waitpid(self._collector, 0)
        return self._outcome

    def _step(self, signals: Signals) -> None:
        waiting = select.poll()
        waiting.register(signals, select.POLLIN)
        if self._channel is not None:
            waiting.register(self._channel, select.POLLIN)
        ready = {fd for fd, _ in waiting.poll()}
        if self._channel is not None and self._channel.fileno() in ready:
            self._hear(self._channel)
        if signals.fileno() in ready:
            for each in signals.read():
                self._pass_on(each.number, each.code)
            self._reap()

    def _start_collector(self, command: Command | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._collector = os.fork()
        if self._collector == 0:
            status = 1
            try:
                ours.close()
                begin(self._task, theirs, command)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        self._channel = ours

    def _hear(self, channel: socket.socket) -> None:
        """What the collector says."""
        text = said(channel, NEWS_BYTES)
        if not text:
            channel.close()
            self._channel = None
            return
        news = json.loads(text)
        if "started" in news:
            self._command = news["started"]
            with suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self._command)
            for number in self._early:
                self._send(number)
        elif "failed" in news:
            self._failure = news["failed"]
        elif self._failure is not None:
            raise OSError(self._failure, os.strerror(self._failure))
        else:
            status = news["ended"] if self._status is None else self._status
            self._outcome = Outcome(_exit_code(status), news["left"], news["peak"])

    def _pass_on(self, number: int, code: int) -> None:
        if number == signal.SIGCHLD or code == _SI_KERNEL:
            return
        if self._command:
            self._send(number)
        else:
            self._early.append(number)

    def _send(self, number: int) -> None:
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _reap(self) -> None:
        """Take leave of children: of the collector, and then of all that it has left us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._collector:
                self._replace_collector()
            elif pid == self._command:
                self._end(status)

    def _replace_collector(self) -> None:
        """It has ended, and has not said that the run is over."""
        while self._channel is not None and self._outcome is None:
            self._hear(self._channel)
        if self._outcome is not None:
            return
        if not self._command or self._replacements == REPLACEMENTS:
            raise ChildProcessError("the collector of this run has died")
        self._replacements += 1
        self._start_collector(None)
        if self._status is not None:
            self._say_that_it_ended()

    def _end(self, status: int) -> None:
        """The program has ended, and there is another collector than the one that started it."""
        self._status = status
        self._say_that_it_ended()

    def _say_that_it_ended(self) -> None:
        if self._channel is not None:
            with suppress(OSError):
                self._channel.send(b"e")


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_SIGNAL - code
