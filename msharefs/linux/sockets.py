"""Sockets between processes of which one may be killed: what it had said is heard.

Owns what the kernel does to the words of a process that is gone. What they mean is not known here.
"""

from __future__ import annotations

import socket
from contextlib import suppress


def said(channel: socket.socket, size: int) -> bytes:
    """What the other end has said, at most `size` bytes; b"" if it is gone and has said no more.
    Raises OSError."""
    while True:
        # Told once if it was gone before it had read everything; what it said before comes after.
        with suppress(ConnectionResetError):
            return channel.recv(size)
