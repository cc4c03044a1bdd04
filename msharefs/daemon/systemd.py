"""Telling systemd about ourselves (sd_notify(3)): a datagram to the socket that it names."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def tell(*assignments: str) -> None:
    """Send assignments such as "READY=1". Without systemd there is nobody to tell."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto("\n".join(assignments).encode(), address)
