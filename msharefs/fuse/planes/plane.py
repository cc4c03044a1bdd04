"""How mmap reaches the bytes of a region: one interface, and the choice between its two ways.

Nothing outside knows which way is in use. The passthrough plane is in passthrough.py, the
paged one in paged.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from msharefs.core.plan import Plan
from msharefs.core.ports import Segment
from msharefs.core.region import Region
from msharefs.fuse.messages import InitOffer, ReadIn, WriteIn


class PlaneError(Exception):
    """This kernel or this user cannot have the data plane; the text says why."""


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What INIT's reply asks for: bits of flags and flags2, and how deep file systems stack."""

    flags: int
    flags2: int
    stack_depth: int


class DataPlane(Protocol):
    """One way for mmap to reach segments. Offsets and sizes are bytes."""

    @property
    def name(self) -> str:
        """As the data= option names it."""

    @property
    def why(self) -> str:
        """A few words: why this plane serves."""

    @property
    def tuning(self) -> Mapping[str, int]:
        """Settings in /sys/class/bdi/DEVICE (ABI/testing/sysfs-class-bdi) that it wishes."""

    def negotiate(self, offer: InitOffer) -> Negotiation:
        """What to ask for, given what the kernel offers."""

    @property
    def open_flags(self) -> int:
        """What each handle on a region is opened with (FOPEN_*)."""

    def register(self, segment: Segment) -> int:
        """Let handles be opened on a region with this segment. Returns its registration, for
        the life of the connection: the backing id of every handle, 0 for none. OSError if it
        cannot be served."""

    def unregister(self, registration: int) -> None:
        """The region is gone; nothing refers to its segment but the segment itself."""

    def read(self, region: Region, request: ReadIn) -> memoryview:
        """The bytes of a page fault; refuses read(2). The view is valid until the next call."""

    def write(self, region: Region, request: WriteIn, data: memoryview) -> None:
        """Take the bytes of a write-back; refuses write(2)."""

    def has_stale_pages(self, plan: Plan) -> bool:
        """Whether the kernel may hold pages that a change makes stale."""

    def changing(self, plan: Plan) -> AbstractContextManager[None]:
        """Around the clearing and the commit of a change, in the loop."""

    def drop_stale_pages(self, plan: Plan) -> None:
        """Take stale pages from every process. Waits for requests to be answered, so it is
        called in a worker thread, after the clearing and before the commit."""
