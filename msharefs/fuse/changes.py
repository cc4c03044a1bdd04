"""Changes of regions' memory, in their order.

Owns when a plan is made and worked: one change of a region at a time, and a change that is
large in a worker thread, while the loop serves others, of which no user has all. What is changed, and what is answered, is
for the handlers to say.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TypeVar

import trio

from msharefs.core.errors import OutOfMemory
from msharefs.core.layout import Range
from msharefs.core.manager import RegionManager
from msharefs.core.plan import Plan
from msharefs.core.region import Region
from msharefs.fuse.planes.plane import DataPlane
from msharefs.user_bounds import UserBounds

RECLAIM_LOOK = 0.005
"""Seconds between looks at whether the memory of regions that are gone is free."""
SLOW_WORK = 16 << 20
"""From this many bytes on memory is changed in a worker thread (about 2 ms in the loop)."""
WORKERS = 32
WORKERS_OF_A_USER = 4
"""Threads that change memory at a time: a few of trio's 40 are left to what the mount itself has to do."""

SomePlan = TypeVar("SomePlan", bound=Plan)
MakePlan = Callable[[], Plan]
"""Makes the plan of one request, when its turn has come."""
Answer = Callable[[], bytes]
"""Gives the payload of the reply, once the change is done."""


class Changes:
    """One change of a region's mappings runs at a time; later ones wait in order, and each is
    checked when its turn comes."""

    def __init__(self, manager: RegionManager, plane: DataPlane) -> None:
        self._manager = manager
        self._mappings = manager.mappings
        self._plane = plane
        # A region whose memory is being changed, and those who wait for it, in order.
        self._waiting: dict[int, deque[trio.Event]] = {}
        self._workers = UserBounds(WORKERS, WORKERS_OF_A_USER)
        # Ranges of regions that something works on beside the changes, and the end of that.
        self._apart: dict[int, tuple[Range, trio.Event]] = {}

    def make(
        self, uid: int, region: Region, make_plan: MakePlan, answer: Answer
    ) -> bytes | Awaitable[bytes]:
        """Make a change that a user asks for, and give its answer.

        A small one is done when this returns. A large one, one of pages that the kernel
        holds, and one that has to wait for another of its region, is answered later.
        """
        waiting = self._waiting.get(region.ino)
        if waiting is not None:
            turn = trio.Event()
            waiting.append(turn)
            return self._change_in_turn(turn, uid, region, make_plan, answer)
        try:
            plan = make_plan()
            if self._is_small(plan) and self._kept_from(plan) is None:
                self._mappings.perform(plan)
                return answer()
        except OutOfMemory:
            if not self._manager.tables.may_come:
                raise
            self._waiting[region.ino] = deque()
            return self._change_patiently(uid, region, make_plan, answer)
        self._waiting[region.ino] = deque()
        return self._change_slowly(uid, plan, answer)

    def is_changing(self, ino: int) -> bool:
        """Whether a change of the region is on its way."""
        return ino in self._waiting

    @contextmanager
    def kept_apart(self, ino: int, part: Range) -> Iterator[None]:
        """For as long as this lasts changes that touch a range of the region wait; all others do
        not. To be begun while no change of the region is on its way."""
        over = trio.Event()
        self._apart[ino] = part, over
        try:
            yield
        finally:
            del self._apart[ino]
            over.set()

    def turn(self, ino: int) -> AbstractAsyncContextManager[None]:
        """A context that waits for a region's turn, from now on, and hands it on in the end. It must
        be entered."""
        waiting = self._waiting.get(ino)
        if waiting is None:
            self._waiting[ino] = deque()
            return self._in_turn(ino, None)
        turn = trio.Event()
        waiting.append(turn)
        return self._in_turn(ino, turn)

    @asynccontextmanager
    async def _in_turn(self, ino: int, turn: trio.Event | None) -> AsyncIterator[None]:
        if turn is not None:
            await self._wait_for(turn, ino)
        try:
            yield
        finally:
            self._next_turn(ino)

    async def plan_patiently(self, make_plan: Callable[[], SomePlan]) -> SomePlan:
        """Make a plan in a region's turn; if memory is short, there may be some in a moment."""
        tables = self._manager.tables
        while True:
            try:
                return make_plan()
            except OutOfMemory:
                if not tables.may_come:
                    raise
            if tables.sweeping:
                tables.sweep_some()
                await trio.lowlevel.checkpoint()
            else:
                await trio.sleep(RECLAIM_LOOK)

    async def acquire(self, uid: int, plan: Plan) -> None:
        """In a thread if it is large, or if pages in holes may have to be looked for. Raises
        RefusedError, and the plan is abandoned then."""
        at_once = plan.cost < SLOW_WORK and self._kept_from(plan) is None
        if at_once and not self._manager.tables.ledger.has_more_than_reserved:
            self._mappings.acquire(plan)
            return
        try:
            while (over := self._kept_from(plan)) is not None:
                await over.wait()
            async with self._workers.turn(uid):
                await trio.to_thread.run_sync(
                    plan.acquire, self._make_room_from_thread, _is_interrupted
                )
        except OSError as cause:
            self._mappings.abandon(plan, cause)
        except trio.Cancelled:
            # Before it began.
            self._mappings.abandon(plan, OSError(errno.EINTR, os.strerror(errno.EINTR)))

    async def clear_and_commit(self, uid: int, plan: Plan) -> None:
        """What comes after `acquire`."""
        if self._is_small(plan):
            plan.clear()
            self._mappings.commit(plan)
            return
        # From here on there is no way back.
        with trio.CancelScope(shield=True), self._plane.changing(plan):
            async with self._workers.turn(uid):
                await trio.to_thread.run_sync(self._clear, plan)
            self._mappings.commit(plan)

    def _kept_from(self, plan: Plan) -> trio.Event | None:
        """What the plan has to wait for."""
        part, over = self._apart.get(plan.region.ino, (None, None))
        if part is not None and plan.cut.start < part.end and part.start < plan.cut.end:
            return over
        return None

    def _is_small(self, plan: Plan) -> bool:
        """Whether the loop does it, and nobody waits for long."""
        return plan.cost < SLOW_WORK and not self._plane.has_stale_pages(plan)

    async def _wait_for(self, turn: trio.Event, ino: int) -> None:
        """Who gives up has no turn, and hands on what he has got already."""
        try:
            await turn.wait()
        except trio.Cancelled:
            if turn.is_set():
                self._next_turn(ino)
            else:
                self._waiting[ino].remove(turn)
            raise

    async def _change_in_turn(
        self, turn: trio.Event, uid: int, region: Region, make_plan: MakePlan, answer: Answer
    ) -> bytes:
        await self._wait_for(turn, region.ino)
        return await self._change_patiently(uid, region, make_plan, answer)

    async def _change_patiently(
        self, uid: int, region: Region, make_plan: MakePlan, answer: Answer
    ) -> bytes:
        try:
            plan = await self.plan_patiently(make_plan)
        except BaseException:
            self._next_turn(region.ino)
            raise
        return await self._change_slowly(uid, plan, answer)

    async def _change_slowly(self, uid: int, plan: Plan, answer: Answer) -> bytes:
        try:
            await self.acquire(uid, plan)
            await self.clear_and_commit(uid, plan)
        finally:
            self._next_turn(plan.region.ino)
        return answer()

    def _make_room_from_thread(self, extra: int) -> bool:
        """The tables belong to the loop."""
        try:
            return trio.from_thread.run(self._make_room, extra)
        except trio.Cancelled:
            # The next try is given up.
            return True

    async def _make_room(self, extra: int) -> bool:
        """After a look at all regions, between which others are served."""
        tables = self._manager.tables
        while tables.sweep_some():
            await trio.lowlevel.checkpoint()
        return tables.make_room(extra)

    def _clear(self, plan: Plan) -> None:
        """In the worker thread: dropping pages waits for requests that the loop answers."""
        plan.clear()
        self._plane.drop_stale_pages(plan)

    def _next_turn(self, ino: int) -> None:
        waiting = self._waiting[ino]
        if waiting:
            waiting.popleft().set()
        else:
            del self._waiting[ino]


def _is_interrupted() -> bool:
    """In a worker thread: whether the request that it works for is given up."""
    try:
        trio.from_thread.check_cancelled()
    except trio.Cancelled:
        return True
    return False
