"""IOCTL and FALLOCATE, which pyfuse3 cannot carry, over RegionManager.

Owns their decoding and encoding, and the order of changes to one region's memory: a
change that is large goes to a worker thread, and the next one of that region waits for
it.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import trio

from msharefs import abi
from msharefs.core.checks import maps_file
from msharefs.core.errors import FileFailed, NotAnIoctl, OutOfMemory
from msharefs.core.manager import RegionManager
from msharefs.core.mappable import check_file, mapped_file
from msharefs.core.plan import MapPlan, Plan
from msharefs.core.ports import Files, OpenFile
from msharefs.core.region import Region
from msharefs.fuse import kernel, messages
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header, MalformedError
from msharefs.fuse.payload import request_of
from msharefs.fuse.planes.plane import DataPlane

RECLAIM_LOOK = 0.005
"""Seconds between looks at whether the memory of regions that are gone is free."""
SLOW_WORK = 16 << 20
"""From this many bytes on memory is changed in a worker thread (about 2 ms in the loop)."""

SomePlan = TypeVar("SomePlan", bound=Plan)
MakePlan = Callable[[], Plan]
"""Makes the plan of one request, when its turn has come."""


class Control:
    """Handlers for the switchboard. One change of a region's mappings runs at a time; later ones
    wait in order, and each is checked when its turn comes. A file is had before that, so that
    nobody waits for a file but who maps it."""

    def __init__(self, manager: RegionManager, plane: DataPlane, files: Files) -> None:
        self._manager = manager
        self._files = files
        self._mappings = manager.mappings
        self._plane = plane
        # A region whose memory is being changed, and those who wait for it, in order.
        self._waiting: dict[int, deque[trio.Event]] = {}

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], bytes | Awaitable[bytes]]]:
        """Which request each of them answers."""
        return {Opcode.FALLOCATE: self.fallocate, Opcode.IOCTL: self.ioctl}

    def fallocate(self, header: Header, body: memoryview) -> bytes:
        """FALLOCATE sets the size of a region that has none, as ftruncate(2) does; it reserves
        nothing, because only mappings have memory."""
        wanted = messages.decode_fallocate(body)
        self._manager.fallocate(
            request_of(header), header.nodeid, wanted.mode, wanted.offset, wanted.length
        )
        return b""

    def ioctl(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """IOCTL: CREATE_MAPPING and UNMAP; any other number is ENOTTY in any state.

        A small change is done when this returns. A large one, one of pages that the kernel
        holds, one that has to wait for another of its region, and the mapping of a file, is
        answered later.
        """
        head, payload = messages.decode_ioctl(body)
        # The kernel sends as many bytes as the number encodes, none for a number without.
        if head.flags & kernel.FUSE_IOCTL_DIR or head.command not in _COMMANDS:
            raise NotAnIoctl(f"ioctl {head.command:#x}")
        if len(payload) != _COMMANDS[head.command]:
            raise MalformedError(f"{len(payload)} bytes for ioctl {head.command:#x}")
        region = self._mappings.ioctl_region(header.nodeid)
        writable = head.handle in _WRITABLE
        make_plan: MakePlan
        if head.command == abi.UNMAP:
            make_plan = partial(
                self._mappings.plan_unmap,
                request_of(header),
                region,
                abi.Unmap.unpack(payload),
                writable=writable,
            )
        else:
            wanted = abi.CreateMapping.unpack(payload)
            plan_map = partial(
                self._mappings.plan_map, request_of(header), region, wanted, writable=writable
            )
            if maps_file(wanted):
                self._mappings.check_map(region, wanted, writable=writable)
                return self._map_file(header, region, wanted, plan_map)
            make_plan = plan_map
        waiting = self._waiting.get(region.ino)
        if waiting is not None:
            turn = trio.Event()
            waiting.append(turn)
            return self._change_in_turn(turn, region, make_plan)
        try:
            plan = make_plan()
            if plan.cost < SLOW_WORK and not self._plane.has_stale_pages(plan):
                self._mappings.perform(plan)
                return messages.encode_ioctl()
        except OutOfMemory:
            if not self._manager.tables.may_come:
                raise
            self._waiting[region.ino] = deque()
            return self._change_patiently(region, make_plan)
        self._waiting[region.ino] = deque()
        return self._change_slowly(plan)

    async def _map_file(
        self,
        header: Header,
        region: Region,
        wanted: abi.CreateMapping,
        plan_map: Callable[..., MapPlan],
    ) -> bytes:
        """CREATE_MAPPING of a file: had and looked at first, then read in this region's turn."""
        try:
            async with self._files.take(header.pid, header.uid, header.gid, wanted.fd) as file:
                check_file(file, wanted.prot)
                found = mapped_file(file, wanted.offset, header.uid)
                async with self._turn(region.ino):
                    plan = await self._plan_patiently(partial(plan_map, file=found))
                    await self._read(plan, file)
                    await self._clear_and_commit(plan)
        except OSError as cause:
            raise FileFailed(cause) from cause
        return messages.encode_ioctl()

    async def _read(self, plan: MapPlan, file: OpenFile) -> None:
        """The file's bytes to where they are needed. Raises OSError of the file, and undoes all
        then, as at the end of the mount."""
        await self._acquire_in_thread(plan)
        try:
            await file.read(plan.contents.pieces)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(plan.give_up)
            self._mappings.withdraw(plan)
            raise

    @asynccontextmanager
    async def _turn(self, ino: int) -> AsyncIterator[None]:
        """Wait for a region's turn, and hand it on in the end."""
        waiting = self._waiting.get(ino)
        if waiting is None:
            self._waiting[ino] = deque()
        else:
            turn = trio.Event()
            waiting.append(turn)
            await self._wait_for(turn, ino)
        try:
            yield
        finally:
            self._next_turn(ino)

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

    async def _change_in_turn(self, turn: trio.Event, region: Region, make_plan: MakePlan) -> bytes:
        await self._wait_for(turn, region.ino)
        return await self._change_patiently(region, make_plan)

    async def _change_patiently(self, region: Region, make_plan: MakePlan) -> bytes:
        """It is this region's turn; if memory is short, there may be some in a moment."""
        try:
            plan = await self._plan_patiently(make_plan)
        except BaseException:
            self._next_turn(region.ino)
            raise
        return await self._change_slowly(plan)

    async def _plan_patiently(self, make_plan: Callable[[], SomePlan]) -> SomePlan:
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

    async def _change_slowly(self, plan: Plan) -> bytes:
        try:
            await self._work_in_thread(plan)
        finally:
            self._next_turn(plan.region.ino)
        return messages.encode_ioctl()

    async def _work_in_thread(self, plan: Plan) -> None:
        await self._acquire_in_thread(plan)
        await self._clear_and_commit(plan)

    async def _acquire_in_thread(self, plan: Plan) -> None:
        try:
            await trio.to_thread.run_sync(
                plan.acquire, self._make_room_from_thread, _is_interrupted
            )
        except OSError as cause:
            self._mappings.abandon(plan, cause)
        except trio.Cancelled:
            # Before it began.
            self._mappings.abandon(plan, OSError(errno.EINTR, os.strerror(errno.EINTR)))

    async def _clear_and_commit(self, plan: Plan) -> None:
        # From here on there is no way back.
        with trio.CancelScope(shield=True), self._plane.changing(plan):
            await trio.to_thread.run_sync(self._clear, plan)
            self._mappings.commit(plan)

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


_WRITABLE = frozenset({os.O_WRONLY, os.O_RDWR})
_COMMANDS = {
    abi.CREATE_MAPPING: abi.CreateMapping.FORMAT.size,
    abi.CREATE_MAPPING_X86_32: abi.CreateMapping.FORMAT_X86_32.size,
    abi.UNMAP: abi.Unmap.FORMAT.size,
}
"""The ioctls that there are, and how long their payload is: as long as the number says."""
