"""The keeper: a supervisor's part in files that are written back. It keeps descriptors, and only them.

Owns the descriptors of each record, by number, so that they outlive the servers that use them. It never
looks into them, and does nothing but to give and take them. It has no thread of its own: its
supervisor calls `serve` when there is something to be read.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msharefs.files import wire

SPARE = 128
"""Descriptors that a supervisor needs for other things."""
MOST = 2048
"""Files, so that their numbers fit into one message."""


class Keeper:
    """What is kept, and the socket on which the server that serves now asks for it."""

    def __init__(self) -> None:
        self._kept: dict[int, Sequence[int]] = {}
        self._server: socket.socket | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def numbers(self) -> list[int]:
        """Of what is kept, in order."""
        return sorted(self._kept)

    def meet(self) -> socket.socket:
        """A new server comes in the place of the one before. Returns its end of the socket, which is
        the caller's. Raises OSError."""
        self.part()
        self._server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.setblocking(False)
        return theirs

    def part(self) -> None:
        """The server is gone. What is kept stays."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def fileno(self) -> int:
        """On which the server asks, -1 where there is none."""
        return -1 if self._server is None else self._server.fileno()

    def serve(self) -> None:
        """Answer what has been asked by now."""
        while self._server is not None:
            try:
                message, descriptors = wire.receive(self._server)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = {}, []
            if not message:
                self.part()
                return
            answer, given = self._answer(message, descriptors)
            # One that does not read is told nothing.
            with suppress(OSError):
                if answer:
                    wire.send(self._server, answer, given)

    def _answer(
        self, message: dict[str, Any], descriptors: list[int]
    ) -> tuple[dict[str, Any], Sequence[int]]:
        if "keep" in message:
            return self._keep(message["keep"], descriptors), ()
        wire.close(descriptors)
        if "forget" in message:
            for number in message["forget"]:
                wire.close(self._kept.pop(number, ()))
            return {}, ()
        number = message["give"]
        given = self._kept.get(number, ())
        return {"of": number}, given

    def _keep(self, number: int, descriptors: list[int]) -> dict[str, Any]:
        if len(descriptors) < 2 or len(self._kept) >= most():
            # The kernel closes what there is no descriptor for.
            wire.close(descriptors)
            return {"of": number, **wire.failure(OSError(errno.ENFILE, os.strerror(errno.ENFILE)))}
        self._kept[number] = descriptors
        return {"of": number}


def most() -> int:
    """How many files this process may keep."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(0, min(MOST, (soft - SPARE) // 2))
