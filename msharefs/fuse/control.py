"""IOCTL and FALLOCATE, which pyfuse3 cannot carry, over RegionManager.

Owns their decoding and encoding, and the order of changes to one region's memory: a
change that is large goes to a worker thread, and the next one of that region waits for
it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio

from msharefs import abi
from msharefs.core.errors import NotAnIoctl, OutOfMemory
from msharefs.core.manager import ACQUIRE_TRIES, RegionManager
from msharefs.core.plan import Plan
from msharefs.fuse import kernel, messages
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.planes.plane import DataPlane
from msharefs.linux import proc

BURIAL_LOOK = 0.005
"""Seconds between looks at whether the memory of regions that are gone is free."""
SLOW_WORK = 16 << 20
"""From this many bytes on memory is changed in a worker thread (about 2 ms in the loop)."""


class Control:
    """Handlers for the switchboard."""

    def __init__(
        self, manager: RegionManager, plane: DataPlane, begin: Callable[[int, int], None]
    ) -> None:
        """`begin` (unique, opcode) tells what is served, where that is not at once."""
        self._manager = manager
        self._plane = plane
        self._begin = begin
        # A region whose memory is being changed, and those who wait for it, in order.
        self._waiting: dict[int, deque[trio.Event]] = {}

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], bytes | Awaitable[bytes]]]:
        """By opcode."""
        return {Opcode.FALLOCATE: self.fallocate, Opcode.IOCTL: self.ioctl}

    def fallocate(self, header: Header, body: memoryview) -> bytes:
        """FALLOCATE sets the size."""
        request = messages.decode_fallocate(body)
        self._manager.fallocate(header.nodeid, request.mode, request.offset, request.length)
        return b""

    def ioctl(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """IOCTL: CREATE_MAPPING and UNMAP; any other number is ENOTTY in any state."""
        head, payload = messages.decode_ioctl(body)
        # The kernel sends as many bytes as the number encodes, none for a number without.
        if head.flags & kernel.FUSE_IOCTL_DIR or head.command not in _COMMANDS:
            raise NotAnIoctl(f"ioctl {head.command:#x}")
        self._manager.ioctl_region(header.nodeid)
        waiting = self._waiting.get(header.nodeid)
        if waiting is not None:
            turn = trio.Event()
            waiting.append(turn)
            return self._change_in_turn(turn, header, head, payload)
        try:
            plan = self._plan(header, head, payload)
        except OutOfMemory:
            if not self._manager.dying:
                raise
            self._waiting[header.nodeid] = deque()
            return self._change_after_burials(header, head, payload)
        if plan.cost >= SLOW_WORK or self._plane.has_stale_pages(plan):
            self._waiting[header.nodeid] = deque()
            return self._change_slowly(header.nodeid, plan)
        self._manager.perform(plan)
        return messages.encode_ioctl()

    def _plan(self, header: Header, head: messages.IoctlIn, payload: bytes) -> Plan:
        writable = head.handle in _WRITABLE
        if head.command == abi.UNMAP:
            unmap = abi.Unmap.unpack(payload)
            return self._manager.plan_unmap(header.nodeid, unmap, writable=writable)
        return self._manager.plan_map(
            header.nodeid,
            abi.CreateMapping.unpack(payload),
            writable=writable,
            has_descriptor=partial(proc.has_descriptor, header.pid),
        )

    async def _change_in_turn(
        self, turn: trio.Event, header: Header, head: messages.IoctlIn, payload: bytes
    ) -> bytes:
        await turn.wait()
        return await self._change_after_burials(header, head, payload)

    async def _change_after_burials(
        self, header: Header, head: messages.IoctlIn, payload: bytes
    ) -> bytes:
        """It is this region's turn; if memory is short, that of dying regions may come yet."""
        try:
            plan = await self._plan_patiently(header, head, payload)
        except BaseException:
            self._next_turn(header.nodeid)
            raise
        return await self._change_slowly(header.nodeid, plan)

    async def _plan_patiently(self, header: Header, head: messages.IoctlIn, payload: bytes) -> Plan:
        while True:
            # Others were served since this request was read.
            self._begin(header.unique, header.opcode)
            try:
                return self._plan(header, head, payload)
            except OutOfMemory:
                if not self._manager.dying:
                    raise
            await trio.sleep(BURIAL_LOOK)

    async def _change_slowly(self, ino: int, plan: Plan) -> bytes:
        try:
            await self._work_in_thread(plan)
        finally:
            self._next_turn(ino)
        return messages.encode_ioctl()

    async def _work_in_thread(self, plan: Plan) -> None:
        await self._acquire_in_thread(plan)
        with self._plane.changing(plan):
            await trio.to_thread.run_sync(self._clear, plan)
            self._manager.commit(plan)

    async def _acquire_in_thread(self, plan: Plan) -> None:
        for tries_left in reversed(range(ACQUIRE_TRIES)):
            try:
                await trio.to_thread.run_sync(plan.acquire)
                break
            except OSError as cause:
                if not self._manager.may_try_again(cause, tries_left):
                    self._manager.abandon(plan, cause)

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


_WRITABLE = frozenset({os.O_WRONLY, os.O_RDWR})
_COMMANDS = frozenset({abi.CREATE_MAPPING, abi.CREATE_MAPPING_X86_32, abi.UNMAP})
