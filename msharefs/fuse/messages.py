"""FUSE messages: bytes to values and back, as in linux/fuse.h (7.45).

No I/O, no state, standard library only. Only what the switchboard and its handlers
need is here; the rest of the protocol is libfuse's, and INIT is in handshake.py. Numbers in
native byte order.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from msharefs.fuse.kernel import (
    NOTIFY_INVAL_INODE,
    NOTIFY_RESEND,
    Opcode,
)

_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_OPEN_IN = struct.Struct("=II")
_CREATE_IN = struct.Struct("=IIII")
_SETATTR_IN = struct.Struct("=IIQQQqqqIIIIIIII")
_OPEN_OUT = struct.Struct("=QIi")
_READ_IN = struct.Struct("=QQIIQII")  # struct fuse_write_in has the same form
_FALLOCATE_IN = struct.Struct("=QQQII")
_IOCTL_IN = struct.Struct("=QIIQII")
_IOCTL_OUT = struct.Struct("=iIII")
_INVAL_INODE_OUT = struct.Struct("=Qqq")
_BACKING_MAP = struct.Struct("=iIQ")
_ATTR = struct.Struct("=6Q10I")
_ATTR_OUT_HEAD = struct.Struct("=QII")
_ENTRY_OUT_HEAD = struct.Struct("=QQQQII")
_DIRENT = struct.Struct("=QQII")
_GETXATTR = struct.Struct("=II")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_MKNOD_IN = struct.Struct("=IIII")
_MKDIR_IN = struct.Struct("=II")
_RENAME2_IN = struct.Struct("=QII")
_FORGET_ONE = struct.Struct("=QQ")

_FORWARDED_LEAST: dict[int, int] = {
    **dict.fromkeys((Opcode.FSYNC, Opcode.FSYNCDIR), 16),
    **dict.fromkeys((Opcode.ACCESS, Opcode.LISTXATTR), 8),
    Opcode.READDIR: _READ_IN.size,
}
"""Bytes that libfuse reads of a request's body, whether they are there or not."""

IN_HEADER_SIZE = _IN_HEADER.size
OUT_HEADER_SIZE = _OUT_HEADER.size

_U64_MASK = (1 << 64) - 1
"""Times before 1970 are negative seconds in a field without a sign."""


class Header(NamedTuple):
    """struct fuse_in_header. `pid` is a thread id; 0 means outside our pid namespace."""

    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int
    extensions: int
    padding: int


class RenameIn(NamedTuple):
    """struct fuse_rename2_in and the names. The old directory is the request's inode."""

    new_parent: int
    flags: int
    name: bytes
    new_name: bytes


class WriteIn(NamedTuple):
    """struct fuse_write_in; offset and size in bytes."""

    handle: int
    offset: int
    size: int
    write_flags: int
    lock_owner: int
    flags: int
    padding: int


class FallocateIn(NamedTuple):
    """struct fuse_fallocate_in; offset and length in bytes."""

    handle: int
    offset: int
    length: int
    mode: int
    padding: int


class IoctlIn(NamedTuple):
    """struct fuse_ioctl_in, before its payload."""

    handle: int
    flags: int
    command: int
    argument: int
    in_size: int
    out_size: int


class SetattrIn(NamedTuple):
    """struct fuse_setattr_in; `valid` tells which fields count."""

    valid: int
    padding: int
    handle: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    unused4: int
    uid: int
    gid: int
    unused5: int


class ReadIn(NamedTuple):
    """struct fuse_read_in; offset and size in bytes."""

    handle: int
    offset: int
    size: int
    read_flags: int
    lock_owner: int
    flags: int
    padding: int


class Attributes(NamedTuple):
    """The attributes of an inode; times in nanoseconds, `blocks` of 512 bytes."""

    ino: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    block_size: int


class MalformedError(struct.error):
    """A request is not as the protocol has it; the text says how."""


def decode_header(message: bytes | memoryview) -> Header:
    """The header of a request. Raises MalformedError, as all that decode."""
    # Header._make by hand: this is on the path of every request.
    return tuple.__new__(Header, _unpack(_IN_HEADER, message))


def check_forwarded(opcode: int, body: memoryview) -> None:
    """Whether libfuse can read a request. Raises MalformedError."""
    least = _FORWARDED_LEAST.get(opcode, 0)
    if len(body) < least:
        raise MalformedError(f"{len(body)} bytes where {least} are needed")


def _unpack(form: struct.Struct, body: bytes | memoryview) -> tuple[Any, ...]:
    try:
        return form.unpack_from(body)
    except struct.error:
        raise MalformedError(f"{len(body)} bytes where {form.size} are needed") from None


