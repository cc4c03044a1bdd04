"""core's port to the kernel: what it is told and asked without having asked, on /dev/fuse.

Owns the rule which notification may be written from the loop (attributes only: it takes no
lock in the kernel) and which death of a region is too slow for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msharefs.core.ports import OpenSegment, Segment
from msharefs.core.ways import Giving
from msharefs.fuse import messages
from msharefs.fuse.device import ConnectionGone, Device
from msharefs.fuse.planes.plane import DataPlane

log = logging.getLogger(__name__)

SLOW_TO_FREE = 128 << 20
"""From this many mapped bytes on a region's segment is destroyed in a worker thread."""


class KernelPort:
    """core's Kernel for a mount. `reclaim` is given the segments whose memory takes long to give
    back, with their inode number; `owes` is told of regions that go when their files have been written."""

    def __init__(
        self,
        device: Device,
        plane: DataPlane,
        reclaim: Callable[[int, Segment], None],
        owes: Callable[[int], None],
    ) -> None:
        self._device = device
        self._plane = plane
        self._reclaim = reclaim
        self.owes = owes

    @property
    def maps_segments(self) -> bool:
        """As the data plane has it."""
        return self._plane.maps_segments

    @property
    def gives(self) -> Giving:
        """The same."""
        return self._plane.gives

    def attributes_changed(self, ino: int) -> None:
        """The kernel's cached attributes of an inode are out of date. One that it has not in
        its cache has none."""
        try:
            self._device.notify(messages.encode_attributes_changed(ino))
        except ConnectionGone:
            log.debug("nobody is there to be told about inode %d", ino)
        except OSError as error:
            log.warning("cannot tell the kernel about inode %d: %s", ino, error)

    def register(self, segment: OpenSegment) -> int:
        """A region can be opened from now on. Raises OSError."""
        return self._plane.register(segment)

    def is_known(self, ino: int) -> bool:
        """Whether the kernel holds the inode: it says so when asked to drop attributes. Where
        it cannot be asked nothing may be thrown away."""
        try:
            return self._device.notify(messages.encode_attributes_changed(ino))
        except (ConnectionGone, OSError) as error:
            log.warning("cannot ask the kernel about inode %d: %r", ino, error)
            return True

    def region_gone(self, ino: int, registration: int, segment: Segment | None, size: int) -> bool:
        """Let go of a region's segment; destroy it here if that is quick."""
        if segment is None:
            return True
        self._plane.unregister(registration)
        if size >= SLOW_TO_FREE:
            self._reclaim(ino, segment)
            return False
        segment.destroy()
        return True
