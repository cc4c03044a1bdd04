"""The supervisor: holds /dev/fuse, and keeps one server running.

Owns when a server is started, replaced and stopped, and the standby: a second server that
has loaded its code and waits, so that a replacement answers at once. It has a single
thread, imports neither trio nor pyfuse3, and never touches the mount that its server
serves. How a mount is made and taken down around it is in startup.py.

It keeps the mount namespace and the root directory of whoever started it, so that it sees
the mount where its users do.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping

from msharefs.daemon import caller, systemd
from msharefs.daemon.events import Event, Events
from msharefs.daemon.failpoint import Failpoint
from msharefs.daemon.on_demand import OnDemand
from msharefs.daemon.place import paths_of, users_of
from msharefs.daemon.server_process import EXIT_RESTART, SILENCE, ServerError, ServerProcess
from msharefs.daemon.state import StateDirectory
from msharefs.files.keeper import Keeper
from msharefs.fuse import mounting
from msharefs.fuse.in_service import Cause
from msharefs.linux import proc

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

ENDS = 3
"""Servers that begin after the mount is gone, to write files."""
LOOK = 0.1
"""Seconds between looks at what else happens while a server is waited for."""
UMOUNT_TIME = 1.0
"""Seconds that a mount gets to end after its umount, before the log says what keeps it."""

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
        connection: int,
        servers_in: int | None,
        seccomp: str,
        failpoint: Failpoint,
    ) -> None:
        """`device` is the /dev/fuse descriptor, owned from here on; `connection` is the st_dev
        of its mount, `servers_in` the descriptor of the mount namespace for servers, if it is
        not ours. `seccomp` is the option's word. `failpoint` is called at each step, for tests that end the process there.
        Raises OSError."""
        self._mountpoint = mountpoint
        self._state = state
        self._device = device
        self._connection = connection
        self._servers_in = servers_in
        self._failpoint = failpoint
        self._files = OnDemand("broker of files", "msharefs.files.broker", namespace=servers_in)
        self._notifier = OnDemand(
            "process that drops pages",
            "msharefs.daemon.notifier",
            [device],
            [seccomp],
        )
        self._on_demand = (self._files, self._notifier)
        self._keeper = Keeper()
        self._events = Events([each.fileno() for each in self._on_demand])
        self._has_terminal = caller.has_terminal()
        self._server: ServerProcess | None = None
        self._standby: ServerProcess | None = None
        # What is due, and when (time.monotonic).
        self._standby_at: float | None = None
        self._look_at: float | None = None
        self._was_kept = False
        self._restarts = 0
        self._ends = 0
        self._started = 0.0
        # When the last server ended (time.monotonic), so that the next can tell the gap, and why.
        self._gone_at = 0.0
        self._cause = Cause.NONE
        self._oom_kills = 0
        self._pauses = restart_pauses()
        self._oom_adjustment = proc.oom_adjustment()

    def start_server(self) -> None:
        """Have a server and wait until it serves. Raises ServerError."""
        self._server = self._take_standby() or self._launch()
        self._failpoint("server started")
        self._oom_kills = proc.oom_kills()
        self._server.serve(self._restarts, self._gone_at, self._cause, self._keeper)
        self._wait(self._server, self._server.serves_within)
        self._server.count_as_any_other(self._oom_adjustment)
        self._failpoint("server serves")
        self._started = time.monotonic()
        self._standby_at = self._started + STANDBY_DELAY
        self._tune(self._server.tuning or {})

    def hold(self) -> None:
        """Until the mount is gone: SIGTERM and SIGINT unmount it, unless in use; SIGHUP and
        the death of a server bring a new one. Raises MountError if the mount is lost."""
        systemd.tell("READY=1", f"STATUS=serving {self._mountpoint}")
        while True:
            event = self._next_event()
            if event.keeper_asked:
                self._keeper.serve()
            if event.signal in _UNMOUNT or (event.signal == signal.SIGHUP and self._is_left()):
                self._unmount()
            elif event.signal == signal.SIGHUP:
                self._upgrade()
            if event.mounts_changed:
                self._look_at = time.monotonic() + UMOUNT_TIME
            self._do_what_is_due()
            code = self._exit_code()
            if code is None:
                continue
            if code == 0 or not self._replace_server(code):
                break
        # Who aborts a connection (/sys/fs/fuse) wants to be rid of the mount, not of the regions.
        if self._was_aborted() or paths_of(self._connection):
            raise MountError("the kernel ended the connection; mount again", EXIT_SYSTEM)

    def take_down(self) -> None:
        """End the servers and the mount, whatever state they are in. Afterwards the descriptor of
        /dev/fuse is closed, and with the last one the kernel ends the connection. Raises OSError
        where the table of mounts cannot be read."""
        self._failpoint("taking down")
        systemd.tell("STOPPING=1")
        self._end_standby()
        self._end_server()
        for each in self._on_demand:
            each.end()
        self._failpoint("servers ended")
        # The last descriptor: the kernel ends the connection if umount has not done so.
        os.close(self._device)
        self._failpoint("connection ended")
        for path in paths_of(self._connection):
            try:
                mounting.detach(path)
            except mounting.ChannelError as error:
                log.debug("nothing to unmount: %s", error)

    def _next_event(self) -> Event:
        """What has happened, or is due; who was ordered is there then."""
        for each in self._on_demand:
            self._events.watch_orders(each.fileno(), each.is_missed())
        event = self._events.wait(self._time_left(), self._keeper.fileno())
        for each in self._on_demand:
            if each.fileno() in event.ordered:
                each.start()
        return event

    def _time_left(self) -> float | None:
        """Seconds until something is due."""
        now = time.monotonic()
        times = [each - now for each in (self._standby_at, self._look_at) if each is not None]
        times += [pause for each in self._on_demand if (pause := each.pause()) > 0]
        return min(times) if times else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._standby_at is not None and self._standby_at <= now:
            self._try_to_make_standby()
        if self._look_at is not None and self._look_at <= now:
            self._look_at = None
            is_kept = self._is_kept()
            if is_kept and not self._was_kept:
                self._say_what_keeps_it()
            self._was_kept = is_kept

    def _is_left(self) -> bool:
        """Whether the terminal that we were started at is gone: a hang-up means that, then, and
        not that another server is wanted."""
        return self._has_terminal and not caller.has_terminal()

    def _unmount(self) -> None:
        """Everywhere. What is in use stays, and goes on being served."""
        for path in paths_of(self._connection):
            try:
                mounting.unmount(path)
            except mounting.ChannelError as error:
                users = users_of(self._connection)
                log.error("cannot unmount %s: %s%s", path, error, users and f"; used by {users}")
        if self._is_kept():
            self._say_what_keeps_it()

    def _is_kept(self) -> bool:
        """Whether somebody still uses a mount that has been unmounted."""
        return not (self._connection_is_gone() or paths_of(self._connection))

    def _say_what_keeps_it(self) -> None:
        users = users_of(self._connection) or "what cannot be seen from here"
        log.warning("%s was unmounted, but is still in use by %s", self._mountpoint, users)

    def _launch(self) -> ServerProcess:
        orders = [each.orders for each in self._on_demand]
        return ServerProcess.start(self._state.path, self._device, orders, self._servers_in)

    def _try_to_make_standby(self) -> None:
        """From the code now installed. Without one, or if it dies, the next server starts late."""
        self._standby_at = None
        try:
            self._have_standby(self._launch())
        except ServerError as error:
            log.warning("no standby server: %s", error)

    def _have_standby(self, standby: ServerProcess) -> None:
        self._end_standby()
        self._standby = standby
        self._standby_at = None
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
            self._server.stays(str(error))
            systemd.tell("READY=1", f"STATUS=serving {self._mountpoint}, not upgraded")
            return
        self._have_standby(newer)
        for each in self._on_demand:
            each.retire()
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
            self._wait(newer, loaded_within)
        except ServerError:
            newer.end()
            raise
        return newer

    def _wait(self, server: ServerProcess, done_within: Callable[[float], bool]) -> None:
        """Until a server has done it, as long as it goes on. Raises ServerError if it does not,
        or if we shall unmount: whoever said so is not kept waiting."""
        told = ""
        while not done_within(LOOK):
            # Who still serves may have to write files meanwhile.
            self._keeper.serve()
            if signal.sigpending() & _UNMOUNT:
                raise ServerError("told to unmount meanwhile")
            if server.progress != told:
                told = server.progress
                systemd.tell(
                    f"STATUS=taking up {self._mountpoint}: {told}",
                    f"EXTEND_TIMEOUT_USEC={int(SILENCE * 1e6)}",
                )

    def _replace_server(self, code: int) -> bool:
        """Start servers until one serves, or nothing is left to be served. Requests wait in
        the kernel meanwhile. Returns whether one serves."""
        self._gone_at = time.monotonic()
        self._cause = self._cause_of(code)
        self._end_server()
        self._failpoint("server gone")
        if code == EXIT_RESTART:
            log.info("the server stopped to be replaced")
        else:
            log.warning("the server ended with %d; starting a new one", code)
        # A server that was killed is replaced at once; one that ends by itself soon after its
        # start will do so again, so the pauses grow.
        sick = code not in (EXIT_RESTART, -signal.SIGKILL)
        if not sick or time.monotonic() - self._started > HEALTHY:
            self._pauses = restart_pauses()
        for pause in self._pauses:
            if signal.sigtimedwait(_UNMOUNT, pause):
                self._unmount()
            if self._connection_is_gone() and not self._owes_files():
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

    def _owes_files(self) -> bool:
        """Whether a server has died while it wrote files at the end of the mount, and another may
        do it. A few times: there is nobody who waits for it but that."""
        self._ends += 1
        return len(self._keeper) > 0 and self._ends <= ENDS

    def _cause_of(self, code: int) -> Cause:
        """Why the server has ended with this exit code, as far as that can be told."""
        if code == EXIT_RESTART:
            return Cause.NONE
        if code != -signal.SIGKILL:
            return Cause.FAILURE
        return Cause.MEMORY if proc.oom_kills() > self._oom_kills else Cause.KILLED

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
        if os.geteuid() != 0:
            return
        device = f"{os.major(self._connection)}:{os.minor(self._connection)}"
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
