"""The private mount namespace in which the arena is /dev/shm.

Owns entering it and leaving it. What it must not hold is a copy of an msharefs mount or
of another arena: a copy keeps a mount alive after umount, and its daemon would never hear.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import closing

from msharefs.fuse import mounting
from msharefs.linux import mountinfo, syscalls
from msharefs.linux.mountinfo import Mount
from msharefs.memory import private

log = logging.getLogger(__name__)

FS_TYPE = f"fuse.{mounting.SUBTYPE}"


class MountTable(mountinfo.OpenTable):
    """The mounts of the namespace in which this object was made, also after leaving it."""

    def find(self, path: str) -> Mount | None:
        """The msharefs mount on a path, or None."""
        ours = [m for m in self.read() if m.path == path and m.kind == FS_TYPE]
        return ours[-1] if ours else None


def enter_private(arena_directory: str, state_base: str) -> int:
    """Go into a new mount namespace with the arena over /dev/shm.

    Returns a descriptor of the namespace that we came from. Raises OSError. The process
    must have one thread.
    """
    original = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        with closing(MountTable()) as table:
            copies = table.read()
        for mount in reversed(copies):
            foreign_arena = mount.path.startswith(state_base + "/") and (
                mount.path != arena_directory
            )
            if mount.kind == FS_TYPE or foreign_arena:
                _take_away(mount.path)
        private.enter(arena_directory)
    except OSError:
        leave(original)
        raise
    return original


def _take_away(path: str) -> None:
    """Unmount a copy, unless something that is mounted over it hides it from us."""
    try:
        syscalls.umount(path, syscalls.MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINVAL):
            raise
        log.debug("a copy of %s stays: %s", path, error)


def leave(original: int) -> None:
    """Go back to the namespace that enter_private returned, and close it."""
    syscalls.setns(original, syscalls.CLONE_NEWNS)
    os.close(original)
