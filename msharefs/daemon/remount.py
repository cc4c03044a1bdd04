"""mount -o remount: other flags of the kernel, and other options of the mount, without unmounting.

Owns the order of the two, and that either both are done or neither. What an option may be is
said here, what the mount can be told while it is in use by the mount itself.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterable, Sequence

from msharefs.client.options import change_options, read_options
from msharefs.daemon.options import Given
from msharefs.daemon.supervisor import EXIT_MOUNT, MountError
from msharefs.fuse.mounting import SUBTYPE
from msharefs.linux import mountinfo, syscalls

WORD = "remount"
_KIND = f"fuse.{SUBTYPE}"
_AT_MOUNT = frozenset({"allow_other", "fresh"})
"""What says how a mount is made says nothing about one that is there; /proc/mounts shows the first
of root's mounts, and mount(8) hands back what is there."""

_FLAGS = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "sync": syscalls.MS_SYNCHRONOUS,
    "dirsync": syscalls.MS_DIRSYNC,
    "noatime": syscalls.MS_NOATIME,
    "nodiratime": syscalls.MS_NODIRATIME,
}
_OPPOSITES = {"rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "async": "sync"}


def remount(mountpoint: str, given: Given) -> None:
    """Change the mount at an absolute path without links. Raises MountError."""
    mount = _mount_at(mountpoint)
    # Some flags are the file system's, some those of this mount of it, MS_RDONLY is both.
    now = flags_of(mount.super_options) | flags_of(mount.options)
    flags = flags_of(given.passed_on, now)
    words = [word for word in given.words if word not in _AT_MOUNT]
    try:
        if now & ~flags & syscalls.MS_RDONLY:
            # Nothing can be told to a mount that is read-only.
            _set_flags(mountpoint, now, flags)
            now = flags
        before = read_options(mountpoint) if words else {}
        _change_options(mountpoint, words, before)
        try:
            _set_flags(mountpoint, now, flags)
        except OSError:
            change_options(mountpoint, [f"{name}={value}" for name, value in before.items()])
            raise
    except OSError as error:
        raise MountError(f"{mountpoint}: {error.strerror}", EXIT_MOUNT) from error


def _change_options(mountpoint: str, words: Sequence[str], live: Container[str]) -> None:
    try:
        change_options(mountpoint, words)
    except OSError as error:
        fixed = {word.partition("=")[0] for word in words if word.partition("=")[0] not in live}
        if error.errno != errno.EINVAL or not fixed:
            raise
        # Values are possible ones: they have been parsed.
        names = ", ".join(sorted(fixed))
        raise OSError(errno.EINVAL, f"unmount it to give another value to: {names}") from error


def flags_of(words: Iterable[str], flags: int = 0) -> int:
    """The flags of mount(2) after these words; unknown ones change none."""
    for word in words:
        flags |= _FLAGS.get(word, 0)
        flags &= ~_FLAGS.get(_OPPOSITES.get(word, ""), 0)
    return flags


def _mount_at(mountpoint: str) -> mountinfo.Mount:
    found = [mount for mount in mountinfo.own_mounts() if mount.path == mountpoint]
    if not found or found[-1].kind != _KIND:
        raise MountError(f"{mountpoint} is not a mounted msharefs", EXIT_MOUNT)
    return found[-1]


def _set_flags(mountpoint: str, now: int, flags: int) -> None:
    if flags == now:
        return
    try:
        syscalls.mount("none", mountpoint, None, syscalls.MS_REMOUNT | flags)
    except OSError as error:
        reasons = {
            errno.EPERM: "only root may remount it with other flags",
            errno.EBUSY: "a region is open for writing",
        }
        code = error.errno or errno.EIO
        raise OSError(code, reasons.get(code) or os.strerror(code)) from error
