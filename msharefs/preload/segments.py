"""The table of named segments, which the library keeps in the region (segments.h).

Owns its layout on this side, the lock in front of it, and whether a segment still exists.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msharefs.client.region import Region
from msharefs.preload.holders import Span, open_elsewhere

SIZE = 65536
ENTRY = struct.Struct("=4Q32x")
POSIX, SYSTEM_V, LEFT = 1, 2, 3

SHM = Path("/dev/shm")
SYSTEM_V_LIST = Path("/proc/sysvipc/shm")

# struct flock: type, whence, start, length, pid.
FLOCK = struct.Struct("hhqqi4x")


class TableBusyError(Exception):
    """A process of the run is changing the table."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment with a name; what is in the region of it is `span`."""

    place: int
    """Where in the table its entry is."""
    kind: int
    id: int
    span: Span


class SegmentTable:
    """The table at an offset of an open region."""

    def __init__(self, region: Region, offset: int) -> None:
        """Put memory there: an empty table."""
        self.offset = offset
        self._region = region
        region.map(offset, SIZE, replace=False)
        self._attachment = region.attach(offset, SIZE)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody changes the table inside. TableBusyError if somebody is at it now."""
        if not try_lock(self._region.fileno(), self.offset):
            raise TableBusyError
        try:
            yield
        finally:
            unlock(self._region.fileno(), self.offset)

    def segments(self) -> Iterator[Segment]:
        """Every entry. To be called with the lock."""
        for place in range(0, SIZE, ENTRY.size):
            kind, number, offset, size = ENTRY.unpack_from(self._attachment.buf, place)
            if kind:
                yield Segment(place, kind, number, (offset, offset + size))

    def remove(self, segment: Segment) -> None:
        """Empty an entry. To be called with the lock."""
        ENTRY.pack_into(self._attachment.buf, segment.place, 0, 0, 0, 0)

    def close(self) -> None:
        """Let go of it; the memory stays in the region."""
        self._attachment.close()


def vanished(segments: list[Segment]) -> list[Segment]:
    """Those that do not exist any more: no name, no descriptor, no id."""
    posix = {entry.inode() for entry in os.scandir(SHM)} if SHM.is_dir() else set()
    system_v = _system_v_ids()
    return [s for s in segments if not _exists(s, posix, system_v)]


def _exists(segment: Segment, posix: set[int], system_v: set[int]) -> bool:
    if segment.kind == SYSTEM_V:
        return segment.id in system_v
    return segment.id in posix or open_elsewhere(SHM.stat().st_dev, segment.id)


def _system_v_ids() -> set[int]:
    try:
        lines = SYSTEM_V_LIST.read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return set()
    return {int(line.split()[1]) for line in lines}


def try_lock(fd: int, offset: int) -> bool:
    """Lock one byte of an open file, for as long as it is open; False if another has it."""
    lock = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True


def unlock(fd: int, offset: int) -> None:
    """Give such a lock back."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, offset, 1, 0))
