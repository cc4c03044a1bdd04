"""The direct plane: clients that can do so map a region's segment, all others are served by faults.

Owns what that changes of the paged plane: which handles may be mapped plainly, which pages the kernel
keeps, and that nothing is read or written by faults where clients have the segment. Which way a region is
reached is core's knowledge (core/ways.py); how a client gets the segment is not known here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator

from msharefs.core.errors import InvalidArgument, NothingMapped
from msharefs.core.layout import Range
from msharefs.core.plan import Plan
from msharefs.core.region import Region
from msharefs.core.ways import Giving, Way
from msharefs.fuse import kernel
from msharefs.fuse.messages import ReadIn
from msharefs.fuse.planes.paged import PagedPlane


class _BesideClients(PagedPlane):
    """To page faults a region whose clients have the segment is one hole."""

    maps_segments = True

    def has_stale_pages(self, plan: Plan) -> bool:
        """The kernel has no pages of such a region."""
        return not plan.region.way.is_direct and super().has_stale_pages(plan)

    def _read(self, region: Region, request: ReadIn) -> memoryview:
        if region.way.is_direct:
            raise NothingMapped(f"region {region.ino} is attached directly")
        return super()._read(region, request)

    def _hole(self, region: Region, start: int, end: int) -> Range | None:
        return Range(start, end) if region.way.is_direct else super()._hole(region, start, end)

    def _current_parts(self, region: Region, start: int, end: int) -> Iterator[tuple[int, int]]:
        """None, where what comes back was lent to who populates."""
        return iter(()) if region.way.is_direct else super()._current_parts(region, start, end)


class DirectPlane(_BesideClients):
    """Any client makes a region direct, and the kernel refuses to map its file then.

    The kernel must not let every handle be mapped (FUSE_DIRECT_IO_ALLOW_MMAP), because it asks nobody
    then: those on a direct region are for direct I/O, and mmap of them is ENODEV. So plain ones go through
    the page cache, and read(2) gives what is mapped, as on kernels before Linux 6.6.
    """

    name = "direct"
    gives = Giving.ANYBODY
    # Without leave to map files for direct I/O: with it the kernel would let every handle be mapped.
    _wanted = kernel.FUSE_HAS_RESEND

    def open_flags(self, region: Region) -> int:
        """Not to be mapped, where the region is direct. With the pages that the kernel has, where
        it is plain. Else without: they are of an earlier time, and the segment may have changed.
        The kernel drops them before open(2) returns, so that no new mapping sees any."""
        if region.way.is_direct:
            return kernel.FOPEN_DIRECT_IO
        return kernel.FOPEN_KEEP_CACHE if region.way is Way.PLAIN else 0

    def read(self, region: Region, request: ReadIn, thread: int) -> memoryview | Awaitable[bytes]:
        """A page fault, or read(2) through the page cache; that of a handle for direct I/O is
        refused, as everywhere else."""
        if request.read_flags & kernel.FUSE_READ_LOCKOWNER:
            raise InvalidArgument(f"region {region.ino} is for mmap, not for read")
        return super().read(region, request, thread)


class ClaimablePlane(_BesideClients):
    """The paged plane, but for regions that a client has claimed.

    All handles are for direct I/O with leave to map (FUSE_DIRECT_IO_ALLOW_MMAP, which has to be offered):
    the kernel drops its pages at each mmap, so that none of an earlier time is seen. The price is that
    mmap of the file of a claimed region is not refused, but each touch.
    """

    gives = Giving.CLAIMANTS
