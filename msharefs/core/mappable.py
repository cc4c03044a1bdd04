"""Which files may be mapped, and by whom: the rules of CREATE_MAPPING of a file.

Owns the list of file systems and what the way in which a file was opened allows. It judges what
somebody else has seen of an open file; nothing here touches one.
"""

from __future__ import annotations

import os
import stat

from msharefs.abi import PROT_EXEC, PROT_WRITE
from msharefs.core.errors import (
    AccessDenied,
    BadDescriptor,
    InvalidArgument,
    NotMappable,
    NotPermitted,
)
from msharefs.core.layout import MappedFile
from msharefs.core.ports import OpenFile

MAPPABLE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "overlay"})
"""File systems whose files are bytes on this machine and nothing else. In those that are not here
a read may never come back (FUSE, network), or is a request to the kernel that is granted to
whoever reads, root for example (proc, sysfs, cgroup)."""
MSHAREFS = "fuse.msharefs"
LONGEST_PATH = 200
"""Characters. Of a longer path the end is remembered: it is for people, and has to fit into the
journal's records and into an extended attribute beside many others."""

_SEALS_OF_WRITING = 0x0008 | 0x0010
"""F_SEAL_WRITE and F_SEAL_FUTURE_WRITE (fcntl(2))."""


def check_file(file: OpenFile, prot: int) -> None:
    """Whether a file that is open so may be mapped with these PROT_* bits.

    Raises BadDescriptor (O_PATH), InvalidArgument (a region, or O_DIRECT), NotMappable (no
    regular file of a file system that is known), AccessDenied, NotPermitted (a seal, or
    PROT_EXEC).
    """
    if file.flags & os.O_PATH:
        raise BadDescriptor("it was opened with O_PATH")
    if not stat.S_ISREG(file.mode):
        raise NotMappable("it is no regular file")
    if file.file_system == MSHAREFS:
        raise InvalidArgument("it is a file of msharefs itself")
    if file.file_system not in MAPPABLE:
        raise NotMappable(f"files of {file.file_system or 'its file system'} are not mapped")
    _check_access(file, prot)
    if file.flags & os.O_DIRECT:
        raise InvalidArgument("it was opened with O_DIRECT")


def mapped_file(file: OpenFile, offset: int, uid: int, record: int) -> MappedFile:
    """What a mapping from `offset` (bytes) on, made by that user, remembers of it, and by which
    `record` it is written back, 0 for none."""
    path = file.path
    if len(path) > LONGEST_PATH:
        path = "..." + path[3 - LONGEST_PATH :]
    return MappedFile(file.device, file.inode, offset, uid, path, record)


def _check_access(file: OpenFile, prot: int) -> None:
    access = file.flags & os.O_ACCMODE
    if access == os.O_WRONLY:
        raise AccessDenied("it was not opened for reading")
    if prot & PROT_WRITE:
        if access != os.O_RDWR:
            raise AccessDenied("it was not opened for writing")
        if file.flags & os.O_APPEND:
            raise AccessDenied("it was opened to append")
        if file.seals & _SEALS_OF_WRITING:
            raise NotPermitted("it is sealed against writing")
    if prot & PROT_EXEC:
        raise NotPermitted("programs are not mapped")
