"""Where a mount keeps its memory: a private tmpfs for root, the system's /dev/shm else.

Owns making either, a server's way to it, and taking it down, so that supervisor and server
need not know which it is. How segments are made and counted is memory's.

A server sees a private tmpfs at /dev/shm of a mount namespace of its own. The supervisor stays
in the namespace, and under the root directory, in which the command was started.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from typing import Protocol

from msharefs.core.ports import Memory
from msharefs.daemon.option_values import UsageError
from msharefs.daemon.options import MountOptions
from msharefs.daemon.state import Config, StateDirectory
from msharefs.linux import mountinfo, namespaces, syscalls
from msharefs.linux.host import is_privileged
from msharefs.linux.mountinfo import Mount
from msharefs.linux.read_only import read_only_view
from msharefs.memory import private, shared
from msharefs.memory.objects import SHM
from msharefs.state_layout import ARENA, PRIVATE

log = logging.getLogger(__name__)

_SYSTEM = (
    "/",
    "/dev",
    "/dev/log",
    "/etc",
    "/etc/hosts",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/proc",
    "/run",
    "/sys",
    "/usr",
)
"""What a server may open late, besides the files of its interpreter and its own."""
_CONTROL_GROUPS = "/sys/fs/cgroup"


class Backing(Protocol):
    """A place for segments, made by the supervisor and used by its servers."""

    @property
    def address(self) -> str:
        """What `enter` and `open_arena` need to find it."""

    def destroy(self) -> None:
        """What is in it goes, now or with the state directory."""


class PrivateBacking:
    """A tmpfs of its own, in the state directory."""

    address = PRIVATE

    def __init__(self, state: StateDirectory, options: MountOptions) -> None:
        """Make it, or take the one that is there. Raises OSError, and UsageError where the
        kernel does not know an option, or the machine has no such NUMA node."""
        os.makedirs(state.arena, mode=0o700, exist_ok=True)
        try:
            private.provide(
                state.arena,
                private.ArenaOptions(options.size, options.huge, options.mpol, options.noswap),
            )
        except OSError as error:
            asked = _refusable(options)
            if error.errno != errno.EINVAL or not asked:
                raise
            raise UsageError(f"the kernel does not take {' and '.join(asked)} here") from error

    def destroy(self) -> None:
        """The state directory unmounts the tmpfs."""


def _refusable(options: MountOptions) -> list[str]:
    """What of the options not every kernel or machine takes, as it was written."""
    policy = f"mpol={options.mpol}" if options.mpol else ""
    return [word for word in (policy, "noswap" if options.noswap else "") if word]


class SharedBacking:
    """Names in the system's /dev/shm that nobody can guess."""

    def __init__(self, left: Config | None) -> None:
        """With the names that an earlier mount `left`, or new ones."""
        self.address = shared.new_prefix() if left is None else left.arena

    def destroy(self) -> None:
        """Unlink all segments, also those of a server that was killed."""
        shared.remove_segments(self.address)


def make_backing(state: StateDirectory, options: MountOptions) -> Backing:
    """The best backing that we may have. Raises OSError and UsageError."""
    return PrivateBacking(state, options) if is_privileged() else SharedBacking(state.left)


def discard(state: StateDirectory) -> None:
    """Throw away what an earlier mount left, its memory first. Raises OSError."""
    if state.discarded is not None and state.discarded.arena != PRIVATE:
        shared.remove_segments(state.discarded.arena)
    state.clear()


def enter(address: str, state: str) -> None:
    """Take this process, a server of one thread, to the segments of the mount with the state
    directory `state`. Raises OSError.

    Of a private backing it gets a mount namespace of its own, in which the arena is /dev/shm
    and in which next to nothing else is mounted: a copy of somebody's file system would keep
    its device busy or its memory in use after he has unmounted it, and a copy of an msharefs
    mount would keep that alive.
    """
    if address != PRIVATE:
        return
    if not mountinfo.layers(os.path.join(state, ARENA)):
        raise OSError(errno.ENOENT, "its memory is not seen in the mount namespace of its servers")
    namespaces.unshare_mounts()
    needed = _mounts_of(_needed(state))
    with namespaces.whole_namespace():
        _take_out_all_but(needed)
    private.enter(os.path.join(state, ARENA))
    syscalls.mount(state, state, None, syscalls.MS_BIND)
    _make_read_only_but(state, SHM)


