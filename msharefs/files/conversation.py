"""One conversation of a server with a process that has files: messages, their descriptors, and patience.

Owns how long an answer is waited for, and what is no answer: an error, an end, silence. What the
messages mean is not known here.
"""

from __future__ import annotations

import errno
import socket
from array import array
from collections.abc import Sequence
from typing import Any

import trio

from msharefs.files import wire

PATIENCE = 5.0
"""Seconds in which something must be heard."""
_NO_DESCRIPTORS = array("i")
_ROOM = socket.CMSG_SPACE(wire.MOST_DESCRIPTORS * _NO_DESCRIPTORS.itemsize)


class EndedError(OSError):
    """The process at the other end is not there any more (EIO)."""


class Conversation:
    """Our end of a socket, which is owned here."""

    def __init__(self, channel: trio.socket.SocketType) -> None:
        self._channel = channel

    async def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """The descriptors stay ours. Raises EndedError."""
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
        try:
            await self._channel.sendmsg([wire.encode(message)], [rights] if descriptors else [])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _ended() from error

    async def answer(self, patience: float = PATIENCE) -> dict[str, Any]:
        """The next message. Raises OSError: what it says, EndedError, and ETIMEDOUT where it says
        nothing for so many seconds."""
        message, descriptors = await self.answer_with_descriptors(patience)
        wire.close(descriptors)
        return message

    async def answer_with_descriptors(
        self, patience: float = PATIENCE
    ) -> tuple[dict[str, Any], list[int]]:
        """The same with what came along, which is the caller's."""
        with trio.move_on_after(patience):
            message, descriptors = await self._next()
            if "errno" in message:
                wire.close(descriptors)
                raise OSError(message["errno"], message["why"])
            return message, descriptors
        raise OSError(errno.ETIMEDOUT, f"it has not answered for {patience:.0f} seconds")

    def close(self) -> None:
        """It is over."""
        self._channel.close()

    async def _next(self) -> tuple[dict[str, Any], list[int]]:
        try:
            packet, ancillary, _flags, _address = await self._channel.recvmsg(
                wire.LARGEST, _ROOM, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError as error:
            raise _ended() from error
        message = wire.decode(packet)
        if not message:
            raise _ended()
        return message, _descriptors(ancillary)


def _ended() -> EndedError:
    return EndedError(errno.EIO, "the process that had it has ended")


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) // found.itemsize * found.itemsize])
    return found.tolist()
