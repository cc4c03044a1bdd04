"""Where the state of mounts is kept, and what its names alone tell.

Owns the places: a directory for each mount below one of its user's, in it a lock that is held as
long as the mount is served, its configuration, and for root's mounts the tmpfs of its memory. The
daemon writes them; tools that look at what is left of a mount read them, without the daemon's code.
"""

from __future__ import annotations

import fcntl
import os

from msharefs.linux import host

ROOT_STATE = "/run/msharefs"
CONFIG, LOCK, ARENA = "config.json", "lock", "shm"
PRIVATE = "private"
"""The address of memory that is in the state directory; else it is the beginning of names in SHM."""
SHM = "/dev/shm"


def state_base() -> str:
    """Where this user's state directories are."""
    # Root of a user namespace of somebody's own may not write to the machine's /run.
    if os.geteuid() == 0 and _is_ours_to_make(ROOT_STATE):
        return ROOT_STATE
    user = host.uid_outside(os.geteuid())
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}"
    if os.path.isdir(runtime):
        return os.path.join(runtime, "msharefs")
    # Not a login session, as after su: a directory that is his alone serves as well.
    return f"/tmp/msharefs-{user}"


def _is_ours_to_make(directory: str) -> bool:
    """Whether it is ours, or can be made."""
    try:
        return os.lstat(directory).st_uid == os.geteuid()
    except FileNotFoundError:
        return os.access(os.path.dirname(directory), os.W_OK)


def boot_id() -> str:
    """A word that changes with each boot, and so with each loss of memory."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def is_locked(directory: str) -> bool:
    """Whether a daemon holds a state directory. Raises OSError; one without a lock is nobody's."""
    try:
        fd = os.open(os.path.join(directory, LOCK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # Shared, so that those who only look do not stop one another.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
