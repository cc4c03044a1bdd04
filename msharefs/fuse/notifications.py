"""What core tells, told on: to the kernel, to the data plane and to the undertaker.

Owns the rule which notice may be written from the loop (attributes only: it takes no
lock in the kernel) and which death of a region is too slow for it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable

from msharefs.core.ports import Segment
from msharefs.core.region import Region
from msharefs.fuse import messages
from msharefs.fuse.planes.plane import DataPlane

log = logging.getLogger(__name__)

SLOW_TO_FREE = 256 << 20
"""From this many bytes on a region is destroyed in a worker thread."""


class KernelNotices:
    """core's Notices for a mount: `undertake` is given the regions that die slowly."""

    def __init__(self, device: int, plane: DataPlane, undertake: Callable[[Region], None]) -> None:
        """`device` is the /dev/fuse descriptor, not owned here."""
        self._device = device
        self._plane = plane
        self._undertake = undertake

    def attributes_changed(self, ino: int) -> None:
        """The kernel's cached attributes of an inode are out of date."""
        try:
            os.write(self._device, messages.encode_attributes_changed(ino))
        except OSError as error:
            # ENOENT: the kernel has no such inode in its cache, so nothing is out of date.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN):
                log.warning("cannot tell the kernel about inode %d: %s", ino, error)

    def segment_made(self, ino: int, segment: Segment) -> int:
        """A region can be opened from now on. Raises OSError."""
        return self._plane.attach(ino, segment)

    def segment_adopted(self, ino: int, segment: Segment, token: int) -> None:
        """A region could be opened before this process was there."""
        self._plane.adopt(ino, token)

    def is_known(self, ino: int) -> bool:
        """Whether the kernel holds the inode: it says so when asked to drop attributes."""
        try:
            os.write(self._device, messages.encode_attributes_changed(ino))
        except OSError as error:
            if error.errno == errno.ENOENT:
                return False
            log.warning("cannot ask the kernel about inode %d: %s", ino, error)
        return True

    def region_gone(self, region: Region) -> bool:
        """Let go of a region's segment; destroy it here if that is quick."""
        if region.segment is None:
            return True
        self._plane.detach(region.ino)
        if region.layout.mapped >= SLOW_TO_FREE:
            self._undertake(region)
            return False
        region.segment.destroy()
        return True
