"""Runs the program and stays until nothing of it uses the region.

Owns the processes of a run: the program is started with the library, signals are passed on
to it, its orphans become ours, and messages of the library lead to what collector.py decides.
"""

from __future__ import annotations

import enum
import os
import secrets
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from msharefs.client.errors import MshareError
from msharefs.linux import syscalls
from msharefs.preload.collector import Collector
from msharefs.preload.segments import TableBusyError

EXIT_SIGNAL = 128

CHECK_SECONDS = 10.0
"""How often everything is looked at by itself: a message may get lost, and exec(2) sends
none."""
BUSY_SECONDS = 0.01
"""When to try again while a process of the run holds the table."""

# What the library sends: what has happened, and where in the region.
MESSAGE = struct.Struct("=QQ")
CREDENTIALS = struct.Struct("=3i")

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


class Tell(enum.IntEnum):
    """The kinds of message (preload.h)."""

    PLACED = ord("p")
    GONE = ord("g")
    COLLECT = ord("c")
    HINT = ord("h")


class Runner:
    """One run of one program."""

    def __init__(
        self, collector: Collector, *, keep: bool = False, say: Callable[[str], None] | None = None
    ) -> None:
        """`keep`: what processes have at their end stays mapped. `say` is told what may
        surprise whoever waits."""
        self._collector = collector
        self._keep = keep
        self._say = say
        self.name = f"msharefs-run-{secrets.token_hex(16)}"
        """The abstract socket that the library sends to."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(f"\0{self.name}")
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        # The mount's daemon is dead: nothing can be given back any more.
        self._lost = False
        self._command = 0
        self._status: int | None = None
        # A look at everything that is to come: which ranges it may give back (None: all),
        # and who waits for it.
        self._pending = False
        self._only: set[int] | None = set()
        self._next = time.monotonic() + CHECK_SECONDS
        self._waiting: list[bytes | str] = []

    def start(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        """Start the program. OSError if that cannot be."""
        syscalls.adopt_orphans()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED | {signal.SIGCHLD})
        self._command = os.posix_spawnp(
            arguments[0],
            list(arguments),
            environment,
            setsigmask=before,
            # Python ignores these two; the program must not inherit that.
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
        pidfd = os.pidfd_open(self._command)
        threading.Thread(target=self._pass_signals_on, args=(pidfd,), daemon=True).start()

    def wait(self) -> int:
        """The exit code for the shell, when the program and all who use the region have
        ended."""
        while not self._is_over():
            self._step()
            self._explain_waiting()
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else EXIT_SIGNAL - code

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def _is_over(self) -> bool:
        if self._status is None or self._pending:
            return False
        return self._lost or not self._collector.holders

    def _explain_waiting(self) -> None:
        if self._say is not None and self._status is not None and not self._pending:
            names = ", ".join(map(str, sorted(self._collector.holders)))
            if names:
                self._say(f"the command has ended; waiting for process {names} with memory here")
            self._say = None

    def _step(self) -> None:
        """Wait until something happens and do what it asks for."""
        # One that ends while a look is due anyway would only wake us again and again.
        pidfds = [] if self._pending or self._lost else self._collector.pidfds
        timeout = BUSY_SECONDS if self._pending else max(0.0, self._next - time.monotonic())
        waited_for = [self._socket.fileno(), self._wake_reader, *pidfds]
        ready, _, _ = select.select(waited_for, [], [], timeout)
        if time.monotonic() >= self._next:
            self._look_by_itself()
        if self._wake_reader in ready:
            os.read(self._wake_reader, 4096)
            self._reap()
        # A process that ended leaves its ranges to whoever else has them.
        if any(fd in ready for fd in pidfds):
            self._look_by_itself()
        if self._socket.fileno() in ready:
            self._read_messages()
        if self._pending:
            self._collect()

    def _look_by_itself(self) -> None:
        """Look at everything, because a process may have ended."""
        self._ask(set() if self._keep else None)

    def _ask(self, ranges: set[int] | None) -> None:
        """Look at everything; `ranges` (None: all) are given back if nobody has them."""
        self._pending = True
        if ranges is None or self._only is None:
            self._only = None
        else:
            self._only |= ranges

    def _collect(self) -> None:
        try:
            if not self._lost:
                self._collector.collect(self._only)
        except TableBusyError:
            return
        except MshareError:
            self._lost = True
        self._next = time.monotonic() + CHECK_SECONDS
        self._pending = False
        self._only = set()
        for address in self._waiting:
            self._reply(address)
        self._waiting.clear()

    def _read_messages(self) -> None:
        while True:
            try:
                data, control, _, address = self._socket.recvmsg(
                    MESSAGE.size, socket.CMSG_SPACE(CREDENTIALS.size)
                )
            except BlockingIOError:
                return
            if len(data) == MESSAGE.size:
                what, offset = MESSAGE.unpack(data)
                self._handle(what, offset, _sender(control), address)

    def _handle(self, what: int, offset: int, pid: int, address: bytes | str | None) -> None:
        if what == Tell.PLACED and pid:
            with suppress(MshareError):
                self._collector.placed(offset, pid)
        elif what == Tell.GONE and self._collector.still_held(offset):
            self._reply(address)
        else:
            self._ask({offset} if self._keep and what == Tell.GONE else None)
            if address:
                self._waiting.append(address)

    def _reply(self, address: bytes | str | None) -> None:
        # Who has not waited has no socket any more.
        if address:
            with suppress(OSError):
                self._socket.sendto(b"\0", address)

    def _reap(self) -> None:
        """Take leave of every child that has ended: the program, and orphans of it."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._command:
                self._status = status
                self._look_by_itself()

    def _pass_signals_on(self, command: int) -> None:
        """The life of the second thread: it alone waits for signals, to see who sent them.
        `command` is a pidfd."""
        while True:
            info = signal.sigwaitinfo(FORWARDED | {signal.SIGCHLD})
            if info.si_signo == signal.SIGCHLD:
                os.write(self._wake_writer, b"\0")
            elif info.si_code != _SI_KERNEL:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(command, info.si_signo)


def _sender(control: list[tuple[int, int, bytes]]) -> int:
    """The process that sent a message; 0 if it is out of our sight."""
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(CREDENTIALS.unpack_from(data)[0])
    return 0
