"""What a server has of its supervisor: the mount's memory, its place, /dev/fuse, and the order to serve.

Owns the beginning of a server's life, up to that order, and what it says on the supervision
socket. What it does then is server.py's.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msharefs import __version__
from msharefs.daemon.backing import enter, view_for_readers
from msharefs.daemon.confinement import confine
from msharefs.daemon.server_process import PROTOCOL, receive_with_socket, send
from msharefs.daemon.state import INIT, Config
from msharefs.daemon.storage import new_area, open_area, write_file
from msharefs.fuse.device import ConnectionGone, Device
from msharefs.fuse.in_service import Cause
from msharefs.fuse.mounting import REQUEST_ROOM
from msharefs.linux import syscalls
from msharefs.state_layout import CONFIG

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a server gets from its supervisor. The descriptors belong to the caller."""

    state: str
    device: int
    supervision: socket.socket
    restarts: int
    gone_at: float
    """When the server before ended (time.monotonic)."""
    cause: Cause
    """Why that one ended."""
    files: socket.socket
    """On which the broker of files is told what is wanted (files/broker.py)."""
    notices: socket.socket
    """On which the notifier is asked for (fuse/page_notices.py)."""
    readers: int | None
    """Where segments are opened for readers (backing.py)."""
    keeper: socket.socket
    """Who keeps those that are written back (files/keeper.py), and"""
    kept: Sequence[int]
    """by which numbers."""

    def path(self, name: str) -> str:
        """A file of the state directory."""
        return os.path.join(self.state, name)

    def area(self, name: str, size: int) -> memoryview:
        """A file of the state directory as memory of `size` bytes that outlives servers. What an
        earlier mount left in it belonged to another connection. Raises StateError."""
        make = open_area if self.restarts else new_area
        return make(self.path(name), size)


class UnmountedError(Exception):
    """The mount was taken away before its first server had answered INIT."""


def report(supervision: socket.socket, message: dict[str, Any]) -> None:
    """Tell the supervisor. If it is gone, the watch on its socket will see it."""
    try:
        send(supervision, message)
    except OSError as error:
        log.warning("cannot report to the supervisor: %s", error)


def inherit() -> Inheritance | None:
    """What the supervisor gives, once it wants us to serve; None if it never will, if it cannot, being
    of another version, or if we cannot get to the mount's memory."""
    state, protocol, *descriptors = sys.argv[1:]
    supervision = socket.socket(fileno=int(descriptors.pop()))
    if protocol != str(PROTOCOL):
        report(supervision, {"error": _other_version(protocol)})
        return None
    device, *orders = map(int, descriptors)
    files, notices = (socket.socket(fileno=each) for each in orders)
    try:
        config = Config.load(os.path.join(state, CONFIG))
        enter(config.arena, state)
        readers = view_for_readers(config.arena, config.options)
    except OSError as error:
        report(supervision, {"error": f"the server cannot get to its memory: {error}"})
        return None
    confine()
    syscalls.call_ourselves("mshare-standby")
    report(supervision, {"loaded": True})
    order, keeper = receive_with_socket(supervision)
    if order is None or keeper is None:
        return None
    syscalls.call_ourselves("msharefs-server")
    told = order["serve"]
    return Inheritance(
        state,
        device,
        supervision,
        told["restarts"],
        told["gone_at"],
        Cause(told["cause"]),
        files,
        notices,
        readers,
        keeper,
        told["kept"],
    )


def _other_version(protocol: str) -> str:
    """What is wrong with a supervisor that speaks this one, and what helps."""
    return (
        f"msharefs {__version__} cannot serve under supervisor {os.getppid()}, which is of another version"
        f" (protocol {protocol}, not {PROTOCOL}): install that version again, or unmount and mount"
    )


def read_init(given: Inheritance, device: Device) -> bytes:
    """The INIT request: from the kernel, or as the first server kept it for the others.
    Raises UnmountedError and StateError."""
    if given.restarts:
        with open(given.path(INIT), "rb") as file:
            return file.read()
    buffer = bytearray(REQUEST_ROOM)
    try:
        init = bytes(memoryview(buffer)[: device.read_into(buffer)])
    except ConnectionGone as error:
        raise UnmountedError("it was unmounted before it answered") from error
    write_file(given.path(INIT), init)
    return init
