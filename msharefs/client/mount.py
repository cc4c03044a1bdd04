"""From a path to the mount it lies on: its root directory and its alignment; and which mounts are.

Owns what a client can learn of a mount without opening a region. It looks at
names and numbers that every program sees; it asks the daemon nothing else.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from msharefs.abi import INFO_NAME
from msharefs.client.errors import MshareError, NotMounted, translated
from msharefs.linux import host, mountinfo

if TYPE_CHECKING:
    from msharefs.client.errors import StrOrBytesPath
    from msharefs.linux.mountinfo import Mount

# The file holds at most the twelve digits of 512 GiB and a newline.
_INFO_LENGTH = 32

DIRECTORY_VARIABLE = "MSHAREFS_DIR"
"""The environment variable that names the directory to use where a program names none."""

_TYPE = "fuse.msharefs"
_ROOT = 0
_NOBODY = 65534


def alignment(path: StrOrBytesPath) -> int:
    """The unit of a region's size, in bytes, on the mount that `path` lies on.

    `path` is the mount's directory or anything below it, and need not exist itself if its
    directory does. It is what the file mshare_info in the root of the mount says: a power of two
    from 4096 to 512 GiB, usually 2 MiB. Raises NotMounted (ENODEV) where no msharefs is mounted,
    RegionNotFound (ENOENT) if not even the directory is there.
    """
    with translated("cannot read the alignment", path):
        info = os.path.join(_mount_root(path), INFO_NAME)
        try:
            fd = os.open(info, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise not_mounted(path) from None
        try:
            text = os.read(fd, _INFO_LENGTH)
        finally:
            os.close(fd)
    if not text.strip().isdigit():
        raise not_mounted(path)
    return int(text)


def default_directory() -> str:
    """$MSHAREFS_DIR, or else the oldest msharefs mount of this user, or else root's oldest.

    So all processes of a user have the same, and nobody's memory goes to a mount of another
    user, who could read it. Mounts that this process may not enter, and what is covered by
    another mount, do not count. Raises NotMounted (ENODEV) if there is none.
    """
    chosen = os.environ.get(DIRECTORY_VARIABLE)
    if chosen:
        return chosen
    mounts = [mount for mount in mountinfo.own_mounts() if mount.kind == _TYPE]
    for user in _trusted_users():
        for mount in mounts:
            # Nobody else's mount is so much as looked at: its server could make us wait.
            if f"user_id={user}" in mount.super_options and _may_enter(mount):
                return mount.path
    text = f"no msharefs of this user or of root is mounted here; mount one, or set {DIRECTORY_VARIABLE}"
    raise NotMounted(errno.ENODEV, text)


def not_mounted(path: StrOrBytesPath) -> NotMounted:
    """The exception for a `path` below which no msharefs is mounted."""
    return NotMounted(errno.ENODEV, "no msharefs is mounted there", os.fspath(path))


def alignment_hint(path: StrOrBytesPath, size: int) -> str:
    """What to say of a size that the mount refused: its alignment, where that is the reason."""
    try:
        unit = alignment(path)
    except MshareError:
        return ""
    if size % unit == 0:
        return ""
    return f", the size must be a multiple of {unit} (next is {-(-size // unit) * unit})"


def _trusted_users() -> list[int]:
    """Whose mounts may be the default: our own before root's."""
    own = os.geteuid()
    if own == _NOBODY and not host.is_first_user_namespace():
        # So all users are called that have no number in a user namespace.
        return [_ROOT]
    return [own, _ROOT]


def _may_enter(mount: Mount) -> bool:
    try:
        shown = os.stat(mount.path).st_dev == mount.device
    except OSError:
        return False
    return shown and os.access(mount.path, os.X_OK, effective_ids=True)


def _mount_root(path: StrOrBytesPath) -> bytes:
    """The highest directory above `path` that is on the same file system."""
    current = os.path.realpath(os.fsencode(path))
    if not os.path.isdir(current):
        current = os.path.dirname(current)
    device = os.stat(current).st_dev
    parent = os.path.dirname(current)
    while parent != current and os.stat(parent).st_dev == device:
        current, parent = parent, os.path.dirname(parent)
    return current
