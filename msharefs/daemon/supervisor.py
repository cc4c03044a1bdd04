"""The supervisor: holds /dev/fuse and the namespace, and keeps one server running.

Owns the server process and its replacement: after its death, and on request. It has a
single thread, imports neither trio nor pyfuse3, and never touches the mount that its
server serves. How a mount is made and taken down around it is in assembly.py.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from msharefs.daemon import namespace, notify
from msharefs.daemon.state import StateDirectory
from msharefs.fuse import channel

log = logging.getLogger(__name__)

EXIT_USAGE = 1
EXIT_SYSTEM = 2
EXIT_MOUNT = 32
"""Of the command, as mount(8) has them."""
EXIT_RESTART = 75
"""Of a server: it was asked to make room for another."""

START_TIMEOUT = 30.0
"""Seconds until a server serves."""
HEALTHY = 10.0
"""Seconds that a server lives if nothing is wrong with it."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds between tries to start a server."""

SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Blocked, and waited for one by one."""
_UNMOUNT = frozenset({signal.SIGTERM, signal.SIGINT})


class MountError(Exception):
    """The mount cannot be made or kept: a sentence for the user, and the exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class Supervisor:
    """Holder of the /dev/fuse descriptor and parent of the server."""

    def __init__(
        self,
        mountpoint: str,
        state: StateDirectory,
        device: int,
        namespace_fd: int | None,
        table: namespace.MountTable,
    ) -> None:
        """`device` is owned from here on; the others belong to the caller."""
        self._mountpoint = mountpoint
        self._state = state
        self._device = device
        self._namespace = namespace_fd
        self._table = table
        self._server: subprocess.Popen[bytes] | None = None
        self._leash: socket.socket | None = None
        self._restarts = 0
        self._started = 0.0
        # When the last server ended (time.monotonic), so that the next can tell the gap.
        self._gone_at = 0.0
        self._pauses = restart_pauses()

    def start_server(self) -> None:
        """Start a server and wait until it serves. Raises MountError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [self._state.path, self._device, theirs.fileno(), self._restarts, self._gone_at]
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "msharefs.daemon.server", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                pass_fds=[self._device, theirs.fileno()],
                start_new_session=True,
                preexec_fn=_unblock_signals,
            )
        self._drop_leash()
        self._leash = ours
        answer = _first_word(ours)
        if "error" in answer:
            raise MountError(answer["error"], EXIT_SYSTEM)
        self._started = time.monotonic()
        self._tune(answer["tuning"])

    def hold(self) -> None:
        """Until the mount is gone: SIGTERM and SIGINT unmount it, unless in use; SIGHUP and
        the death of a server bring a new one. Raises MountError if the mount is lost."""
        notify.tell("READY=1", f"STATUS=serving {self._mountpoint}")
        while True:
            received = signal.sigwaitinfo(SIGNALS).si_signo
            if received in _UNMOUNT:
                self._unmount()
            elif received == signal.SIGHUP:
                self._ask_to_stop()
            if self._server is None or self._server.poll() is None:
                continue
            if self._server.returncode == 0:
                break
            if not self._replace_server(self._server.returncode):
                break
        if self._table.find(self._mountpoint):
            raise MountError("the kernel ended the connection; mount again", EXIT_SYSTEM)

    def take_down(self) -> None:
        """End the server and the mount, whatever state they are in."""
        notify.tell("STOPPING=1")
        self._drop_leash()
        self._end_server()
        # The last descriptor: the kernel ends the connection if umount has not done so.
        os.close(self._device)
        try:
            channel.unmount(self._mountpoint, self._namespace, lazy=True)
        except channel.ChannelError as error:
            # The usual case: somebody unmounted it, and so everything ends.
            log.debug("nothing to unmount: %s", error)

    def _unmount(self) -> None:
        try:
            channel.unmount(self._mountpoint, self._namespace)
        except channel.ChannelError as error:
            log.error("cannot unmount %s: %s", self._mountpoint, error)

    def _ask_to_stop(self) -> None:
        """The server finishes what is in hand and ends with EXIT_RESTART."""
        notify.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        if self._leash is not None:
            with suppress(OSError):
                self._leash.send(b"stop")

    def _replace_server(self, code: int) -> bool:
        """Start servers until one serves, or nothing is left to be served. Requests wait in
        the kernel meanwhile. Returns whether one serves."""
        self._gone_at = time.monotonic()
        if code == EXIT_RESTART:
            log.info("the server stopped to be replaced")
        else:
            log.warning("the server ended with %d; starting a new one", code)
        # Whoever kills a server does not want it to be slow to come back; one that dies by
        # itself soon after its start will do so again.
        sick = code not in (EXIT_RESTART, -signal.SIGKILL)
        if not sick or time.monotonic() - self._started > HEALTHY:
            self._pauses = restart_pauses()
        for pause in self._pauses:
            if signal.sigtimedwait(_UNMOUNT, pause):
                self._unmount()
            if self._connection_is_gone():
                return False
            self._restarts += 1
            try:
                self.start_server()
            except MountError as error:
                log.error("the server cannot start, the mount waits: %s", error)
                self._end_server()
            else:
                notify.tell("READY=1", f"STATUS=serving {self._mountpoint} again")
                return True
        return False

    def _connection_is_gone(self) -> bool:
        """Whether the kernel has ended the connection, as after umount."""
        poll = select.poll()
        poll.register(self._device, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))

    def _end_server(self) -> None:
        if self._server is not None and self._server.poll() is None:
            self._server.kill()
            self._server.wait()

    def _drop_leash(self) -> None:
        if self._leash is not None:
            self._leash.close()
            self._leash = None

    def _tune(self, settings: dict[str, int]) -> None:
        """Set what the data plane wishes of the mount's backing device (sysfs; root only)."""
        mount = self._table.find(self._mountpoint)
        if mount is None or os.geteuid() != 0:
            return
        for name, value in settings.items():
            try:
                with open(f"/sys/class/bdi/{mount.device}/{name}", "w", encoding="ascii") as file:
                    file.write(str(value))
            except OSError as error:
                log.info("cannot set %s of the mount: %s", name, error)


def restart_pauses() -> Iterator[float]:
    """Seconds before each try: none at first, then longer and longer, and for ever."""
    yield 0.0
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def _first_word(leash: socket.socket) -> dict[str, Any]:
    """What a new server says: that it serves, or why it cannot."""
    leash.settimeout(START_TIMEOUT)
    try:
        message = leash.recv(1 << 16)
    except TimeoutError:
        return {"error": "the server did not answer in time"}
    except ConnectionResetError:
        message = b""
    answer: dict[str, Any] = (
        json.loads(message) if message else {"error": "the server ended at once"}
    )
    return answer


def _unblock_signals() -> None:
    """The server inherits the mask of the supervisor, which waits for signals."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
