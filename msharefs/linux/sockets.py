"""Sockets between processes: what one said that was killed is heard, and whose the other end is.

Owns what the kernel knows of the other end. What is said is not known here.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import Protocol

_UCRED = struct.Struct("=iII")


class HasOptions(Protocol):
    """A socket, of the socket module or of trio's."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As socket.socket has it."""


def peer_uid(channel: HasOptions) -> int:
    """The user whose process has connected, or has made the socket that was connected to
    (SO_PEERCRED). Raises OSError."""
    facts = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(facts)
    return int(uid)


def said(channel: socket.socket, size: int) -> bytes:
    """What the other end has said, at most `size` bytes; b"" if it is gone and has said no more.
    Descriptors that came along are closed by the kernel. Raises OSError."""
    return _heard(channel, size, 0)[0]


def said_with_descriptors(channel: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """The same with the descriptor that came along, which is the caller's. Raises OSError."""
    return _heard(channel, size, 1)


def _heard(channel: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """With so many descriptors at most."""
    while True:
        # Told once if it was gone before it had read everything; what it said before comes after.
        with suppress(ConnectionResetError):
            message, descriptors, _flags, _address = socket.recv_fds(
                channel, size, most, socket.MSG_CMSG_CLOEXEC
            )
            return message, descriptors
