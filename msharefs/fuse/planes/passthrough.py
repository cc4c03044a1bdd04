"""The passthrough plane: mmap maps the segment itself (Linux 6.9, CAP_SYS_ADMIN).

Owns the backing ids. An id belongs to the FUSE connection, not to this process, and the
kernel wants the same one for all handles of an inode that overlap, so each region has
one for life. Page faults never come here.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from msharefs.core.errors import InvalidArgument
from msharefs.core.plan import Plan
from msharefs.core.ports import Segment
from msharefs.core.region import Region
from msharefs.fuse import kernel, messages
from msharefs.fuse.messages import InitOffer, ReadIn, WriteIn
from msharefs.fuse.planes.plane import Negotiation


class PassthroughPlane:
    """The kernel maps segments; only read(2) and write(2) come, to be refused."""

    name = "passthrough"
    tuning: Mapping[str, int] = {}

    def __init__(self, device: int, why: str) -> None:
        """`device` is the /dev/fuse descriptor, not owned here."""
        self.why = why
        self._device = device
        self._backing: dict[int, int] = {}

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

    def attach(self, ino: int, segment: Segment) -> int:
        """Register the segment as the region's backing file. Returns the backing id."""
        request = bytearray(messages.encode_backing_map(segment.fd))
        backing_id: int = fcntl.ioctl(self._device, kernel.FUSE_DEV_IOC_BACKING_OPEN, request)
        self._backing[ino] = backing_id
        return backing_id

    def adopt(self, ino: int, token: int) -> None:
        """The backing id that an earlier process registered is valid still."""
        self._backing[ino] = token

    def detach(self, ino: int) -> None:
        """Drop the backing id."""
        backing_id = self._backing.pop(ino, None)
        if backing_id is None:
            return
        request = bytearray(messages.encode_backing_id(backing_id))
        try:
            fcntl.ioctl(self._device, kernel.FUSE_DEV_IOC_BACKING_CLOSE, request)
        except OSError as error:
            # The connection is gone, and the id with it; or an earlier process dropped it.
            if error.errno not in (errno.ENOTCONN, errno.EPERM, errno.ENOENT):
                raise

    def open_flags(self, ino: int) -> tuple[int, int]:
        """Passthrough for mmap; read(2) and write(2) come to us."""
        flags = kernel.FOPEN_DIRECT_IO | kernel.FOPEN_PASSTHROUGH
        return flags, self._backing[ino]

    def read(self, region: Region, request: ReadIn) -> memoryview:
        """Refuse read(2)."""
        raise InvalidArgument(f"region {region.ino} is for mmap, not for read")

    def write(self, region: Region, request: WriteIn, data: memoryview) -> None:
        """Refuse write(2)."""
        raise InvalidArgument(f"region {region.ino} is for mmap, not for write")

    def has_stale_pages(self, plan: Plan) -> bool:
        """The segment's pages are what processes have: punching takes them from all."""
        return False

    def changing(self, plan: Plan) -> AbstractContextManager[None]:
        """Nothing to do around a change."""
        return nullcontext()

    def drop_stale_pages(self, plan: Plan) -> None:
        """There are none."""
