"""Where a mount is: at the path where it was made, or wherever it has been moved or bound since.

Owns finding it in the table of mounts, by the number of its connection, and what keeps it in
use. It never follows a path into the mount, which its reader may have to serve.
"""

from __future__ import annotations

from msharefs.fuse import mounting
from msharefs.linux import mountinfo
from msharefs.linux.holders import holders
from msharefs.linux.mountinfo import Mount

KIND = f"fuse.{mounting.SUBTYPE}"
_NAMED = 5
"""How many processes a sentence names."""


def mount_at(path: str) -> Mount | None:
    """The msharefs mount at a path, or None. Raises OSError."""
    found = [each for each in mountinfo.own_mounts() if each.path == path and each.kind == KIND]
    return found[-1] if found else None


def paths_of(device: int) -> list[str]:
    """Where the mount of a connection is seen in our mount namespace, the latest first. `device`
    is its st_dev. Paths that lead to something mounted over it are left out. Raises OSError."""
    mounts = mountinfo.own_mounts()
    covered = {(each.parent, each.path) for each in mounts}
    return [
        each.path
        for each in reversed(mounts)
        if each.device == device and (each.number, each.path) not in covered
    ]


def users_of(device: int) -> str:
    """Who keeps it in use, for a sentence: empty if nobody is found."""
    found = holders(device)
    words = [str(each) for each in found[:_NAMED]]
    if len(found) > _NAMED:
        words.append(f"{len(found) - _NAMED} more")
    return ", ".join(words)
