"""Files of callers as a server has them: core's port Files, by the broker and its helpers.

Owns how long a file is waited for, how many of a user at a time, and which helpers wait for their
user's next file. What a file is, and whether it may be mapped, is judged elsewhere.
"""

from __future__ import annotations

import errno
import logging
import socket
from array import array
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import trio

from msharefs.files import wire
from msharefs.files.wire import Facts, Wanted
from msharefs.user_bounds import UserBounds

log = logging.getLogger(__name__)

AT_A_TIME = 8
AT_A_TIME_OF_A_USER = 2
"""Files that are waited for; others wait for their turn."""
PATIENCE = 5.0
"""Seconds in which something must be heard of a file."""
IDLE_HELPERS = 2
"""Those that are kept for the next file of their user: to start one takes ten times as long as to
read a small file."""


class _EndedError(OSError):
    """The process that had a file is not there any more."""


class HelpedFile:
    """An open file that a helper has: core's port OpenFile."""

    def __init__(self, conversation: trio.socket.SocketType) -> None:
        """`conversation` is our end of the helper's socket, not owned here."""
        self._conversation = conversation
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

    async def have(self, wanted: Wanted) -> None:
        """Wait until the helper has it. Raises OSError."""
        try:
            await _send(self._conversation, {"have": wanted._asdict()})
        except (BrokenPipeError, ConnectionResetError) as error:
            raise _ended() from error
        self._facts = Facts(**(await self._answer())["file"])

    async def read(self, pieces: Sequence[tuple[int, int, int, int]]) -> None:
        """See core's port. Raises OSError."""
        for batch in wire.batches(pieces):
            targets = sorted({piece[0] for piece in batch})
            places = [(targets.index(piece[0]), *piece[1:]) for piece in batch]
            await _send(self._conversation, {"read": places}, targets)
            while "done" not in await self._answer():
                pass

    async def close(self) -> None:
        """Have the helper let go of it. Raises OSError."""
        await _send(self._conversation, {"close": True})

    async def _answer(self) -> dict[str, Any]:
        with trio.move_on_after(PATIENCE):
            return await self._said()
        raise OSError(errno.ETIMEDOUT, f"it has not answered for {PATIENCE:.0f} seconds")

    async def _said(self) -> dict[str, Any]:
        try:
            message = wire.decode(await self._conversation.recv(wire.LARGEST))
        except ConnectionResetError:
            message = {}
        if not message:
            raise _ended()
        if "errno" in message:
            raise OSError(message["errno"], message["why"])
        return message


class CallersFiles:
    """Core's port Files."""

    def __init__(self, broker: socket.socket) -> None:
        """`broker` is our end of its socket, owned from here on."""
        broker.setblocking(False)
        self._broker = trio.socket.from_stdlib_socket(broker)
        self._bounds = UserBounds(AT_A_TIME, AT_A_TIME_OF_A_USER)
        self._idle: list[tuple[int, trio.socket.SocketType]] = []
        self._complained: set[int] = set()

    @asynccontextmanager
    async def take(
        self, thread: int, uid: int, gid: int, descriptor: int
    ) -> AsyncIterator[HelpedFile]:
        """See core's port. Raises OSError."""
        wanted = Wanted(thread, uid, gid, descriptor)
        async with self._bounds.turn(uid), self._helped(wanted) as file:
            yield file

    @asynccontextmanager
    async def _helped(self, wanted: Wanted) -> AsyncIterator[HelpedFile]:
        """By a helper that waits, if there is one. A helper that had a file to the end waits for
        the next one; any other is let go of, and ended."""
        conversation, file = await self._had(wanted)
        try:
            yield file
            await file.close()
        except BaseException:
            conversation.close()
            raise
        self._idle.append((wanted.uid, conversation))
        if len(self._idle) > IDLE_HELPERS:
            self._idle.pop(0)[1].close()

    async def _had(self, wanted: Wanted) -> tuple[trio.socket.SocketType, HelpedFile]:
        """The file, and the conversation with its helper. Raises OSError."""
        with self._complaints_of(wanted):
            while (conversation := self._waiting(wanted.uid)) is not None:
                # It ends when nothing is wanted of it for a while, or with its broker.
                with suppress(_EndedError):
                    return conversation, await _have(conversation, wanted)
            conversation = await self._order(wanted.uid)
            return conversation, await _have(conversation, wanted)

    def _waiting(self, uid: int) -> trio.socket.SocketType | None:
        for number, (user, conversation) in enumerate(self._idle):
            if user == uid:
                del self._idle[number]
                return conversation
        return None

    async def _order(self, uid: int) -> trio.socket.SocketType:
        """The conversation with a new helper. If there is no broker at this moment, the supervisor
        starts one, which finds the order. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        conversation = trio.socket.from_stdlib_socket(ours)
        try:
            with theirs, trio.fail_after(PATIENCE):
                await _send(self._broker, {"uid": uid}, [theirs.fileno()])
        except trio.TooSlowError:
            conversation.close()
            raise OSError(errno.ETIMEDOUT, "the broker of files takes no orders") from None
        except BaseException:
            conversation.close()
            raise
        return conversation

    @contextmanager
    def _complaints_of(self, wanted: Wanted) -> Iterator[None]:
        """One line for each user, until one of his can be had again."""
        try:
            yield
        except OSError as error:
            if error.errno in _TROUBLE and wanted.uid not in self._complained:
                self._complained.add(wanted.uid)
                log.warning("a file of user %d (process %d): %s", wanted.uid, wanted.thread, error)
            raise
        self._complained.discard(wanted.uid)


_TROUBLE = frozenset({errno.EPERM, errno.EIO, errno.ETIMEDOUT})
"""What whoever looks after the machine may want to know of."""


def _ended() -> _EndedError:
    return _EndedError(errno.EIO, "the process that had it has ended")


async def _have(conversation: trio.socket.SocketType, wanted: Wanted) -> HelpedFile:
    """The conversation is over where that fails. Raises OSError."""
    file = HelpedFile(conversation)
    try:
        await file.have(wanted)
    except BaseException:
        conversation.close()
        raise
    return file


async def _send(
    conversation: trio.socket.SocketType,
    message: Mapping[str, Any],
    descriptors: Sequence[int] = (),
) -> None:
    rights = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))] if descriptors else []
    )
    await conversation.sendmsg([wire.encode(message)], rights)
