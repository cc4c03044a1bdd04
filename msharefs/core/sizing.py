"""Sizes that come with memory (automap): the rules of ftruncate(2) and fallocate(2) there.

Owns which regions these are, what their size may become, and which of their bytes are mapped and
reserved with it: what a program expects that knows files and no mappings. Where automap is off
the rules of the kernel's document hold, which are in manager.py. How memory is got is the
mapper's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msharefs.abi import PAGE_SIZE
from msharefs.core.attributes import AttributeChange, change_attributes, drop_privileges
from msharefs.core.errors import (
    FileTooLarge,
    InvalidArgument,
    NoSpace,
    NotSupported,
    OutOfMemory,
    SizeAlreadySet,
)
from msharefs.core.inode import Automap, Directory, Inode
from msharefs.core.journal import Request
from msharefs.core.mapper import Mapper
from msharefs.core.plan import FillPlan
from msharefs.core.region import Region, State
from msharefs.core.tables import Tables


class Sizing:
    """Sizes of regions under automap. Plans are committed or abandoned by the mapper, as its own."""

    def __init__(self, tables: Tables, mappings: Mapper, clock: Callable[[], int]) -> None:
        self._tables = tables
        self._mappings = mappings
        self._clock = clock

    def automap(self, inode: Inode) -> Automap:
        """What holds for a region, or for what is made in a directory."""
        return inode.automap or self._mappings.limits.automap

    def set_automap(self, request: Request | None, ino: int, automap: Automap | None) -> None:
        """Let a region or directory have its own, or with None what the mount has. What is in
        a directory already keeps what it began with. Raises NotSupported for mshare_info."""
        inode = self._tables.names.get(ino)
        if not isinstance(inode, Region | Directory):
            raise NotSupported("mshare_info has no memory")
        with self._tables.journal.rewrite(request, ino):
            inode.automap = automap
            inode.ctime_ns = self._clock()
            self._tables.journal.save(inode)
        self._tables.kernel.attributes_changed(ino)

    def region(self, ino: int) -> Region | None:
        """The region whose size comes with memory; None for all else."""
        inode = self._tables.names.get(ino)
        if isinstance(inode, Region) and self.automap(inode) is not Automap.OFF:
            return inode
        return None

    def plan_truncate(
        self, request: Request | None, region: Region, size: int, change: AttributeChange
    ) -> FillPlan:
        """ftruncate(2) to `size` bytes, which are rounded up to the alignment, with the rest of a
        `change`. All that is new is mapped, as with MAP_NORESERVE. Raises SizeAlreadySet,
        InvalidArgument, FileTooLarge, NoSpace, and what Mapper.plan_fill raises besides."""
        whole = self._whole(region, size)

        def finish() -> None:
            region.mtime_ns = self._clock()
            self._become(region, whole)
            owner = region.uid
            change_attributes(region, change)
            if region.uid != owner:
                self._tables.change_owner(region, owner)
            region.ctime_ns = self._clock()
            self._tables.journal.save(region)

        span = region.size, whole
        with _as_of_a_file():
            return self._mappings.plan_fill(
                request, region, whole, span, reserve=False, finish=finish
            )

    def plan_fallocate(
        self, request: Request | None, region: Region, mode: int, offset: int, length: int
    ) -> FillPlan:
        """fallocate(2): `length` bytes from `offset` on have memory then, and so has all that is
        new. Raises NotSupported for a mode, and what `plan_truncate` raises."""
        if mode:
            raise NotSupported(f"fallocate mode {mode:#x}")
        last = offset + length
        whole = max(region.size, self._round_up(last))
        if whole > region.size:
            whole = self._whole(region, last)
            span = min(offset // PAGE_SIZE * PAGE_SIZE, region.size), whole
        else:
            span = offset // PAGE_SIZE * PAGE_SIZE, -(-last // PAGE_SIZE) * PAGE_SIZE

        def finish() -> None:
            permissions = region.mode
            self._become(region, whole)
            if region.mode != permissions:
                region.ctime_ns = self._clock()
            self._tables.journal.save(region)

        with _as_of_a_file():
            return self._mappings.plan_fill(
                request, region, whole, span, reserve=True, finish=finish
            )

    def _become(self, region: Region, size: int) -> None:
        if size:
            region.grow(size)
        drop_privileges(region)

    def _round_up(self, size: int) -> int:
        align = self._mappings.limits.align
        return -(-size // align) * align

    def _whole(self, region: Region, size: int) -> int:
        """What the region's size becomes; 0 leaves one without a size as it is."""
        if size < 0:
            raise InvalidArgument(f"size {size}")
        whole = self._round_up(size)
        if whole > self._mappings.limits.max_region:
            raise FileTooLarge(
                f"size {size} is beyond max_region={self._mappings.limits.max_region}"
            )
        if region.state is State.UNSIZED or whole == region.size:
            return whole
        if whole < region.size:
            raise SizeAlreadySet(f"region {region.ino} has {region.size} bytes and loses none")
        if self.automap(region) is not Automap.GROW:
            raise SizeAlreadySet(f"region {region.ino} has {region.size} bytes and may not grow")
        return whole


@contextmanager
def _as_of_a_file() -> Iterator[None]:
    """Memory that cannot be had is space to who knows files alone."""
    try:
        yield
    except OutOfMemory as error:
        raise NoSpace(str(error)) from error
