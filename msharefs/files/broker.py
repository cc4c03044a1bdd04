"""The broker: starts a helper for each file that a server wants, and ends those that hang.

Owns the processes. It is forked from a server before that gives up its rights, so that it can look
into every caller, and it ends with the server. It touches no file and waits for no helper: one
that hangs in a system call can be killed, and is gone when the system call is. How many there may
be is bounded, for each user and in all.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass

from msharefs.files import helper, wire
from msharefs.files.wire import Wanted
from msharefs.linux import proc, rights, syscalls

MOST = 32
MOST_OF_A_USER = 8
"""Helpers that there are at a time, those that hang included."""

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
_CONVERSATION = 3
"""The descriptor of the socket of a process that was forked here."""
_LAST_DESCRIPTOR = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class _Helper:
    """A helper that there is. `conversation` is its own end, by which the server's end is seen."""

    pid: int
    pidfd: int
    uid: int
    conversation: int


def start() -> socket.socket:
    """Fork a broker from this process, which has one thread. Returns our end of its socket, with
    whose end it ends. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = os.getppid()
    with theirs:
        try:
            child = os.fork()
        except OSError:
            ours.close()
            raise
        if child == 0:
            _live(theirs.detach(), supervisor)
    return ours


class Broker:
    """The helpers that there are, and the socket on which more are asked for."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._helpers: list[_Helper] = []
        self._poll = select.poll()
        self._poll.register(server, select.POLLIN)

    def serve(self) -> None:
        """Until the server is gone; then no helper is left that can end."""
        while True:
            ready = {fd for fd, _events in self._poll.poll()}
            for each in [h for h in self._helpers if h.conversation in ready]:
                self._let_go(each)
            for each in [h for h in self._helpers if h.pidfd in ready]:
                self._bury(each)
            if self._server.fileno() in ready and not self._listen():
                break
        for each in self._helpers:
            _kill(each)

    def _listen(self) -> bool:
        """Take an order. Returns whether there is still a server."""
        try:
            message, descriptors = wire.receive(self._server)
        except OSError:
            return False
        if not message:
            return False
        with socket.socket(fileno=descriptors[0]) as conversation:
            wanted = Wanted(**message)
            try:
                self._check_number(wanted.uid)
                self._start_helper(conversation, wanted)
            except OSError as error:
                with suppress(OSError):
                    wire.send(conversation, wire.failure(error))
        return True

    def _check_number(self, uid: int) -> None:
        of_user = sum(each.uid == uid for each in self._helpers)
        if of_user >= MOST_OF_A_USER or len(self._helpers) >= MOST:
            raise OSError(errno.EIO, f"{of_user} files of user {uid} do not answer")

    def _start_helper(self, conversation: socket.socket, wanted: Wanted) -> None:
        own_end = os.dup(conversation.fileno())
        try:
            child = os.fork()
        except OSError:
            os.close(own_end)
            raise
        if child == 0:
            _help(own_end, wanted)
        started = _Helper(child, os.pidfd_open(child), wanted.uid, own_end)
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


def _kill(wanted: _Helper) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(wanted.pidfd, signal.SIGKILL)


def _live(server: int, supervisor: int) -> None:
    """The whole life of the broker."""
    try:
        # It is small and should be there as long as the server, which is not the first to go for
        # want of memory once it serves.
        with suppress(OSError):
            proc.adjust_oom(os.getpid(), proc.oom_adjustment(supervisor))
        # What is there now is looked at by no helper's garbage collection, so that it stays shared.
        gc.freeze()
        syscalls.call_ourselves("msharefs-files")
        os.chdir("/")
        conversation = _keep_only(server)
        rights.forbid_new_privileges()
        if rights.CAP_SYS_PTRACE in rights.permitted():
            rights.keep_capabilities(_NEEDED & rights.permitted())
        Broker(conversation).serve()
    finally:
        os._exit(0)


def _help(conversation: int, wanted: Wanted) -> None:
    """The whole life of a helper."""
    try:
        helper.be_helper(_keep_only(conversation), wanted)
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
