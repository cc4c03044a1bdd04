"""The protocol of the direct plane by hand, step by step as docs/design/direct.md has it.

Knows the numbers of the page, and nothing of the library, which is tested by it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

ATTACH = 0x80407802
CLAIM = 0x80407803


class Told(NamedTuple):
    """What the ioctl answers."""

    token: bytes
    uid: int
    address: bytes


def ask(fd: int, command: int = ATTACH) -> Told:
    """A token for an open region, to attach or to claim it. OSError of the ioctl."""
    answer = bytearray(64)
    fcntl.ioctl(fd, command, answer)
    token, uid, zero, name = struct.unpack("=16sII40s", answer)
    assert zero == 0
    return Told(token, uid, name.rstrip(b"\0"))


def connect(told: Told) -> socket.socket:
    """A conversation with the server."""
    door = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    door.settimeout(20)
    try:
        door.connect(b"\0" + told.address)
    except OSError:
        door.close()
        raise
    return door


def redeem(told: Told) -> int:
    """The segment's descriptor. OSError of the answer; ConnectionResetError without one."""
    with connect(told) as door:
        door.send(told.token)
        message, descriptors, _flags, _address = socket.recv_fds(door, 4, 4)
    if not message:
        raise ConnectionResetError("no answer")
    (code,) = struct.unpack("=i", message)
    if code:
        assert not descriptors
        raise OSError(code, os.strerror(code))
    (descriptor,) = descriptors
    return descriptor


def segment(fd: int, command: int = ATTACH) -> int:
    """The descriptor of the segment of an open region."""
    return redeem(ask(fd, command))


@contextmanager
def attached(
    fd: int, size: int, prot: int = mmap.PROT_READ | mmap.PROT_WRITE, command: int = ATTACH
) -> Iterator[mmap.mmap]:
    """The first `size` bytes of an open region, by its segment."""
    descriptor = segment(fd, command)
    try:
        window = mmap.mmap(descriptor, size, prot=prot)
    finally:
        os.close(descriptor)
    with window:
        yield window


@contextmanager
def claimed(fd: int, size: int) -> Iterator[mmap.mmap]:
    """The same of one that is claimed by it."""
    with attached(fd, size, command=CLAIM) as window:
        yield window
