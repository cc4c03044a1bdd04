"""The supervisor: makes the namespace, the arena and the mount, and holds /dev/fuse.

Owns everything that has to be taken down again, in one exit stack, and the one server
process. It has a single thread, imports neither trio nor pyfuse3, and never touches the
mount that its server serves.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from msharefs.daemon import logs, namespace
from msharefs.daemon.home import logind_removes_segments, make_home, privileged
from msharefs.daemon.options import MountOptions, log_level
from msharefs.daemon.state import Config, InUseError, StateDirectory, state_base
from msharefs.fuse import channel

log = logging.getLogger(__name__)

EXIT_USAGE = 1
EXIT_SYSTEM = 2
EXIT_MOUNT = 32
"""As mount(8) has them."""

START_TIMEOUT = 30.0
"""Seconds until a server has answered INIT."""
FUSE_DEVICE = "/dev/fuse"
_SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class MountError(Exception):
    """The mount cannot be made: a sentence for the user, and the exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks for. `mountpoint` is absolute and without links."""

    source: str
    mountpoint: str
    options: MountOptions
    foreground: bool


def check_host(request: Request) -> None:
    """Refuse early, with a sentence, what cannot work. Raises MountError."""
    if not os.path.isdir(request.mountpoint):
        raise MountError(f"{request.mountpoint} is not a directory", EXIT_MOUNT)
    with closing(namespace.MountTable()) as table:
        if table.find(request.mountpoint):
            raise MountError(f"{request.mountpoint} is already mounted", EXIT_MOUNT)
    if (request.options.mpol or request.options.noswap) and not privileged():
        raise MountError("mpol and noswap need root: /dev/shm is the system's", EXIT_SYSTEM)
    if not os.path.exists(FUSE_DEVICE):
        raise MountError(f"there is no {FUSE_DEVICE}; try 'modprobe fuse'", EXIT_SYSTEM)
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise MountError(
            f"{FUSE_DEVICE} is not open to you; its usual mode is 0666 (chmod as root)", EXIT_SYSTEM
        )
    if channel.helper_path() is None:
        raise MountError(f"{channel.HELPER} is missing; install the package fuse3", EXIT_SYSTEM)


def supervise(request: Request, announce: Callable[[], None]) -> None:
    """Make the mount, call `announce` when it answers, and hold it until it is gone.

    Raises MountError; whatever happens, nothing is left behind.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    with ExitStack() as stack:
        try:
            supervisor = _build(request, stack)
        except InUseError as error:
            raise MountError(f"{request.mountpoint} is already served", EXIT_MOUNT) from error
        except channel.ChannelError as error:
            raise MountError(str(error), EXIT_MOUNT) from error
        except OSError as error:
            raise MountError(f"cannot prepare the mount: {error}", EXIT_SYSTEM) from error
        announce()
        supervisor.wait()


def _build(request: Request, stack: ExitStack) -> Supervisor:
    """Each thing made is taken down by the stack, in reverse order."""
    state = StateDirectory(request.mountpoint, state_base())
    stack.callback(state.remove)
    options = request.options
    logs.configure(foreground=request.foreground, level=log_level(options), file=state.log)
    table = namespace.MountTable()
    stack.callback(table.close)
    home = make_home(state, options)
    stack.callback(home.take_down)
    if home.namespace is None and logind_removes_segments():
        log.warning(
            "systemd-logind will delete the segments at logout: see RemoveIPC in logind.conf(5)"
        )
    config = Config(
        request.source,
        request.mountpoint,
        options,
        request.foreground,
        os.getpid(),
        home.address,
    )
    config.save(state.config)
    device = channel.mount(
        request.mountpoint, request.source, mount_options(options), home.namespace
    )
    supervisor = Supervisor(request.mountpoint, state, device, home.namespace, table)
    stack.callback(supervisor.take_down)
    supervisor.start_server()
    return supervisor


def mount_options(options: MountOptions) -> list[str]:
    """What fusermount3 is told. Root's mounts are for everybody, as a file system is; a
    user's only if he asks for it and /etc/fuse.conf lets him."""
    everybody = ["allow_other"] if options.allow_other or os.geteuid() == 0 else []
    return [*everybody, "default_permissions", *options.passed_on]


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

    def start_server(self) -> None:
        """Start a server and wait until it has answered INIT. Raises MountError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        arguments = [self._state.config, self._state.log, str(self._device), str(theirs.fileno())]
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", "msharefs.daemon.server", *arguments],
                stdin=subprocess.DEVNULL,
                pass_fds=[self._device, theirs.fileno()],
                start_new_session=True,
                preexec_fn=_unblock_signals,
            )
        self._leash = ours
        ours.settimeout(START_TIMEOUT)
        try:
            message = ours.recv(1 << 16)
        except TimeoutError as error:
            raise MountError("the server did not answer in time", EXIT_SYSTEM) from error
        answer: dict[str, Any] = (
            json.loads(message) if message else {"error": "the server ended at once"}
        )
        if "error" in answer:
            raise MountError(answer["error"], EXIT_SYSTEM)
        self._tune(answer["tuning"])

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

    def wait(self) -> None:
        """Until the server has ended. SIGTERM and SIGINT unmount, unless in use."""
        assert self._server is not None
        while self._server.poll() is None:
            if signal.sigwaitinfo(_SIGNALS).si_signo in (signal.SIGTERM, signal.SIGINT):
                self._unmount()
        if self._server.returncode:
            raise MountError(
                f"the server ended with {self._server.returncode}; the mount is lost", EXIT_SYSTEM
            )

    def take_down(self) -> None:
        """End the server and the mount, whatever state they are in."""
        if self._leash is not None:
            self._leash.close()
        if self._server is not None and self._server.poll() is None:
            self._server.kill()
            self._server.wait()
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


def _unblock_signals() -> None:
    """The server inherits the mask of the supervisor, which waits for signals."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
