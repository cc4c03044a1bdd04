"""The broker: starts helpers for users whose files a server wants, and ends those that hang.

Owns the processes. It is a small program that the supervisor runs when the first file is wanted,
with the rights that it takes to look into every caller; it outlives servers. It touches no file
and waits for no helper: one that hangs in a system call can be killed, and is gone when the
system call is. How many there may be is bounded, for each user and in all.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from msharefs.files import helper, wire, writer
from msharefs.linux import rights, syscalls

MOST = 32
MOST_OF_A_USER = 8
"""Helpers that there are at a time, those that hang included."""
IDLE = 60.0
"""Seconds without a helper after which the broker ends: it takes memory, and is started again as
soon as it is needed."""

_NEEDED = frozenset(
    {
        rights.CAP_KILL,
        rights.CAP_SETGID,
        rights.CAP_SETPCAP,
        rights.CAP_SETUID,
        rights.CAP_SYS_PTRACE,
    }
)
"""To look into callers, to become one, and to end that."""
_RETIRE = signal.SIGTERM
_CONVERSATION = 3
"""The descriptor of the socket of every process of this program."""
_LAST_DESCRIPTOR = (1 << 31) - 1


class _Helper(NamedTuple):
    """A helper that there is. `conversation` is its own end, by which the server's end is seen."""

    pid: int
    pidfd: int
    uid: int
    conversation: int
    writes: bool
    """It ends by itself, when what it has in hand is in the file and noted."""


class Broker:
    """The helpers that there are, and the socket on which more are asked for."""

    def __init__(self, orders: socket.socket) -> None:
        """SIGTERM is blocked. Raises OSError."""
        self._orders = orders
        self._helpers: list[_Helper] = []
        self._retire = syscalls.signalfd([_RETIRE])
        self._poll = select.poll()
        self._poll.register(orders, select.POLLIN)
        self._poll.register(self._retire, select.POLLIN)
        self._listens = True

    def serve(self) -> None:
        """Until nobody is left who may want a file, or none has been wanted for some time. After
        SIGTERM it takes no more orders, and ends with its last helper. At the end no helper is
        left that can end."""
        while self._listens or self._helpers:
            ready = {fd for fd, _events in self._poll.poll(None if self._helpers else 1000 * IDLE)}
            if not ready:
                break
            for each in [h for h in self._helpers if h.conversation in ready]:
                self._let_go(each)
            for each in [h for h in self._helpers if h.pidfd in ready]:
                self._bury(each)
            if self._retire in ready:
                self._stop_listening()
            elif self._orders.fileno() in ready and not self._take_order():
                break
        for each in self._helpers:
            _kill(each)

    def _stop_listening(self) -> None:
        self._listens = False
        self._poll.unregister(self._retire)
        self._poll.unregister(self._orders)

    def _take_order(self) -> bool:
        """Returns whether there is still somebody who may give one."""
        try:
            message, descriptors = wire.receive(self._orders)
        except OSError:
            return False
        if not message:
            return False
        with socket.socket(fileno=descriptors[0]) as conversation:
            try:
                self._check_number(message["uid"])
                self._start_helper(conversation, message["uid"], writes=message["writes"])
            except OSError as error:
                with suppress(OSError):
                    wire.send(conversation, wire.failure(error))
        return True

    def _check_number(self, uid: int) -> None:
        of_user = sum(each.uid == uid for each in self._helpers)
        if of_user >= MOST_OF_A_USER or len(self._helpers) >= MOST:
            raise OSError(errno.EIO, f"{of_user} files of user {uid} do not answer")

    def _start_helper(self, conversation: socket.socket, uid: int, *, writes: bool) -> None:
        own_end = os.dup(conversation.fileno())
        broker = os.getpid()
        try:
            child = os.fork()
        except OSError:
            os.close(own_end)
            raise
        if child == 0:
            _help(own_end, writer.be_writer if writes else partial(helper.be_helper, broker=broker))
        started = _Helper(child, os.pidfd_open(child), uid, own_end, writes)
        self._helpers.append(started)
        self._poll.register(started.pidfd, select.POLLIN)
        # No event is asked for: that the other end is closed is told in any case.
        self._poll.register(started.conversation, 0)

    def _let_go(self, gone: _Helper) -> None:
        """The server wants nothing of it any more."""
        self._poll.unregister(gone.conversation)
        _kill(gone)

    def _bury(self, dead: _Helper) -> None:
        """It has ended."""
        os.waitpid(dead.pid, 0)
        self._helpers.remove(dead)
        self._poll.unregister(dead.pidfd)
        with suppress(KeyError):
            self._poll.unregister(dead.conversation)
        os.close(dead.pidfd)
        os.close(dead.conversation)


def main(arguments: Sequence[str]) -> int:
    """The whole life of the broker: its argument is the descriptor of the socket."""
    # The supervisor's mask, which waits for signals one by one, came with us.
    signal.pthread_sigmask(signal.SIG_SETMASK, [_RETIRE])
    syscalls.call_ourselves("msharefs-files")
    orders = _keep_only(int(arguments[0]))
    rights.forbid_new_privileges()
    if rights.CAP_SYS_PTRACE in rights.permitted():
        rights.keep_capabilities(_NEEDED & rights.permitted())
    # What is there now is looked at by no helper's garbage collection, so that it stays shared.
    gc.collect()
    gc.freeze()
    Broker(orders).serve()
    return 0


def _kill(wanted: _Helper) -> None:
    if wanted.writes:
        return
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(wanted.pidfd, signal.SIGKILL)


def _help(conversation: int, live: Callable[[socket.socket], None]) -> None:
    """The whole life of a helper."""
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Records are files of memory, and the limit of whoever started the mount is not meant for them.
        _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        live(_keep_only(conversation))
    finally:
        os._exit(0)


def _keep_only(conversation: int) -> socket.socket:
    """Let go of every other descriptor: a process that hangs keeps what it has open."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(_CONVERSATION):
        os.dup2(null, fd)
    os.dup2(conversation, _CONVERSATION, inheritable=False)
    os.closerange(_CONVERSATION + 1, _LAST_DESCRIPTOR)
    return socket.socket(fileno=_CONVERSATION)
