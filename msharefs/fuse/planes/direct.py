"""The direct plane: clients that can do so map a region's segment, all others are served by faults.

Owns what that changes of the paged plane: which handles may be mapped plainly, and which pages the kernel
keeps. Which way a region is reached is core's knowledge (core/ways.py); how a client gets the segment
is not known here.

The kernel must not let every handle be mapped (FUSE_DIRECT_IO_ALLOW_MMAP), because it asks nobody then:
those on a direct region are for direct I/O, and mmap of them is ENODEV. So plain ones go through the
page cache, and read(2) gives what is mapped, as on kernels before Linux 6.6.
"""

from __future__ import annotations

from collections.abc import Awaitable

from msharefs.core.errors import InvalidArgument
from msharefs.core.plan import Plan
from msharefs.core.region import Region
from msharefs.core.ways import Way
from msharefs.fuse import kernel
from msharefs.fuse.messages import ReadIn
from msharefs.fuse.planes.paged import PagedPlane


class DirectPlane(PagedPlane):
    """Page faults of plain mappings come as READ, and only where nobody has the segment."""

    name = "direct"
    gives_segments = True
    maps_segments = True
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

    def has_stale_pages(self, plan: Plan) -> bool:
        """The kernel has no pages of a region whose clients have the segment."""
        return not plan.region.way.is_direct and super().has_stale_pages(plan)
