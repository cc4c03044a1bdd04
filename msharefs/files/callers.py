"""Files of callers as a server has them: core's port Files, by the broker and its helpers.

Owns how long a file is waited for, and how many of a user at a time. What a file is, and whether it may be mapped, is judged elsewhere.
"""

from __future__ import annotations

import errno
import logging
import socket
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import trio

from msharefs.files import wire
from msharefs.files.wire import Facts, Wanted

log = logging.getLogger(__name__)

AT_A_TIME = 8
AT_A_TIME_OF_A_USER = 2
"""Files that are waited for; others wait for their turn."""
PATIENCE = 5.0
"""Seconds in which something must be heard of a file."""


class HelpedFile:
    """An open file that a helper has: core's port OpenFile."""

    def __init__(self, conversation: trio.socket.SocketType, wanted: Wanted) -> None:
        """`conversation` is our end of the helper's socket, not owned here."""
        self._conversation = conversation
        self.wanted = wanted
        self._facts = Facts(0, 0, 0, "", 0, 0, "")

    @property
    def mode(self) -> int:
        """Its st_mode."""
        return self._facts.mode

    @property
    def flags(self) -> int:
        """The flags of its open file description."""
        return self._facts.flags

    @property
    def seals(self) -> int:
        """Its seals."""
        return self._facts.seals

    @property
    def file_system(self) -> str:
        """The name of its file system, if that is known."""
        return self._facts.file_system

    @property
    def device(self) -> int:
        """Its st_dev."""
        return self._facts.device

    @property
    def inode(self) -> int:
        """Its st_ino."""
        return self._facts.inode

    @property
    def path(self) -> str:
        """What the kernel calls it."""
        return self._facts.path

    async def look(self) -> None:
        """Wait until the helper has it. Raises OSError."""
        self._facts = Facts(**(await self._answer())["file"])

    async def read(self, pieces: Sequence[tuple[int, int, int, int]]) -> None:
        """See core's port. Raises OSError."""
        for batch in wire.batches(pieces):
            targets = sorted({piece[0] for piece in batch})
            places = [(targets.index(piece[0]), *piece[1:]) for piece in batch]
            await _send(self._conversation, {"read": places}, targets)
            while "done" not in await self._answer():
                pass

    async def _answer(self) -> dict[str, Any]:
        with trio.move_on_after(PATIENCE):
            return self._judged(await self._conversation.recv(wire.LARGEST))
        raise OSError(errno.ETIMEDOUT, f"it has not answered for {PATIENCE:.0f} seconds")

    def _judged(self, packet: bytes) -> dict[str, Any]:
        message = wire.decode(packet)
        if not message:
            raise OSError(errno.EIO, "the process that had it has ended")
        if "errno" in message:
            raise OSError(message["errno"], message["why"])
        return message


class CallersFiles:
    """Core's port Files."""

    def __init__(self, broker: socket.socket) -> None:
        """`broker` is our end of its socket, owned from here on."""
        broker.setblocking(False)
        self._broker = trio.socket.from_stdlib_socket(broker)
        self._turns = trio.CapacityLimiter(AT_A_TIME)
        self._turns_of: dict[int, trio.CapacityLimiter] = {}
        self._complained: set[int] = set()

    @asynccontextmanager
    async def take(
        self, thread: int, uid: int, gid: int, descriptor: int
    ) -> AsyncIterator[HelpedFile]:
        """See core's port. Raises OSError."""
        wanted = Wanted(thread, uid, gid, descriptor)
        own_turns = self._turns_of.setdefault(uid, trio.CapacityLimiter(AT_A_TIME_OF_A_USER))
        try:
            async with own_turns, self._turns:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                with trio.socket.from_stdlib_socket(ours) as conversation:
                    with theirs:
                        await self._order(wanted, theirs)
                    yield await self._looked_at(HelpedFile(conversation, wanted))
        finally:
            statistics = own_turns.statistics()
            if not statistics.borrowed_tokens and not statistics.tasks_waiting:
                self._turns_of.pop(uid, None)

    async def _order(self, wanted: Wanted, theirs: socket.socket) -> None:
        """Have the broker start a helper for this end of a conversation. OSError (EIO) where
        somebody has ended it: the next server has its own."""
        try:
            await _send(self._broker, asdict(wanted), [theirs.fileno()])
        except (BrokenPipeError, ConnectionResetError) as error:
            log.warning("no file can be mapped: the broker of files has ended; restart the server")
            raise OSError(errno.EIO, "the broker of files has ended") from error

    async def _looked_at(self, file: HelpedFile) -> HelpedFile:
        wanted = file.wanted
        try:
            await file.look()
        except OSError as error:
            if error.errno in _TROUBLE and wanted.uid not in self._complained:
                # One line for each user, until one of his can be had again.
                self._complained.add(wanted.uid)
                log.warning("a file of user %d (process %d): %s", wanted.uid, wanted.thread, error)
            raise
        self._complained.discard(wanted.uid)
        return file


_TROUBLE = frozenset({errno.EPERM, errno.EIO, errno.ETIMEDOUT})
"""What whoever looks after the machine may want to know of."""


async def _send(
    conversation: trio.socket.SocketType, message: dict[str, Any], descriptors: Sequence[int]
) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
    await conversation.sendmsg([wire.encode(message)], [rights])
