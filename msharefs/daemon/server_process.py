"""One server process as its supervisor sees it: started, told to serve, to stop, ended.

Owns the process and the supervision socket, a pair on which the two talk: one JSON object a
message, and each sees the other's end by it. Knows nothing of what a server does, and not
when one is needed.

    server       {"loaded": true}                           all its code is in memory
                 or  {"error": "a sentence"}
    supervisor   {"serve": {"restarts": N, "gone_at": T, "cause": WHY, "kept": [NUMBER, ...]}}    it may wait long
                 for this; with a descriptor, its end of the keeper's socket (files/keeper.py)
    server       {"progress": "so much"}                    again and again, if there is much to do
    server       {"ready": true, "tuning": {...}}  or  {"error": "a sentence"}
    supervisor   {"stop": true}  or  {"not_replaced": "a sentence"}

The two may be of different versions: a supervisor starts what is installed now. What holds in all of them is how
a server begins that has another PROTOCOL: its second argument is that number, its last the socket, on
which it says an error.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Self

from msharefs.files.keeper import Keeper
from msharefs.fuse.in_service import Cause
from msharefs.linux import proc, syscalls
from msharefs.linux.sockets import said, said_with_descriptors

_PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "serve.py")

PROTOCOL = 2
"""Grows with each change of a server's arguments, or of what is said, that the other side of another version
could not live with."""
EXIT_RESTART = 75
"""Of a server: it was asked to make room for another."""
LARGEST_MESSAGE = 1 << 16
SILENCE = 30.0
"""Seconds after which a server that is waited for, and has said nothing, is given up. However
much there is to do, it says how far it is."""
FIRST_TO_GO = 1000
"""Where memory is short, of a server that does not serve yet (proc.oom_adjustment): the most, so
that also in a small memory group of our own it goes first. Without the one people wait a
moment longer; without the other the mount is lost."""


class ServerError(Exception):
    """A server cannot be started; the text says why."""


class ServerProcess:
    """A server, from its start to its end. Whoever makes one has to `end` it."""

    def __init__(
        self,
        supervision: socket.socket,
        process: subprocess.Popen[bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Our end of the supervision socket, and the process at the other; both are owned."""
        self._socket = supervision
        self._process = process
        self._clock = clock
        self._heard_at = clock()
        self._loaded = False
        self.progress = ""
        """How far it is, in words, if it has said so."""
        self.tuning: Mapping[str, int] | None = None
        """Settings that it wishes for its mount, once it serves."""

    @classmethod
    def start(
        cls, state: str, device: int, orders: Sequence[int], namespace: int | None = None
    ) -> Self:
        """A new one, in the mount namespace of that descriptor if it is not to be in ours. `orders` are
        the servers' ends of the sockets of the broker of files and of the notifier. It loads its code
        and then waits for `serve`. Raises ServerError."""
        try:
            return cls(*_start(state, [device, *orders], namespace))
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerError(f"no process for a server: {error}") from error

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs."""
        return self._process.poll()

    def loaded_within(self, seconds: float) -> bool:
        """Wait until all its code is in memory, but not longer. Raises ServerError."""
        if not self._loaded:
            self._listen(seconds)
        return self._loaded

    def serve(self, restarts: int, gone_at: float, cause: Cause, keeper: Keeper) -> None:
        """Let it serve. `restarts` counts the servers before it, of which the last ended at
        `gone_at` (time.monotonic) for that `cause`. From now on it is the one that `keeper` hears.
        Raises ServerError."""
        self._heard_at = self._clock()
        told = {"restarts": restarts, "gone_at": gone_at, "cause": cause.value}
        try:
            its_end = keeper.meet()
        except OSError as error:
            raise ServerError(f"no socket for the files that it writes: {error}") from error
        with its_end:
            self._tell({"serve": {**told, "kept": keeper.numbers}}, [its_end.fileno()])

    def serves_within(self, seconds: float) -> bool:
        """After `serve`: wait until it answers requests, but not longer. Raises ServerError."""
        if self.tuning is None:
            self._listen(seconds)
        return self.tuning is not None

    def count_as_any_other(self, oom_adjustment: int) -> None:
        """It serves, and shall not be the first any more that goes where memory is short."""
        # One that has ended is found out by its exit code.
        with suppress(OSError):
            proc.adjust_oom(self.pid, oom_adjustment)

    def ask_to_stop(self) -> None:
        """It finishes what is in hand and ends with EXIT_RESTART."""
        self._tell({"stop": True})

    def stays(self, why: str) -> None:
        """It was to be replaced, and is not: who asks it is told why."""
        self._tell({"not_replaced": why})

    def end(self) -> None:
        """Kill it, if it runs still, and forget it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _tell(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        # One that is gone is found out by its exit code, or by the missing answer.
        with suppress(OSError):
            send(self._socket, message, descriptors)

    def _listen(self, seconds: float) -> None:
        """Take note of its next message, if one comes in time."""
        if not select.select([self._socket], [], [], seconds)[0]:
            if self._clock() - self._heard_at > SILENCE:
                raise ServerError(f"the server has said nothing for {SILENCE:.0f} seconds")
            return
        self._heard_at = self._clock()
        message = receive(self._socket)
        if message is None:
            raise ServerError("the server ended at once")
        if "error" in message:
            raise ServerError(message["error"])
        self._loaded = self._loaded or "loaded" in message
        self.progress = message.get("progress", self.progress)
        self.tuning = message.get("tuning", self.tuning)


def _start(
    state: str, given: Sequence[int], namespace: int | None
) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Our end of the supervision socket, and the process at the other."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    inherited = [*given, theirs.fileno()]
    arguments = [state, PROTOCOL, *inherited]
    with theirs:
        try:
            return ours, subprocess.Popen(
                [sys.executable, "-I", "-S", _PROGRAM, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                pass_fds=inherited,
                start_new_session=True,
                preexec_fn=partial(_begin, namespace),
            )
        except BaseException:
            ours.close()
            raise


def _begin(namespace: int | None) -> None:
    """What the child does before it becomes a server. The supervisor has one thread, so running
    Python between fork and exec is safe."""
    with suppress(OSError):
        proc.adjust_oom(os.getpid(), max(FIRST_TO_GO, proc.oom_adjustment()))
    if namespace is not None:
        syscalls.setns(namespace, syscalls.CLONE_NEWNS)


def send(
    supervision: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()
) -> None:
    """One message to the other side. Raises OSError if it is gone."""
    socket.send_fds(supervision, [json.dumps(message).encode()], descriptors)


def receive(supervision: socket.socket) -> Mapping[str, Any] | None:
    """One message of the other side, or None if it is gone."""
    return _parsed(said(supervision, LARGEST_MESSAGE))


def receive_with_socket(
    supervision: socket.socket,
) -> tuple[Mapping[str, Any] | None, socket.socket | None]:
    """The same with a socket that came along, which is the caller's."""
    message, descriptors = said_with_descriptors(supervision, LARGEST_MESSAGE)
    return _parsed(message), socket.socket(fileno=descriptors[0]) if descriptors else None


def _parsed(message: bytes) -> Mapping[str, Any] | None:
    if not message:
        return None
    parsed: Mapping[str, Any] = json.loads(message)
    return parsed