def _make_read_only_but(*writable: str) -> None:
    """Let a server change no file of the machine but those on these mounts: it is root still,
    and whatever root may write would be open to it."""
    try:
        with namespaces.whole_namespace():
            syscalls.change_mounts("/", attributes=syscalls.MOUNT_ATTR_RDONLY, recursive=True)
        for directory in writable:
            syscalls.change_mounts(directory, attributes=0, clear=syscalls.MOUNT_ATTR_RDONLY)
    except OSError as error:
        # Linux before 5.12 has no way to do it at once.
        if error.errno != errno.ENOSYS:
            raise


def view_for_readers(address: str, options: MountOptions) -> int | None:
    """Of a backing that this process has entered and whose segments may be given to clients: a
    descriptor of it through which nothing can be changed; None where it is not needed, or cannot
    be had (linux/read_only.py)."""
    # Root's mount is in passthrough where nothing else was asked for.
    may_give = options.data == "auto" and address != PRIVATE
    if options.data != "direct" and not may_give:
        return None
    try:
        return read_only_view(SHM)
    except OSError:
        return None


def open_arena(address: str, options: MountOptions, readers: int | None) -> Memory:
    """The memory of a backing, for a server that has entered it; `readers` is its
    `view_for_readers`."""
    if address == PRIVATE:
        return private.Arena(private.ArenaOptions(options.size, options.huge), readers=readers)
    return shared.SharedArena(options.size, address, options.huge, readers=readers)


def _needed(state: str) -> Iterator[str]:
    """Paths whose file systems a server needs."""
    yield from _SYSTEM
    yield from (sys.executable, sys.prefix, sys.base_prefix, *sys.path)
    yield from (__file__, os.path.join(state, ARENA))
    for mount in mountinfo.own_mounts():
        if mount.path.startswith(_CONTROL_GROUPS):
            yield mount.path


def _mounts_of(paths: Iterable[str]) -> set[int]:
    """The numbers of the mounts that the paths lead to, as far as they lead anywhere."""
    numbers = set()
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            _device, number = syscalls.identity(path)
            numbers.add(number)
    return numbers


def _take_out_all_but(needed: set[int]) -> None:
    """Unmount here whatever is not in `needed`, nor on the way to it.

    A mount goes with all that is mounted on it, so that no path leads through a file system
    that is going, and which may be one that does not answer.
    """
    # Open from here on, because this may be a /proc that goes.
    with closing(mountinfo.OpenTable()) as table:
        uncovering = True
        while uncovering:
            # Where several are mounted on one another, each time the topmost goes.
            taken = [_take_out(mount) for mount in _surplus(table.read(), needed)]
            uncovering = any(taken)


def _surplus(mounts: list[Mount], needed: set[int]) -> list[Mount]:
    """The mounts on kept ones that need not be kept themselves, of other file systems."""
    by_number = {mount.number: mount for mount in mounts}
    kept: dict[int, Mount] = {}
    for each in needed:
        number = each
        while number in by_number and number not in kept:
            kept[number] = by_number[number]
            number = by_number[number].parent
    # A bind of a file system that is kept anyway keeps nothing busy; and what somebody hides with
    # it, a library for example, stays hidden.
    devices = {mount.device for mount in kept.values()}
    binds = [mount for mount in mounts if mount.device in devices]
    while more := [m for m in binds if m.number not in kept and m.parent in kept]:
        kept.update((mount.number, mount) for mount in more)
    places = {(mount.path, mount.number) for mount in kept.values()}
    return [
        mount
        for mount in mounts
        if mount.parent in kept
        and mount.number not in kept
        # One that is hidden has no path of its own: at this one a kept mount would be hit.
        and not any(path == mount.path and number != mount.parent for path, number in places)
    ]


def _take_out(mount: Mount) -> bool:
    """Whether it, or one that is mounted over it, could be unmounted."""
    try:
        syscalls.umount(mount.path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
    except OSError as error:
        # Hidden by something that is needed.
        log.debug("a copy of %s stays: %s", mount.path, error)
        return False
    return True
