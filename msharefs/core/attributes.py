"""Changes of attributes: chmod, chown, utimes, as chmod(2), chown(2) and utimensat(2) have them.

Owns what a change of owner or size does to the set-user-ID and set-group-ID bits, which
the kernel leaves to a file system with FUSE_HANDLE_KILLPRIV. Who may change what is checked by the
kernel (default_permissions); a region's size has rules of its own in region.py.
"""

from __future__ import annotations

import stat
from typing import NamedTuple

from msharefs.core.inode import Inode


class AttributeChange(NamedTuple):
    """A setattr: None leaves a field alone. Times in nanoseconds, size in bytes."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


def change_attributes(inode: Inode, change: AttributeChange) -> None:
    """Apply all of a change but its size. A new mode from the same request as a new owner
    stands."""
    if change.mode is not None:
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
    if change.uid is not None or change.gid is not None:
        _change_owner(inode, change)
    if change.atime_ns is not None:
        inode.atime_ns = change.atime_ns
    if change.mtime_ns is not None:
        inode.mtime_ns = change.mtime_ns


def drop_privileges(inode: Inode) -> None:
    """A file with a new owner or size loses set-user-ID, and set-group-ID where it is
    executable."""
    inode.mode &= ~stat.S_ISUID
    if inode.mode & stat.S_IXGRP:
        inode.mode &= ~stat.S_ISGID


def _change_owner(inode: Inode, change: AttributeChange) -> None:
    if change.uid is not None:
        inode.uid = change.uid
    if change.gid is not None:
        inode.gid = change.gid
    if not inode.is_directory and change.mode is None:
        drop_privileges(inode)
