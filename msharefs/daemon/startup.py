"""Making a mount and taking it down: the order of its parts, in one exit stack.

Owns what is checked before, what is made in which order, and what stays behind: nothing
after a clean end or a failed start, the regions of a mount that ended otherwise.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from msharefs.daemon import logs, metrics_endpoint
from msharefs.daemon.backing import Backing, discard, make_backing
from msharefs.daemon.events import SIGNALS
from msharefs.daemon.failpoint import Failpoint
from msharefs.daemon.option_values import UsageError, shown_endpoint
from msharefs.daemon.options import MountOptions, log_level
from msharefs.daemon.place import mount_at, paths_of, users_of
from msharefs.daemon.server_process import ServerError
from msharefs.daemon.state import (
    DEVICES,
    LOG,
    Config,
    InUseError,
    StateDirectory,
    is_held,
    read_devices,
)
from msharefs.daemon.supervisor import (
    EXIT_MOUNT,
    EXIT_SYSTEM,
    EXIT_USAGE,
    MountError,
    Supervisor,
)
from msharefs.fuse import mounting
from msharefs.linux.host import is_privileged, logind_removes_ipc
from msharefs.state_layout import CONFIG, boot_id, state_base

log = logging.getLogger(__name__)

FUSE_DEVICE = "/dev/fuse"


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What the command line asks for. `mountpoint` is absolute and without links."""

    source: str
    mountpoint: str
    options: MountOptions
    foreground: bool
    servers_in: int | None = None
    """A descriptor of the mount namespace for servers, where the mount is made in another."""


def check_host(request: MountRequest) -> None:
    """Refuse early, with a sentence, what cannot work. Raises MountError."""
    mounted = mount_at(request.mountpoint) is not None
    if mounted and is_held(request.mountpoint, state_base()):
        raise MountError(f"{request.mountpoint} is already mounted", EXIT_MOUNT)
    if not mounted and not os.path.isdir(request.mountpoint):
        raise MountError(f"{request.mountpoint} is not a directory", EXIT_MOUNT)
    if (request.options.mpol or request.options.noswap) and not is_privileged():
        raise MountError("mpol and noswap need root: /dev/shm is the system's", EXIT_SYSTEM)
    if not os.path.exists(FUSE_DEVICE):
        raise MountError(f"there is no {FUSE_DEVICE}; try 'modprobe fuse'", EXIT_SYSTEM)
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise MountError(
            f"{FUSE_DEVICE} is not open to you; its usual mode is 0666 (chmod as root)", EXIT_SYSTEM
        )
    if mounting.helper_path() is None:
        raise MountError(f"{mounting.HELPER} is missing; install the package fuse3", EXIT_SYSTEM)


def supervise(request: MountRequest, announce: Callable[[], None]) -> None:
    """Make the mount, call `announce` when it answers, and hold it until it is gone.

    Raises MountError. Nothing is left behind, but what an earlier mount left, and the
    regions of a mount that did not end by umount: a later mount finds them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    with ExitStack() as stack:
        try:
            state = StateDirectory(request.mountpoint, state_base(), fresh=request.options.fresh)
            failpoint = Failpoint(request.options.crash, state.path, restarts=0)
            ending = Ending(state, failpoint)
            stack.callback(ending.take_down)
            supervisor = _build(request, ending, stack, failpoint)
        except InUseError as error:
            raise MountError(_already_served(request.mountpoint, str(error)), EXIT_MOUNT) from error
        except mounting.ChannelError as error:
            raise MountError(str(error), EXIT_MOUNT) from error
        except ServerError as error:
            # Somebody may have unmounted meanwhile: that is no fault of the machine.
            code = EXIT_SYSTEM if mount_at(request.mountpoint) else EXIT_MOUNT
            raise MountError(str(error), code) from error
        except UsageError as error:
            raise MountError(str(error), EXIT_USAGE) from error
        except OSError as error:
            raise MountError(f"cannot prepare the mount: {error}", EXIT_SYSTEM) from error
        announce()
        ending.keep = True
        supervisor.hold()
        ending.keep = False


class Ending:
    """How a mount's memory and state end: removed, or kept for a later mount."""

    def __init__(self, state: StateDirectory, failpoint: Failpoint) -> None:
        self.state = state
        self._failpoint = failpoint
        self.keep = state.left is not None
        self.backing: Backing | None = None

    def take_down(self) -> None:
        """The last step but the processes'."""
        if not self.keep:
            try:
                self.state.end()
            except OSError as error:
                log.warning("cannot note that the mount ends: %s", error)
        self._failpoint("end begun")
        if self.backing is not None and not self.keep:
            self.backing.destroy()
            self._failpoint("memory given back")
        if self.keep:
            self.state.keep()
        else:
            self.state.remove()