def decode_open(body: memoryview) -> int:
    """struct fuse_open_in: the flags of open(2)."""
    flags: int = _unpack(_OPEN_IN, body)[0]
    return flags


def decode_create(body: memoryview) -> tuple[int, int, bytes]:
    """struct fuse_create_in and the name: flags of open(2), mode less the umask, name."""
    flags, mode, _umask, _open_flags = _unpack(_CREATE_IN, body)
    return flags, mode, decode_name(body[_CREATE_IN.size :])


def decode_name(body: memoryview) -> bytes:
    """A name, which ends in a zero byte."""
    return bytes(body).rstrip(b"\0")


def decode_mknod(body: memoryview) -> tuple[int, bytes]:
    """struct fuse_mknod_in and the name: mode less the umask, name. Devices are refused, so
    their number is not looked at."""
    mode: int = _unpack(_MKNOD_IN, body)[0]
    return mode, decode_name(body[_MKNOD_IN.size :])


def decode_mkdir(body: memoryview) -> tuple[int, bytes]:
    """struct fuse_mkdir_in and the name: mode less the umask, name."""
    mode: int = _unpack(_MKDIR_IN, body)[0]
    return mode, decode_name(body[_MKDIR_IN.size :])


def decode_link(body: memoryview) -> tuple[int, bytes]:
    """struct fuse_link_in and the new name: the inode that gets it, name."""
    ino: int = _unpack(_U64, body)[0]
    return ino, decode_name(body[_U64.size :])


def decode_rename(body: memoryview) -> RenameIn:
    """struct fuse_rename_in and two names."""
    return RenameIn(_unpack(_U64, body)[0], 0, *_two_names(body[_U64.size :]))


def decode_rename2(body: memoryview) -> RenameIn:
    """struct fuse_rename2_in and two names."""
    new_parent, flags, _padding = _unpack(_RENAME2_IN, body)
    return RenameIn(new_parent, flags, *_two_names(body[_RENAME2_IN.size :]))


def decode_forget(body: memoryview) -> int:
    """struct fuse_forget_in: how many look-ups."""
    lookups: int = _unpack(_U64, body)[0]
    return lookups


def decode_interrupt(body: memoryview) -> int:
    """struct fuse_interrupt_in: the number of the request."""
    unique: int = _unpack(_U64, body)[0]
    return unique


def decode_batch_forget(body: memoryview) -> Iterator[tuple[int, int]]:
    """struct fuse_batch_forget_in and what follows: (inode number, look-ups) of each. Raises
    MalformedError where there are fewer than it says."""
    count, _padding = _unpack(_MKDIR_IN, body)
    entries = body[_MKDIR_IN.size :][: count * _FORGET_ONE.size]
    if len(entries) != count * _FORGET_ONE.size:
        raise MalformedError(f"{count} inodes to forget in {len(body)} bytes")
    return _FORGET_ONE.iter_unpack(entries)


def _two_names(body: memoryview) -> tuple[bytes, bytes]:
    first, _, second = bytes(body).partition(b"\0")
    return first, second.rstrip(b"\0")


def decode_setattr(body: memoryview) -> SetattrIn:
    """struct fuse_setattr_in."""
    return SetattrIn._make(_unpack(_SETATTR_IN, body))


def decode_read(body: memoryview) -> ReadIn:
    """struct fuse_read_in."""
    return ReadIn._make(_unpack(_READ_IN, body))


def decode_write(body: memoryview) -> tuple[WriteIn, memoryview]:
    """struct fuse_write_in and the data that came with it. Raises MalformedError where that is
    less than it says."""
    request = WriteIn._make(_unpack(_READ_IN, body))
    data = body[_READ_IN.size :][: request.size]
    if len(data) != request.size:
        raise MalformedError(f"{request.size} bytes to write in {len(body)}")
    return request, data


def decode_fallocate(body: memoryview) -> FallocateIn:
    """struct fuse_fallocate_in."""
    return FallocateIn._make(_unpack(_FALLOCATE_IN, body))


def decode_ioctl(body: memoryview) -> tuple[IoctlIn, bytes]:
    """struct fuse_ioctl_in and the payload that came with it."""
    head = IoctlIn._make(_unpack(_IOCTL_IN, body))
    return head, bytes(body[_IOCTL_IN.size : _IOCTL_IN.size + head.in_size])


def decode_out_header(message: bytes | memoryview) -> tuple[int, int, int]:
    """length, error (0 or negative) and unique of a reply."""
    length, error, unique = _OUT_HEADER.unpack_from(message)
    return length, error, unique


def encode_success(unique: int, size: int) -> bytes:
    """The header of a successful reply with a payload of `size` bytes."""
    return _OUT_HEADER.pack(_OUT_HEADER.size + size, 0, unique)


