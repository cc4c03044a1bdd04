"""The supervisor: holds /dev/fuse and the namespace, and keeps one server running.

Owns when a server is started, replaced and stopped, and the standby: a second server that
has loaded its code and waits, so that a replacement answers at once. It has a single
thread, imports neither trio nor pyfuse3, and never touches the mount that its server
serves. How a mount is made and taken down around it is in startup.py.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping

from msharefs.daemon import namespace, systemd
from msharefs.daemon.failpoint import Failpoint
from msharefs.daemon.server_process import EXIT_RESTART, ServerError, ServerProcess
from msharefs.daemon.state import StateDirectory
from msharefs.fuse import mounting

log = logging.getLogger(__name__)

EXIT_USAGE = 1
EXIT_SYSTEM = 2
EXIT_INTERRUPTED = 8
EXIT_MOUNT = 32
"""Of the command, as mount(8) has them."""

HEALTHY = 10.0
"""Seconds that a server lives if nothing is wrong with it."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0
"""Seconds between tries to start a server."""
STANDBY_DELAY = 0.5
"""Seconds that a server serves before a standby is made: a mount may be short-lived, and just
after a start there is other work."""

START_TIMEOUT = 30.0
"""Seconds until a server has done what it is waited for."""
LOOK = 0.1
"""Seconds between looks at what else happens while a server is waited for."""

SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Blocked, and waited for one by one."""
_UNMOUNT = frozenset({signal.SIGTERM, signal.SIGINT})


class MountError(Exception):
    """The mount cannot be made or kept: a sentence for the user, and the exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class Supervisor:
    """Holder of the /dev/fuse descriptor and parent of the servers."""

    def __init__(
        self,
        mountpoint: str,
        state: StateDirectory,
        device: int,
        namespace_fd: int | None,
        table: namespace.MountTable,
        failpoint: Failpoint,
    ) -> None:
        """`device` is owned from here on; the others belong to the caller. `failpoint` is
        called at each step, for tests that end the process there."""
        self._mountpoint = mountpoint
        self._state = state
        self._device = device
        self._namespace = namespace_fd
        self._table = table
        self._failpoint = failpoint
        self._server: ServerProcess | None = None
        self._standby: ServerProcess | None = None
        self._standby_due = False
        self._restarts = 0
        self._started = 0.0
        # When the last server ended (time.monotonic), so that the next can tell the gap.
        self._gone_at = 0.0
        self._pauses = restart_pauses()

    def start_server(self) -> None:
        """Have a server and wait until it serves. Raises ServerError."""
        self._server = self._take_standby() or self._launch()
        self._failpoint("server started")
        self._server.serve(self._restarts, self._gone_at)
        self._wait(self._server.serves_within)
        self._failpoint("server serves")
        self._started = time.monotonic()
        self._standby_due = True
        self._tune(self._server.tuning or {})

    def hold(self) -> None:
        """Until the mount is gone: SIGTERM and SIGINT unmount it, unless in use; SIGHUP and
        the death of a server bring a new one. Raises MountError if the mount is lost."""
        systemd.tell("READY=1", f"STATUS=serving {self._mountpoint}")
        while True:
            received = self._next_signal()
            if received is None:
                self._try_to_make_standby()
            elif received in _UNMOUNT:
                self._unmount()
            elif received == signal.SIGHUP:
                self._upgrade()
            code = self._exit_code()
            if code is None:
                continue
            if code == 0 or not self._replace_server(code):
                break
        # Whoever aborts a connection will unmount what is left, but did not mean the regions.
        if self._was_aborted() or self._table.find(self._mountpoint):
            raise MountError("the kernel ended the connection; mount again", EXIT_SYSTEM)

    def take_down(self) -> None:
        """End the servers and the mount, whatever state they are in."""
        self._failpoint("taking down")
        systemd.tell("STOPPING=1")
        self._end_standby()
        self._end_server()
        self._failpoint("servers ended")
        # The last descriptor: the kernel ends the connection if umount has not done so.
        os.close(self._device)
        self._failpoint("connection ended")
        try:
            mounting.unmount(self._mountpoint, self._namespace, lazy=True)
        except mounting.ChannelError as error:
            # The usual case: somebody unmounted it, and so everything ends.
            log.debug("nothing to unmount: %s", error)

    def _next_signal(self) -> signal.Signals | None:
        """Wait for it; None when a standby should be made."""
        if not self._standby_due:
            return signal.Signals(signal.sigwaitinfo(SIGNALS).si_signo)
        received = signal.sigtimedwait(SIGNALS, STANDBY_DELAY)
        return signal.Signals(received.si_signo) if received else None

    def _unmount(self) -> None:
        try:
            mounting.unmount(self._mountpoint, self._namespace)
        except mounting.ChannelError as error:
            log.error("cannot unmount %s: %s", self._mountpoint, error)

    def _launch(self) -> ServerProcess:
        return ServerProcess(self._state.path, self._device)

    def _try_to_make_standby(self) -> None:
        """From the code now installed. Without one, or if it dies, the next server starts late."""
        self._standby_due = False
        try:
            self._have_standby(self._launch())
        except ServerError as error:
            log.warning("no standby server: %s", error)

    def _have_standby(self, standby: ServerProcess) -> None:
        self._end_standby()
        self._standby = standby
        self._standby_due = False
        self._failpoint("standby made")

    def _take_standby(self) -> ServerProcess | None:
        standby, self._standby = self._standby, None
        if standby is not None and standby.poll() is not None:
            standby.end()
            return None
        return standby

    def _upgrade(self) -> None:
        """Have the server replaced by one from the code that is installed now. It goes on
        serving until that code is loaded, and stays if it cannot be."""
        if self._server is None or self._exit_code() is not None:
            return
        systemd.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            newer = self._load()
        except ServerError as error:
            log.error("the code now installed does not load, the old server goes on: %s", error)
            systemd.tell("READY=1", f"STATUS=serving {self._mountpoint}, not upgraded")
            return
        self._have_standby(newer)
        self._server.ask_to_stop()
        self._failpoint("server asked to stop")

    def _load(self) -> ServerProcess:
        """A server whose code is in memory. Raises ServerError, also if the one that serves
        dies meanwhile."""
        newer = self._launch()

        def loaded_within(seconds: float) -> bool:
            if self._exit_code() is not None:
                raise ServerError("the server died meanwhile")
            return newer.loaded_within(seconds)

        try:
            self._wait(loaded_within)
        except ServerError:
            newer.end()
            raise
        return newer

    def _wait(self, done_within: Callable[[float], bool]) -> None:
        """Until a server has done it. Raises ServerError if it takes too long, or we shall
        unmount: whoever said so is not kept waiting."""
        deadline = time.monotonic() + START_TIMEOUT
        while not done_within(LOOK):
            if time.monotonic() > deadline:
                raise ServerError("the server did not answer in time")
            if signal.sigpending() & _UNMOUNT:
                raise ServerError("told to unmount meanwhile")

    def _replace_server(self, code: int) -> bool:
        """Start servers until one serves, or nothing is left to be served. Requests wait in
        the kernel meanwhile. Returns whether one serves."""
        self._gone_at = time.monotonic()
        self._end_server()
        self._failpoint("server gone")
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
            except ServerError as error:
                log.error("the server cannot start, the mount waits: %s", error)
                systemd.tell(f"STATUS=no server for {self._mountpoint}: {error}")
                self._end_server()
            else:
                systemd.tell("READY=1", f"STATUS=serving {self._mountpoint} again")
                return True
        return False

    def _exit_code(self) -> int | None:
        """Of the server; None while it runs."""
        return None if self._server is None else self._server.poll()

    def _connection_is_gone(self) -> bool:
        """Whether the kernel has ended the connection, as after umount."""
        poll = select.poll()
        poll.register(self._device, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))

    def _was_aborted(self) -> bool:
        """Of a connection that is gone: whether by fusectl, and not by umount."""
        if not self._connection_is_gone():
            return False
        try:
            os.read(self._device, mounting.REQUEST_ROOM)
        except OSError as error:
            return error.errno == errno.ECONNABORTED
        return False

    def _end_server(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None

    def _end_standby(self) -> None:
        if self._standby is not None:
            self._standby.end()
            self._standby = None

    def _tune(self, settings: Mapping[str, int]) -> None:
        """Set what the data plane wishes of the mount's backing device (sysfs; root only)."""
        mount = self._table.find(self._mountpoint)
        if mount is None or os.geteuid() != 0:
            return
        device = f"{os.major(mount.device)}:{os.minor(mount.device)}"
        for name, value in settings.items():
            try:
                with open(f"/sys/class/bdi/{device}/{name}", "w", encoding="ascii") as file:
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
