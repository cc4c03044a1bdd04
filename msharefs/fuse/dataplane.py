"""How mmap reaches the bytes of a region: the one place that knows which way is in use.

Owns the open flags of a region, the backing ids of the passthrough plane, and what INIT
has to negotiate for it. Which bytes are mapped, and who may open, is core's business.
"""

from __future__ import annotations

import errno
import fcntl
from dataclasses import dataclass
from typing import Protocol

from msharefs.fuse import protocol


class PlaneError(Exception):
    """This kernel or this user cannot have the data plane; the text says why."""


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What INIT's reply asks for: bits of flags and flags2, and how deep file systems stack."""

    flags: int
    flags2: int
    stack_depth: int


class DataPlane(Protocol):
    """One way for mmap to reach segments."""

    @property
    def name(self) -> str:
        """As the data= option names it."""

    @property
    def why(self) -> str:
        """One sentence: why this plane serves."""

    def negotiate(self, offer: protocol.InitOffer) -> Negotiation:
        """What to ask for, given what the kernel offers. Raises PlaneError."""

    def attach(self, ino: int, fd: int) -> None:
        """A region got its segment. Raises OSError if it cannot be served."""

    def detach(self, ino: int) -> None:
        """A region is gone; nothing refers to its segment but the descriptor."""

    def open_flags(self, ino: int) -> tuple[int, int]:
        """Open flags and backing id for a handle on a region."""


class PassthroughPlane:
    """mmap maps the segment itself (Linux 6.9, CAP_SYS_ADMIN).

    A backing id belongs to the FUSE connection, not to this process. The kernel wants the
    same one for all handles of an inode that overlap, so each region has one for life.
    """

    name = "passthrough"

    def __init__(self, device: int, why: str) -> None:
        """`device` is the /dev/fuse descriptor, not owned here."""
        self.why = why
        self._device = device
        self._backing: dict[int, int] = {}

    def negotiate(self, offer: protocol.InitOffer) -> Negotiation:
        """Passthrough, mmap of direct-I/O files, and resending, where offered.

        With HANDLE_KILLPRIV core takes set-user-ID away, and a truncate is one request less.
        """
        if not offer.flags2 & protocol.FUSE_PASSTHROUGH:
            raise PlaneError("this kernel has no FUSE passthrough (Linux 6.9 and newer)")
        wanted = (
            protocol.FUSE_PASSTHROUGH
            | protocol.FUSE_DIRECT_IO_ALLOW_MMAP
            | protocol.FUSE_HAS_RESEND
        )
        return Negotiation(
            flags=offer.flags & protocol.FUSE_HANDLE_KILLPRIV,
            flags2=offer.flags2 & wanted,
            stack_depth=1,
        )

    def attach(self, ino: int, fd: int) -> None:
        """Register the segment as the region's backing file."""
        request = protocol.encode_backing_map(fd)
        # The ioctl's result is the id; with a mutable buffer fcntl returns it.
        self._backing[ino] = fcntl.ioctl(
            self._device, protocol.FUSE_DEV_IOC_BACKING_OPEN, bytearray(request)
        )

    def detach(self, ino: int) -> None:
        """Drop the backing id."""
        backing_id = self._backing.pop(ino, None)
        if backing_id is None:
            return
        try:
            fcntl.ioctl(
                self._device,
                protocol.FUSE_DEV_IOC_BACKING_CLOSE,
                bytearray(protocol.encode_backing_id(backing_id)),
            )
        except OSError as error:
            # The connection is gone, and the id with it.
            if error.errno not in (errno.ENOTCONN, errno.EPERM):
                raise

    def open_flags(self, ino: int) -> tuple[int, int]:
        """Passthrough for mmap; read(2) and write(2) come to us and are refused."""
        flags = protocol.FOPEN_DIRECT_IO | protocol.FOPEN_PASSTHROUGH
        return flags, self._backing[ino]
