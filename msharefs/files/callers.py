"""Files of callers as a server has them: core's port Files, by the broker and its helpers.

Owns how long a file is waited for, how many of a user at a time, and which helpers wait for their
user's next file. What a file is, and whether it may be mapped, is judged elsewhere.
"""

from __future__ import annotations

import errno
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import trio

from msharefs.files import wire
from msharefs.files.conversation import PATIENCE, Conversation, EndedError
from msharefs.files.kept import Kept, KeptFile
from msharefs.files.wire import Facts, Wanted
from msharefs.user_bounds import UserBounds

log = logging.getLogger(__name__)

AT_A_TIME = 8
AT_A_TIME_OF_A_USER = 2
"""Files that are waited for; others wait for their turn."""
RECORD_BITS = 48
"""Of the number of a record, which is drawn: a server does not know all that there are."""
IDLE_HELPERS = 2
"""Those that are kept for the next file of their user: to start one takes ten times as long as to
read a small file."""


class HelpedFile:
    """An open file that a helper has: core's port OpenFile."""

    def __init__(self, conversation: Conversation, kept: Kept) -> None:
        """The conversation with the helper, not owned here; and where records are kept."""
        self._conversation = conversation
        self._kept = kept
        self._record = 0
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
        await self._conversation.send({"have": wanted._asdict()})
        self._facts = Facts(**(await self._conversation.answer())["file"])

    async def remember(self, offset: int, size: int) -> int:
        """See core's port. Raises OSError."""
        await self._conversation.send({"remember": (offset, size)})
        await self._conversation.answer()
        self._record = secrets.randbits(RECORD_BITS) + 1
        return self._record

    async def measure(self, offset: int, size: int) -> int:
        """See core's port. Raises OSError."""
        await self._conversation.send({"measure": (offset, size)})
        answer = await self._end()
        data: int = answer["data"]
        return data

    async def read(self, pieces: Sequence[tuple[int, int, int, int]]) -> None:
        """See core's port. Raises OSError."""
        await self._have_read("read", pieces)

    async def read_data(self, pieces: Sequence[tuple[int, int, int, int]]) -> None:
        """See core's port. Raises OSError."""
        await self._have_read("fill", pieces)

    async def _have_read(self, order: str, pieces: Sequence[tuple[int, int, int, int]]) -> None:
        for batch in wire.batches(pieces):
            targets = sorted({piece[0] for piece in batch})
            places = [(targets.index(piece[0]), *piece[1:]) for piece in batch]
            await self._conversation.send({order: places}, targets)
            await self._end()

    async def _end(self) -> dict[str, Any]:
        """The last message about an order, after words that it goes on."""
        while "done" not in (answer := await self._conversation.answer()):
            pass
        return answer

    async def keep(self) -> None:
        """See core's port. Raises OSError."""
        await self._conversation.send({"record": True})
        _done, descriptors = await self._conversation.answer_with_descriptors()
        try:
            await self._kept.keep(self._record, descriptors)
        finally:
            wire.close(descriptors)

    async def close(self) -> None:
        """Have the helper let go of it. Raises OSError."""
        await self._conversation.send({"close": True})


class CallersFiles:
    """Core's port Files."""

    def __init__(self, broker: socket.socket, keeper: socket.socket) -> None:
        """Our ends of their sockets, owned from here on."""
        broker.setblocking(False)
        self._broker = Conversation(trio.socket.from_stdlib_socket(broker))
        self._kept = Kept(keeper)
        # Apart, because who has the one may have to wait for the other.
        self._to_read = UserBounds(AT_A_TIME, AT_A_TIME_OF_A_USER)
        self._to_write = UserBounds(AT_A_TIME, AT_A_TIME_OF_A_USER)
        self._idle: list[tuple[int, Conversation]] = []
        self._complained: set[int] = set()

    @asynccontextmanager
    async def take(
        self, thread: int, uid: int, gid: int, descriptor: int
    ) -> AsyncIterator[HelpedFile]:
        """See core's port. Raises OSError."""
        wanted = Wanted(thread, uid, gid, descriptor)
        async with self._to_read.turn(uid), self._helped(wanted) as file:
            yield file

    @asynccontextmanager
    async def open(self, record: int, uid: int) -> AsyncIterator[KeptFile]:
        """See core's port. Raises OSError."""
        async with self._to_write.turn(uid), self.look_into(record, uid) as file:
            yield file

    @asynccontextmanager
    async def look_into(self, record: int, uid: int) -> AsyncIterator[KeptFile]:
        """See core's port. Raises OSError."""
        async with self._kept.had(record) as descriptors:
            conversation = await self._order(uid, writes=True)
            try:
                yield KeptFile(conversation, descriptors)
            finally:
                conversation.close()

    def forget(self, records: Sequence[int]) -> None:
        """See core's port."""
        self._kept.forget(records)

    @asynccontextmanager
    async def _helped(self, wanted: Wanted) -> AsyncIterator[HelpedFile]:
        """By a helper that waits, if there is one. A helper that had a file to the end waits for
        the next one; any other is let go of, and ended."""
        conversation, file = await self._had(wanted)
        try:
            yield file
        except BaseException:
            conversation.close()
            raise
        await self._let_go(wanted.uid, conversation, file)

    async def _let_go(self, uid: int, conversation: Conversation, file: HelpedFile) -> None:
        """Whoever had the file has all that he wanted of it, and may have told others: a helper that
        ends just now, or a caller who gives up, does not make that undone."""
        try:
            with trio.CancelScope(shield=True):
                await file.close()
        except OSError as error:
            log.debug("a helper of user %d is not used again: %s", uid, error)
            conversation.close()
            return
        self._idle.append((uid, conversation))
        if len(self._idle) > IDLE_HELPERS:
            self._idle.pop(0)[1].close()

    async def _had(self, wanted: Wanted) -> tuple[Conversation, HelpedFile]:
        """The file, and the conversation with its helper. Raises OSError."""
        with self._complaints_of(wanted):
            while (conversation := self._waiting(wanted.uid)) is not None:
                # It ends when nothing is wanted of it for a while, or with its broker.
                with suppress(EndedError):
                    return conversation, await self._have(conversation, wanted)
            conversation = await self._order(wanted.uid, writes=False)
            return conversation, await self._have(conversation, wanted)

    def _waiting(self, uid: int) -> Conversation | None:
        for number, (user, conversation) in enumerate(self._idle):
            if user == uid:
                del self._idle[number]
                return conversation
        return None

    async def _order(self, uid: int, *, writes: bool) -> Conversation:
        """The conversation with a new helper. If there is no broker at this moment, the supervisor
        starts one, which finds the order. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        conversation = Conversation(trio.socket.from_stdlib_socket(ours))
        try:
            with theirs, trio.fail_after(PATIENCE):
                await self._broker.send({"uid": uid, "writes": writes}, [theirs.fileno()])
        except trio.TooSlowError:
            conversation.close()
            raise OSError(errno.ETIMEDOUT, "the broker of files takes no orders") from None
        except BaseException:
            conversation.close()
            raise
        return conversation

    async def _have(self, conversation: Conversation, wanted: Wanted) -> HelpedFile:
        """The conversation is over where that fails. Raises OSError."""
        file = HelpedFile(conversation, self._kept)
        try:
            await file.have(wanted)
        except BaseException:
            conversation.close()
            raise
        return file

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
