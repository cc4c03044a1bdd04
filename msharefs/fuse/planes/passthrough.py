"""The passthrough plane: mmap maps the segment itself (Linux 6.9, CAP_SYS_ADMIN).

A segment is registered with the kernel by a backing id. The id belongs to the FUSE connection,
not to this process, and the kernel wants the same one for all handles of an inode that
overlap, so each region has one for life. Page faults never come here.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from msharefs.core.errors import InvalidArgument
from msharefs.core.layout import Range
from msharefs.core.plan import Plan
from msharefs.core.ports import OpenSegment
from msharefs.core.region import Region
from msharefs.core.ways import Giving
from msharefs.fuse import kernel
from msharefs.fuse.device import Device
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.messages import ReadIn, WriteIn
from msharefs.fuse.planes.plane import Negotiation


class PassthroughPlane:
    """The kernel maps segments; only read(2) and write(2) come, to be refused."""

    name = "passthrough"
    sees_touches = False
    maps_segments = True
    tuning: Mapping[str, int] = {}
    attach_advice = 0

    gives = Giving.NOBODY

    def __init__(self, device: Device, why: str) -> None:
        self.why = why
        self._device = device

    def negotiate(self, offer: InitOffer) -> Negotiation:
        """Passthrough, mmap of direct-I/O files, and resending, where offered.

        With HANDLE_KILLPRIV core takes set-user-ID away, and a truncate is one request less.
        """
        wanted = kernel.FUSE_PASSTHROUGH | kernel.FUSE_DIRECT_IO_ALLOW_MMAP | kernel.FUSE_HAS_RESEND
        return Negotiation(
            flags=offer.flags & (kernel.FUSE_HANDLE_KILLPRIV | kernel.FUSE_ABORT_ERROR),
            flags2=offer.flags2 & wanted,
            stack_depth=1,
        )

    def open_flags(self, region: Region) -> int:
        """Passed through."""
        return kernel.FOPEN_DIRECT_IO | kernel.FOPEN_PASSTHROUGH

    def register(self, segment: OpenSegment) -> int:
        """Make the segment a backing file, which the kernel keeps open itself. Returns its
        backing id. Raises OSError."""
        return self._device.register_backing(segment.fileno())

    def unregister(self, registration: int) -> None:
        """Let the kernel drop its reference to the segment once the last handle is closed."""
        if registration:
            self._device.drop_backing(registration)

    def read(self, region: Region, request: ReadIn, thread: int) -> memoryview:
        """Refuse read(2): EINVAL, as the kernel's mshare does. A page fault never comes here."""
        raise InvalidArgument(f"region {region.ino} is for mmap, not for read")

    def write(self, region: Region, request: WriteIn, data: memoryview) -> None:
        """Refuse write(2) in the same way."""
        raise InvalidArgument(f"region {region.ino} is for mmap, not for write")

    def has_stale_pages(self, plan: Plan) -> bool:
        """The segment's pages are what processes have: punching takes them from all."""
        return False

    def changing(self, plan: Plan) -> AbstractContextManager[None]:
        """Nothing to do around a change."""
        return nullcontext()

    def drop_stale_pages(self, plan: Plan) -> None:
        """Nothing to drop: processes map the segment itself."""

    async def collect(self, region: Region, part: Range) -> None:
        """It is there as soon as it is stored."""

    async def tend(self) -> None:
        """Nothing is to be done beside requests."""
