"""The private mount namespace in which the arena is /dev/shm.

Owns entering it and leaving it. What it must not hold is a copy of an msharefs mount or
of another arena: a copy keeps a mount alive after umount, and its daemon would never hear.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from msharefs import linux
from msharefs.fuse import channel
from msharefs.memory import arena

FS_TYPE = f"fuse.{channel.SUBTYPE}"


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo: where, and what."""

    path: str
    kind: str


def mounts() -> list[Mount]:
    """The mounts of this process's namespace, the oldest first (proc(5))."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            fields, _, rest = line.partition(" - ")
            found.append(Mount(_unescape(fields.split()[4]), rest.split()[0]))
    return found


def enter_private(arena_directory: str, state_base: str) -> int:
    """Go into a new mount namespace with the arena over /dev/shm.

    Returns a descriptor of the namespace that we came from. Raises OSError. The process
    must have one thread.
    """
    original = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", None, linux.MS_REC | linux.MS_SLAVE)
        for mount in reversed(mounts()):
            foreign_arena = mount.path.startswith(state_base + "/") and (
                mount.path != arena_directory
            )
            if mount.kind == FS_TYPE or foreign_arena:
                linux.umount(mount.path, linux.MNT_DETACH)
        arena.enter(arena_directory)
    except OSError:
        leave(original)
        raise
    return original


def leave(original: int) -> None:
    """Go back to the namespace that enter_private returned, and close it."""
    linux.setns(original, linux.CLONE_NEWNS)
    os.close(original)


def _unescape(path: str) -> str:
    r"""mountinfo writes space, tab, newline and backslash as \040, \011, \012 and \134."""
    for code in ("040", "011", "012", "134"):
        path = path.replace("\\" + code, chr(int(code, 8)))
    return path
