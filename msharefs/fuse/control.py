"""IOCTL and FALLOCATE, which pyfuse3 cannot carry, over RegionManager.

Owns their decoding and encoding. In which order a region's memory is changed is in changes.py.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial

import trio

from msharefs import abi
from msharefs.core.checks import maps_file
from msharefs.core.errors import FileFailed, NotAnIoctl
from msharefs.core.layout import MappedFile, Range
from msharefs.core.manager import RegionManager
from msharefs.core.mappable import check_file, mapped_file
from msharefs.core.plan import FillPlan, MapPlan, Plan
from msharefs.core.ports import Files, OpenFile
from msharefs.core.region import Region
from msharefs.fuse import kernel, messages
from msharefs.fuse.changes import Changes
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import FallocateIn, Header, MalformedError
from msharefs.fuse.payload import request_of
from msharefs.fuse.tokens import Tokens
from msharefs.fuse.write_back import WriteBack

log = logging.getLogger(__name__)


class Control:
    """Handlers for the switchboard. A file is had before the turn of its region comes, so that nobody
    waits for a file but who maps it."""

    def __init__(
        self,
        manager: RegionManager,
        changes: Changes,
        files: Files,
        write_back: WriteBack,
        tokens: Tokens | None = None,
    ) -> None:
        """Without `tokens` no region can be attached directly."""
        self._manager = manager
        self._tokens = tokens
        self._files = files
        self._write_back = write_back
        self._mappings = manager.mappings
        self._changes = changes

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], bytes | Awaitable[bytes]]]:
        """Which request each of them answers."""
        return {Opcode.FALLOCATE: self.fallocate, Opcode.IOCTL: self.ioctl}

    def fallocate(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """FALLOCATE sets the size of a region that has none, as ftruncate(2) does; it reserves
        nothing, because only mappings have memory. Under automap it does."""
        wanted = messages.decode_fallocate(body)
        region = self._manager.sizing.region(header.nodeid)
        if region is not None:
            make_plan = partial(self._plan_fallocate, header, region, wanted)
            return self._changes.make(header.uid, region, make_plan, bytes)
        self._manager.fallocate(
            request_of(header), header.nodeid, wanted.mode, wanted.offset, wanted.length
        )
        return b""

    def ioctl(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """IOCTL: CREATE_MAPPING, UNMAP, and ATTACH and CLAIM where there are tokens; any other number is
        ENOTTY in any state. The mapping of a file is always answered later."""
        head, payload = messages.decode_ioctl(body)
        # The kernel sends as many bytes as the number encodes, none for a number without.
        if head.flags & kernel.FUSE_IOCTL_DIR or head.command not in _COMMANDS:
            raise NotAnIoctl(f"ioctl {head.command:#x}")
        if len(payload) != _COMMANDS[head.command]:
            raise MalformedError(f"{len(payload)} bytes for ioctl {head.command:#x}")
        region = self._mappings.ioctl_region(header.nodeid)
        if head.command in _ATTACHES:
            return self._give_token(region, head.handle, claims=head.command == abi.CLAIM)
        writable = head.handle in _WRITABLE
        if head.command == abi.UNMAP:
            unwanted = abi.Unmap.unpack(payload)
            check = partial(self._mappings.check_unmap, region, unwanted, writable=writable)
            plan_unmap = partial(self._mappings.plan_unmap, request_of(header), region, unwanted)
            return self._change(header.uid, region, check, partial(plan_unmap, writable=writable))
        wanted = abi.CreateMapping.unpack(payload)
        check = partial(self._mappings.check_map, region, wanted, writable=writable)
        plan_map = partial(self._mappings.plan_map, request_of(header), region, wanted)
        make_plan = partial(plan_map, writable=writable)
        if maps_file(wanted):
            return self._map_file(header, region, wanted, check(), make_plan)
        return self._change(header.uid, region, check, make_plan)

    def _change(
        self,
        uid: int,
        region: Region,
        check: Callable[[], Range],
        make_plan: Callable[[], Plan],
    ) -> bytes | Awaitable[bytes]:
        if self._write_back.may_concern(region):
            turn = self._changes.turn(region.ino)
            return self._change_what_goes_back(turn, uid, region, check, make_plan)
        return self._changes.make(uid, region, make_plan, messages.encode_ioctl)

    def _give_token(self, region: Region, access: int, *, claims: bool) -> bytes:
        if self._tokens is None:
            raise NotAnIoctl("nothing is attached directly here")
        self._manager.attaching.check(region, access, claims=claims)
        return messages.encode_ioctl(self._tokens.give(region.ino, access, claims=claims).pack())

    def _plan_fallocate(self, header: Header, region: Region, wanted: FallocateIn) -> FillPlan:
        return self._manager.sizing.plan_fallocate(
            request_of(header), region, wanted.mode, wanted.offset, wanted.length
        )

    async def _change_what_goes_back(
        self,
        turn: AbstractAsyncContextManager[None],
        uid: int,
        region: Region,
        check: Callable[[], Range],
        make_plan: Callable[[], Plan],
    ) -> bytes:
        """A change that may take mappings away that go back to files: those have them first."""
        async with turn:
            span = check()
            # What is refused anyway is refused before anything is written.
            self._mappings.withdraw(await self._changes.plan_patiently(make_plan))
            async with self._write_back.taking_away(region, span):
                plan = await self._changes.plan_patiently(make_plan)
                await self._changes.acquire(uid, plan)
                await self._changes.clear_and_commit(uid, plan)
        return messages.encode_ioctl()

    async def _map_file(
        self,
        header: Header,
        region: Region,
        wanted: abi.CreateMapping,
        span: Range,
        plan_map: Callable[..., MapPlan],
    ) -> bytes:
        """CREATE_MAPPING of a file: had and looked at first, then read in this region's turn."""
        try:
            async with self._files.take(header.pid, header.uid, header.gid, wanted.fd) as file:
                check_file(file, wanted.prot)
                record, data = 0, span.size
                if wanted.prot & abi.PROT_WRITE:
                    record = await file.remember(wanted.offset, span.size)
                if self._mappings.takes_data_alone(region, wanted):
                    data = await file.measure(wanted.offset, span.size)
                found = mapped_file(file, wanted.offset, header.uid, record)
                make_plan = partial(plan_map, file=found, data=data)
                async with self._changes.turn(region.ino):
                    async with self._write_back.taking_away(region, span):
                        plan = await self._changes.plan_patiently(make_plan)
                        await self._read(header.uid, plan, file, record)
                        await self._changes.clear_and_commit(header.uid, plan)
            self._tell(header, wanted, found)
        except OSError as cause:
            raise FileFailed(cause) from cause
        return messages.encode_ioctl()

    async def _read(self, uid: int, plan: MapPlan, file: OpenFile, record: int) -> None:
        """The file's bytes to where they are needed, and its record to where it is kept, if there is
        to be one. Raises OSError of the file, and undoes all then, as at the end of the mount."""
        await self._changes.acquire(uid, plan)
        try:
            read = file.read if plan.mapping.reserve else file.read_data
            await read(plan.contents.pieces)
            if record:
                await file.keep()
                self._mappings.tables.journal.failpoint("file kept")
        except BaseException:
            self._files.forget([record])
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(plan.give_up)
            self._mappings.withdraw(plan)
            raise

    def _tell(self, header: Header, wanted: abi.CreateMapping, file: MappedFile) -> None:
        """One line for each file that comes into a region: from then on whoever may attach the
        region sees its bytes. Names may hold anything, so they are quoted."""
        place = self._manager.names.path_of(header.nodeid)
        log.info(
            "user %d (process %d) mapped a file: %d bytes from %d of %a (device %d:%d, inode %d)"
            " at %d of inode %d (%a)",
            header.uid,
            header.pid,
            wanted.size,
            file.offset,
            file.path,
            os.major(file.device),
            os.minor(file.device),
            file.inode,
            wanted.region_offset,
            header.nodeid,
            "no name" if place is None else os.fsdecode(place),
        )


_WRITABLE = frozenset({os.O_WRONLY, os.O_RDWR})
_ATTACHES = frozenset({abi.ATTACH, abi.CLAIM})
_COMMANDS = {
    abi.CREATE_MAPPING: abi.CreateMapping.FORMAT.size,
    abi.CREATE_MAPPING_X86_32: abi.CreateMapping.FORMAT_X86_32.size,
    abi.UNMAP: abi.Unmap.FORMAT.size,
    abi.ATTACH: 0,
    abi.CLAIM: 0,
}
"""The ioctls that there are, and how long the payload is that comes with them: as long as the number
says, where it says that there is one."""
