"""Numbers of the FUSE protocol, as in linux/fuse.h (7.45): opcodes, flags, ioctls.

Only what is used here; libfuse has the rest. No code and no state.
"""

from __future__ import annotations

from enum import IntEnum


class Opcode(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


NO_REPLY = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})
"""Requests that the kernel awaits no answer to."""

FUSE_HANDLE_KILLPRIV = 1 << 19
FUSE_ABORT_ERROR = 1 << 21
"""A connection that was aborted reads as ECONNABORTED, one whose mount went as ENODEV."""
FUSE_INIT_EXT = 1 << 30
# flags2 of INIT: bits 32 and up of the flags
FUSE_DIRECT_IO_ALLOW_MMAP = 1 << 4
FUSE_PASSTHROUGH = 1 << 5
FUSE_HAS_RESEND = 1 << 7
FUSE_REQUEST_TIMEOUT = 1 << 10

FATTR_MODE = 1 << 0
FATTR_UID = 1 << 1
FATTR_GID = 1 << 2
FATTR_SIZE = 1 << 3
FATTR_ATIME = 1 << 4
FATTR_MTIME = 1 << 5
FATTR_ATIME_NOW = 1 << 7
FATTR_MTIME_NOW = 1 << 8

FOPEN_DIRECT_IO = 1 << 0
FOPEN_KEEP_CACHE = 1 << 1
FOPEN_PASSTHROUGH = 1 << 7

FUSE_READ_LOCKOWNER = 1 << 1
FUSE_WRITE_CACHE = 1 << 0
FUSE_IOCTL_DIR = 1 << 4

NOTIFY_INVAL_INODE = 2
NOTIFY_RESEND = 7

FUSE_UNIQUE_RESEND = 1 << 63
"""The mark of a request that is sent again; the answer bears it, too."""

FUSE_DEV_IOC_BACKING_OPEN = 0x4010E501
FUSE_DEV_IOC_BACKING_CLOSE = 0x4004E502
