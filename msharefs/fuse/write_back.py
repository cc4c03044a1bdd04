"""Regions and files brought in step: FSYNC, and all else that has what was changed written to files, or counts it.

Owns when that is done, in the turn of a region, and who learns of a failure: fsync and whoever
takes a mapping away; where nobody waits for it any more, the log. What goes back is core's knowledge, how it is written
the port's.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from msharefs.core.errors import FileFailed
from msharefs.core.layout import Mapping as Mapped
from msharefs.core.layout import Range
from msharefs.core.manager import RegionManager
from msharefs.core.ports import Done, Files
from msharefs.core.region import Region
from msharefs.core.write_back import failure
from msharefs.fuse.changes import Changes
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.planes.plane import DataPlane
from msharefs.user_bounds import UserBounds

COUNTS = 4
COUNTS_OF_A_USER = 1
"""Regions whose changes are counted at a time. Who only looks has no part in the bounds of those who write, nor theirs in
his, and has a region's turn for no longer than the count takes."""

log = logging.getLogger(__name__)

Turn = AbstractAsyncContextManager[None]
"""A region's, which is waited for."""


class WriteBack:
    """Has regions written to their files."""

    def __init__(
        self, manager: RegionManager, changes: Changes, plane: DataPlane, files: Files
    ) -> None:
        self._owed = manager.write_back
        self._failpoint = manager.journal.failpoint
        self._regions = manager.tables.regions
        self._changes = changes
        self._plane = plane
        self._files = files
        self._counts = UserBounds(COUNTS, COUNTS_OF_A_USER)
        # Regions whose last handle is closed, and the turn of each.
        self._to_write, self._closed = trio.open_memory_channel[tuple[int, Turn]](sys.maxsize)

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], bytes | Awaitable[bytes]]]:
        """Which request each of them answers."""
        return {Opcode.FSYNC: self.fsync}

    def fsync(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """FSYNC, of fsync(2) and msync(2): anonymous memory is where it belongs. In the paged plane the
        kernel has written back what processes had changed before it asks."""
        region = self._regions.get(header.nodeid)
        if region is None or not self.may_concern(region):
            return b""
        return self._fsync(region)

    def may_concern(self, region: Region) -> bool:
        """Whether anything of a region goes back to a file by the time its turn comes."""
        return region.goes_back or self._changes.is_changing(region.ino)

    async def changed(self, uid: int, region: Region, place: int | None) -> int:
        """How much was changed and is not in a file yet, in bytes of whole pages: of all of a region, or of the mapping that
        has the byte `place`. It is counted for that user by another process, in the region's turn: whatever is written or taken away meanwhile
        would be counted as well. In the paged plane what the kernel keeps has not been seen. Raises FileFailed."""
        async with self._counts.turn(uid), self._changes.turn(region.ino):
            if place is None:
                parts = self._owed.due(region, 0, region.size)
            else:
                parts = self._owed.due_at(region, place)
            try:
                return sum([await self._count(uid, region, part) for part in parts])
            except OSError as cause:
                raise FileFailed(cause) from cause

    @asynccontextmanager
    async def taking_away(self, region: Region, span: Range) -> AsyncIterator[None]:
        """A context in a region's turn, in which what is in `span` is taken away or replaced: its files
        have got it before. Raises FileFailed; where the block fails all goes back to them still."""
        parts = self._owed.due(region, span.start, span.end)
        if not parts:
            yield
            return
        await self._plane.collect(region, span)
        _raise_first(await self._write(region, span.start, span.end))
        try:
            self._owed.release(region, parts)
            self._failpoint("released")
            yield
        except BaseException:
            self._owed.restore(region, parts)
            raise
        self._files.forget(self._owed.unneeded(region, parts))

    def after_close(self, ino: int) -> None:
        """A handle less. If it was the last one files get what was changed, which whoever has the
        region mapped may do again. RELEASE is answered before: of requests that change the count of handles
        only the last one may be without an answer when a server dies, or it would be counted twice. The turn is had
        now: when an fsync of who opens the region next is answered nothing is on its way to a file from before."""
        region = self._regions.get(ino)
        if region is not None and not region.opens and region.goes_back:
            self._to_write.send_nowait((ino, self._changes.turn(ino)))

    async def tend(self) -> None:
        """Write what last closes owe to files, for ever. A server before may have counted one and died
        before anything was written: so all regions that nobody has open come first."""
        for region in self._owed.wanted():
            self.after_close(region.ino)
        async with trio.open_nursery() as nursery:
            async for ino, turn in self._closed:
                nursery.start_soon(self._after_last_close, ino, turn)

    async def at_end(self, ino: int) -> None:
        """Nothing refers to a region but its files."""
        async with self._changes.turn(ino):
            region = self._regions.get(ino)
            if region is None or region.referenced:
                return
            await self._write_or_tell(region)
            self._files.forget(self._owed.let_go(region))

    async def everything(self) -> None:
        """At the end of the mount."""
        async with trio.open_nursery() as nursery:
            for region in self._owed.wanted():
                nursery.start_soon(self._write_or_tell, region)

    async def _after_last_close(self, ino: int, turn: Turn) -> None:
        async with turn:
            region = self._regions.get(ino)
            if region is not None:
                await self._write(region, 0, region.size)

    async def _fsync(self, region: Region) -> bytes:
        async with self._changes.turn(region.ino):
            results = await self._write(region, 0, region.size)
        _raise_first(results)
        # Others may change the region meanwhile.
        for record, uid in {_record(part) for part, _ in results}:
            try:
                async with self._files.open(record, uid) as file:
                    await file.sync()
            except OSError as cause:
                raise FileFailed(cause) from cause
        return b""

    async def _write_or_tell(self, region: Region) -> None:
        """For the last time: the log says what is lost."""
        for part, done in await self._write(region, 0, region.size):
            if done.error:
                _tell_loss(region, part, done)

    async def _write(self, region: Region, start: int, end: int) -> list[tuple[Mapped, Done]]:
        """All of a range that goes back, each part whatever becomes of the others."""
        results: list[tuple[Mapped, Done]] = []
        for part in self._owed.due(region, start, end):
            self._failpoint("write begun")
            try:
                done = await self._write_part(region, part)
            except OSError as cause:
                log.debug("region %d: %s", region.ino, cause)
                done = failure(cause, part)
            self._failpoint("written")
            if region.owes_nothing:
                # The end of the mount has met that of the region, whose files have all.
                return results
            self._owed.settle(region, part, done)
            self._failpoint("settled")
            results.append((part, done))
        return results

    async def _write_part(self, region: Region, part: Mapped) -> Done:
        assert region.segment is not None
        assert part.file is not None
        async with self._files.open(*_record(part)) as file:
            segment = region.segment.open()
            done = await file.write(segment.fileno(), part.start, part.file.offset, part.size)
            return Done(*done)

    async def _count(self, uid: int, region: Region, part: Mapped) -> int:
        assert region.segment is not None
        assert part.file is not None
        async with self._files.look_into(part.file.record, uid) as file:
            segment = region.segment.open()
            return await file.count(segment.fileno(), part.start, part.file.offset, part.size)


def _record(part: Mapped) -> tuple[int, int]:
    assert part.file is not None
    return part.file.record, part.file.uid


def _raise_first(results: Sequence[tuple[Mapped, Done]]) -> None:
    """What a caller learns of."""
    for part, done in results:
        if done.error:
            raise FileFailed(
                OSError(done.error, os.strerror(done.error), part.file and part.file.path)
            )


def _tell_loss(region: Region, part: Mapped, done: Done) -> None:
    file = part.file
    assert file is not None
    log.error(
        "%d bytes of region %d are lost: they could not be written to %s (user %d, device %d, inode %d)",
        done.unwritten,
        region.ino,
        file.path,
        file.uid,
        file.device,
        file.inode,
    )
