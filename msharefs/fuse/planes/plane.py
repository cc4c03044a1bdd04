"""How mmap reaches the bytes of a region: one interface, and what is negotiated for it.

Nothing outside knows which way is in use. The planes are in passthrough.py, paged.py and direct.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from msharefs.core.layout import Range
from msharefs.core.plan import Plan
from msharefs.core.ports import OpenSegment
from msharefs.core.region import Region
from msharefs.core.ways import Giving
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.kernel import FUSE_REQUEST_TIMEOUT
from msharefs.fuse.messages import ReadIn, WriteIn

LONGEST_TIMEOUT = (1 << 16) - 1
"""Seconds: the field of struct fuse_init_out has 16 bits."""


class PlaneError(Exception):
    """This kernel or this user cannot have the data plane; the text says why."""


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What INIT's reply asks for: bits of flags and flags2, how deep file systems stack, and
    after how many seconds the kernel may take an unanswered request for the death of the mount
    (0: as the system has it)."""

    flags: int
    flags2: int
    stack_depth: int
    request_timeout: int = 0


def outliving_the_default(
    negotiation: Negotiation, offer: InitOffer, default_timeout: int
) -> Negotiation:
    """The same with the longest request timeout that there is, where the system has a default
    of so many seconds (sysctl fs.fuse.default_request_timeout, Linux 6.16): with it the kernel
    aborts the connection of a server that is stopped or slow for longer (fuse_check_timeout in
    fs/fuse/dev.c), and a reply that asks for nothing chooses it."""
    if not default_timeout or not offer.flags2 & FUSE_REQUEST_TIMEOUT:
        return negotiation
    return replace(
        negotiation,
        flags2=negotiation.flags2 | FUSE_REQUEST_TIMEOUT,
        request_timeout=LONGEST_TIMEOUT,
    )


class DataPlane(Protocol):
    """One way for mmap to reach segments. Offsets and sizes are bytes."""

    @property
    def name(self) -> str:
        """The word that the data= option has for it."""

    @property
    def why(self) -> str:
        """A few words for the log and the status: why this plane serves."""

    @property
    def sees_touches(self) -> bool:
        """Whether the first touch of a page is asked for here, so that memory can come with it
        and nobody else takes it before."""

    @property
    def maps_segments(self) -> bool:
        """Whether programs map the segments themselves, so that huge pages of a segment make
        their page tables small."""

    @property
    def tuning(self) -> Mapping[str, int]:
        """Settings in /sys/class/bdi/DEVICE (ABI/testing/sysfs-class-bdi) that it wishes."""

    @property
    def attach_advice(self) -> int:
        """What large attachments should be advised with (madvise(2)), 0 for nothing."""

    def negotiate(self, offer: InitOffer) -> Negotiation:
        """What the reply to INIT asks for, of what the kernel offers: it may ask for nothing that was
        not offered (process_init_reply in fs/fuse/inode.c)."""

    @property
    def gives(self) -> Giving:
        """Who may have the segment of a region itself, and have the others do the same."""

    def open_flags(self, region: Region) -> int:
        """What a handle on the region is opened with now (FOPEN_*)."""

    def register(self, segment: OpenSegment) -> int:
        """Let handles be opened on a region with this segment. Returns its registration, for
        the life of the connection: the backing id of every handle, 0 for none. OSError if it
        cannot be served."""

    def unregister(self, registration: int) -> None:
        """The region is gone; nothing refers to its segment but the segment itself."""

    def read(self, region: Region, request: ReadIn, thread: int) -> memoryview | Awaitable[bytes]:
        """The bytes of a page fault of `thread` (0 outside of our pid namespace), all that were
        asked for, now or later; the view is valid until the next call. Raises InvalidArgument for read(2), NothingMapped where a part has no mapping: the
        process gets SIGBUS."""

    def write(self, region: Region, request: WriteIn, data: memoryview) -> None:
        """Take the bytes of a write-back. What is not mapped any more is thrown away: nobody could
        read it. Raises InvalidArgument for write(2)."""

    def has_stale_pages(self, plan: Plan) -> bool:
        """Whether the kernel may hold pages of the region that this change makes stale, so that
        it must be worked in a thread: see `drop_stale_pages`."""

    def changing(self, plan: Plan) -> AbstractContextManager[None]:
        """A context around the clearing and the commit of a change, entered in the loop: in it old
        contents of the range are neither read nor taken."""

    def drop_stale_pages(self, plan: Plan) -> None:
        """Take stale pages from every process. Waits for requests to be answered, so it is
        called in a worker thread, after the clearing and before the commit."""

    async def collect(self, region: Region, part: Range) -> None:
        """Have what processes stored in a part so far in the segment."""

    async def tend(self) -> None:
        """What is to be done beside requests while the server runs; it may return."""