def encode_error(unique: int, code: int) -> bytes:
    """A reply that fails with errno `code`."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, -code, unique)


def encode_open(handle: int, open_flags: int, backing_id: int = 0) -> bytes:
    """struct fuse_open_out."""
    return _OPEN_OUT.pack(handle, open_flags, backing_id)


def decode_getxattr(body: memoryview) -> tuple[int, bytes]:
    """struct fuse_getxattr_in: room for the value (0 asks for its length), and the name."""
    room: int = _unpack(_GETXATTR, body)[0]
    return room, decode_name(body[_GETXATTR.size :])


def decode_setxattr(body: memoryview) -> tuple[bytes, bytes]:
    """The name and the value in a SETXATTR: behind struct fuse_setxattr_in, which is short as
    long as FUSE_SETXATTR_EXT is not negotiated."""
    size, _flags = _unpack(_GETXATTR, body)
    name, _, value = bytes(body[_GETXATTR.size :]).partition(b"\0")
    return name, value[:size]


def encode_xattr_size(size: int) -> bytes:
    """struct fuse_getxattr_out: the length of a value."""
    return _GETXATTR.pack(size, 0)


def encode_attr(attr: Attributes, valid: int) -> bytes:
    """struct fuse_attr_out; the kernel may keep it for `valid` seconds."""
    return _ATTR_OUT_HEAD.pack(valid, 0, 0) + _pack_attr(attr)


def encode_entry(attr: Attributes | None, valid: int, attr_valid: int) -> bytes:
    """struct fuse_entry_out; None tells that there is no such name, to be kept as well."""
    if attr is None:
        return _ENTRY_OUT_HEAD.pack(0, 0, valid, 0, 0, 0) + bytes(_ATTR.size)
    return _ENTRY_OUT_HEAD.pack(attr.ino, 0, valid, attr_valid, 0, 0) + _pack_attr(attr)


def _pack_attr(attr: Attributes) -> bytes:
    ino, size, blocks, atime_ns, mtime_ns, ctime_ns, mode, nlink, uid, gid, block_size = attr
    atime, atime_ns = divmod(atime_ns, 10**9)
    mtime, mtime_ns = divmod(mtime_ns, 10**9)
    ctime, ctime_ns = divmod(ctime_ns, 10**9)
    return _ATTR.pack(
        ino,
        size,
        blocks,
        _U64_MASK & atime,
        _U64_MASK & mtime,
        _U64_MASK & ctime,
        atime_ns,
        mtime_ns,
        ctime_ns,
        mode,
        nlink,
        uid,
        gid,
        0,
        block_size,
        0,
    )


def encode_listed(entry: bytes, ino: int, mode: int, offset: int, name: bytes) -> bytes:
    """struct fuse_direntplus: a name in a listing. `entry` is its encode_entry, `offset` what
    the kernel asks with to go on behind it."""
    listed = entry + _DIRENT.pack(ino, offset, len(name), stat.S_IFMT(mode) >> 12) + name
    return listed.ljust(-(-len(listed) // 8) * 8, b"\0")


def encode_write(size: int) -> bytes:
    """struct fuse_write_out."""
    return _GETXATTR.pack(size, 0)


def encode_ioctl(data: bytes = b"") -> bytes:
    """struct fuse_ioctl_out of an ioctl that returns 0, and what is written to its argument."""
    return _IOCTL_OUT.pack(0, 0, 0, 0) + data


def encode_attributes_changed(nodeid: int) -> bytes:
    """A notification that cached attributes, and they alone (offset -1), are out of date."""
    body = _INVAL_INODE_OUT.pack(nodeid, -1, 0)
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), NOTIFY_INVAL_INODE, 0) + body


def encode_pages_changed(nodeid: int, start: int, size: int) -> bytes:
    """A notification that cached pages of a range (bytes) are out of date. The kernel drops
    them from every process, and writes the dirty ones back and waits for that before."""
    body = _INVAL_INODE_OUT.pack(nodeid, start, size)
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(body), NOTIFY_INVAL_INODE, 0) + body


def encode_resend() -> bytes:
    """A notification that asks for all requests that were read and not answered."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, NOTIFY_RESEND, 0)


def encode_backing_map(fd: int) -> bytes:
    """struct fuse_backing_map, the argument of FUSE_DEV_IOC_BACKING_OPEN."""
    return _BACKING_MAP.pack(fd, 0, 0)


def encode_backing_id(backing_id: int) -> bytes:
    """The argument of FUSE_DEV_IOC_BACKING_CLOSE."""
    return _U32.pack(backing_id)
