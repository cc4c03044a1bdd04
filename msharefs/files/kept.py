"""What a server has of files that are written back: their records, which the keeper has, and helpers that write.

Owns the conversation with the keeper, and how long a helper that writes is waited for. What is to be
written is told; which pages have been changed, the helper sees.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio

from msharefs.files import wire
from msharefs.files.conversation import Conversation

TO_SYNC = 60.0
"""Seconds in which a disk stores what it was given."""


class Kept:
    """The records of a mount, by number. Descriptors of one are had for a while, and given back."""

    def __init__(self, keeper: socket.socket) -> None:
        """Our end of the keeper's socket, owned from here on."""
        keeper.setblocking(False)
        self._keeper = keeper
        self._turn = trio.Lock()
        self._conversation = Conversation(trio.socket.from_stdlib_socket(keeper))

    async def keep(self, number: int, descriptors: Sequence[int]) -> None:
        """Have it kept; the descriptors stay the caller's. Raises OSError, with ENFILE where there are
        too many."""
        await self._ask({"keep": number}, descriptors, number)

    @asynccontextmanager
    async def had(self, number: int) -> AsyncIterator[list[int]]:
        """The descriptors of a record. Raises OSError, with ENOENT where it is not kept."""
        descriptors = await self._ask({"give": number}, (), number)
        try:
            if not descriptors:
                raise OSError(errno.ENOENT, f"record {number} is not kept")
            yield descriptors
        finally:
            wire.close(descriptors)

    def forget(self, numbers: Sequence[int]) -> None:
        """They are not needed any more; where the keeper cannot be told now, the next server does it."""
        for part in wire.batches([number for number in numbers if number > 0]):
            with suppress(OSError):
                wire.send(self._keeper, {"forget": part})

    async def _ask(
        self, message: dict[str, Any], descriptors: Sequence[int], number: int
    ) -> list[int]:
        # Once it is asked the answer is waited for: it would be taken for that to the next question.
        async with self._turn:
            with trio.CancelScope(shield=True):
                await self._conversation.send(message, descriptors)
                answer, given = await self._conversation.answer_with_descriptors()
                while answer["of"] != number:
                    # That to one which was given up.
                    wire.close(given)
                    answer, given = await self._conversation.answer_with_descriptors()
        return given


class KeptFile:
    """A file of a record as a helper has it that writes: core's port WrittenFile."""

    def __init__(self, conversation: Conversation, descriptors: Sequence[int]) -> None:
        """Those of the record, which stay the caller's."""
        self._conversation = conversation
        self._descriptors = descriptors

    async def write(
        self, segment: int, start: int, offset: int, size: int
    ) -> tuple[int, int, int, int]:
        """See core's port. Raises OSError."""
        order = {"write": [start, offset, size]}
        await self._conversation.send(order, [*self._descriptors, segment])
        written, both, unwritten, error = await self._end()
        return written, both, unwritten, error

    async def count(self, segment: int, start: int, offset: int, size: int) -> int:
        """See core's port. Raises OSError."""
        order = {"count": [start, offset, size]}
        await self._conversation.send(order, [*self._descriptors, segment])
        changed: int = await self._end()
        return changed

    async def _end(self) -> Any:
        """What was done, after words that it goes on."""
        while "done" not in (answer := await self._conversation.answer()):
            pass
        return answer["done"]

    async def sync(self) -> None:
        """See core's port. Raises OSError."""
        await self._conversation.send({"sync": True}, self._descriptors)
        await self._conversation.answer(TO_SYNC)
