"""Bounds on what is done at a time, of which one user gets a part alone.

Owns who goes on and who waits, in the order in which they came. What it is that is done is not known
here; users are told by their number.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class UserBounds:
    """So many at a time, and fewer for each user: the others wait."""

    def __init__(self, in_all: int, each: int) -> None:
        self._in_all = trio.CapacityLimiter(in_all)
        self._each = each
        self._of: dict[int, trio.CapacityLimiter] = {}

    @asynccontextmanager
    async def turn(self, uid: int) -> AsyncIterator[None]:
        """A context in which one thing more is done for a user."""
        own = self._of.setdefault(uid, trio.CapacityLimiter(self._each))
        try:
            # Whoever waits for his own turn keeps nobody else from theirs.
            async with own, self._in_all:
                yield
        finally:
            statistics = own.statistics()
            if not statistics.borrowed_tokens and not statistics.tasks_waiting:
                self._of.pop(uid, None)
