"""Making a mount and taking it down: the order of its parts, in one exit stack.

Owns what is checked before, what is made in which order, and what stays behind: nothing
after a clean end or a failed start, the regions of a mount that ended otherwise.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

from msharefs.daemon import logs, namespace
from msharefs.daemon.backing import (
    Backing,
    discard,
    make_backing,
)
from msharefs.daemon.failpoint import Failpoint
from msharefs.daemon.options import MountOptions, log_level
from msharefs.daemon.server_process import ServerError
from msharefs.daemon.state import LOG, Config, InUseError, StateDirectory, is_held
from msharefs.daemon.supervisor import EXIT_MOUNT, EXIT_SYSTEM, SIGNALS, MountError, Supervisor
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


def check_host(request: MountRequest) -> None:
    """Refuse early, with a sentence, what cannot work. Raises MountError."""
    with closing(namespace.MountTable()) as table:
        mounted = table.find(request.mountpoint) is not None
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
    failpoint = Failpoint(request.options.crash, restarts=0)
    with ExitStack() as stack:
        try:
            ending = Ending(
                StateDirectory(request.mountpoint, state_base(), fresh=request.options.fresh),
                failpoint,
            )
            stack.callback(ending.take_down)
            supervisor = _build(request, ending, stack, failpoint)
        except InUseError as error:
            raise MountError(f"{request.mountpoint} is already served", EXIT_MOUNT) from error
        except mounting.ChannelError as error:
            raise MountError(str(error), EXIT_MOUNT) from error
        except ServerError as error:
            raise MountError(str(error), EXIT_SYSTEM) from error
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
        if self.backing is not None:
            self.backing.leave()
            self._failpoint("memory left")
            if not self.keep:
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
    if state.left is not None:
        log.info("taking up the regions of a mount that ended without umount")
    table = namespace.MountTable()
    stack.callback(table.close)
    _clean_dead_mount(request.mountpoint, table)
    ending.backing = backing = make_backing(state, options)
    failpoint("memory made")
    if backing.namespace is None and logind_removes_ipc(os.geteuid()):
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
    device = mounting.mount(
        request.mountpoint, request.source, mount_options(options), backing.namespace
    )
    failpoint("mounted")
    mounted = table.find(request.mountpoint)
    if mounted is not None:
        state.note_device(mounted.device)
    supervisor = Supervisor(request.mountpoint, state, device, backing.namespace, table, failpoint)
    stack.callback(supervisor.take_down)
    supervisor.start_server()
    return supervisor


def _clean_dead_mount(mountpoint: str, table: namespace.MountTable) -> None:
    """We hold the lock, so a mount that is there has nobody who serves it."""
    if table.find(mountpoint):
        log.info("unmounting %s, whose daemon is gone", mountpoint)
        mounting.unmount(mountpoint, None, lazy=True)


def mount_options(options: MountOptions) -> list[str]:
    """What fusermount3 is told. Root's mounts are for everybody, as a file system is; a
    user's only if he asks for it and /etc/fuse.conf lets him."""
    everybody = ["allow_other"] if options.allow_other or os.geteuid() == 0 else []
    return [*everybody, "default_permissions", *options.passed_on]