def _build(
    request: MountRequest, ending: Ending, stack: ExitStack, failpoint: Failpoint
) -> Supervisor:
    """Each thing made is taken down by the stack, in reverse order."""
    state, options = ending.state, request.options
    failpoint("state taken")
    if state.left is None:
        discard(state)
    logs.configure(foreground=request.foreground, level=log_level(options), file=state.file(LOG))
    _check_metrics(options)
    if state.left is not None:
        log.info("taking up the regions of a mount that ended without umount")
    _clean_dead_mount(request.mountpoint)
    ending.backing = backing = make_backing(state, options)
    failpoint("memory made")
    if not is_privileged() and logind_removes_ipc(os.geteuid()):
        log.warning("logind will delete the segments at logout: see RemoveIPC in logind.conf(5)")
    config = Config(
        request.source,
        request.mountpoint,
        options,
        request.foreground,
        os.getpid(),
        backing.address,
        boot_id(),
    )
    config.save(state.file(CONFIG))
    failpoint("configuration saved")
    device = mounting.mount(request.mountpoint, request.source, mount_options(options))
    failpoint("mounted")
    mount = mount_at(request.mountpoint)
    if mount is None:
        os.close(device)
        raise MountError("it was unmounted before it answered", EXIT_MOUNT)
    state.note_device(mount.device)
    supervisor = Supervisor(
        request.mountpoint,
        state,
        device,
        mount.device,
        request.servers_in,
        options.seccomp,
        failpoint,
    )
    stack.callback(supervisor.take_down)
    supervisor.start_server()
    return supervisor


def _check_metrics(options: MountOptions) -> None:
    """Who asks for metrics and cannot have them learns it now, and not from a gap in his graphs.
    A server that starts later goes on without: the mount is more important."""
    if options.metrics is None:
        return
    try:
        metrics_endpoint.check(*options.metrics)
    except OSError as error:
        raise MountError(
            f"option 'metrics': {shown_endpoint(options.metrics)} cannot be had: {error.strerror}",
            EXIT_SYSTEM,
        ) from error


def _clean_dead_mount(mountpoint: str) -> None:
    """We hold the lock, so a mount that is there has nobody who serves it."""
    if mount_at(mountpoint):
        log.info("unmounting %s, whose daemon is gone", mountpoint)
        mounting.detach(mountpoint)


def _already_served(mountpoint: str, state: str) -> str:
    """Where its mount is, or who has it still, for somebody who does not see it there."""
    devices = read_devices(os.path.join(state, DEVICES))
    if not devices:
        # Who has just taken the lock has not mounted yet.
        return f"{mountpoint} is already served"
    if paths := paths_of(devices[-1]):
        return f"{mountpoint} is already served: its mount is at {paths[0]} now"
    users = users_of(devices[-1]) or "what cannot be seen from here"
    return f"{mountpoint} is already served: the mount that was there is in use by {users}"


def mount_options(options: MountOptions) -> list[str]:
    """What fusermount3 is told. Root's mounts are for everybody, as a file system is; a
    user's only if he asks for it and /etc/fuse.conf lets him."""
    everybody = ["allow_other"] if options.allow_other or os.geteuid() == 0 else []
    return [*everybody, "default_permissions", *options.passed_on]
