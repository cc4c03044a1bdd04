"""Segments with names: holding their files open, and seeing when nobody can reach them any more.

Owns the descriptors of POSIX segments. That a segment is gone is the kernel's word alone: its
file has no name and is open nowhere else, be it in a process that /proc does not show or in a
message that nobody has read yet; or its System V id is not there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

from msharefs.linux import locks, system_v
from msharefs.linux.events import IN_ATTRIB, IN_CLOSE, FileEvents
from msharefs.preload.run_file import SegmentEntry

POSIX, SYSTEM_V = 1, 2

Key = tuple[int, int]
"""Device and inode of a file."""


@dataclass(slots=True)
class HeldFile:
    """The file of a POSIX segment, open here."""

    fd: int
    watch: int | None
    """The number of its events; None: it is looked at now and then."""
    looks: int = 0
    """How often it had no entry in the table."""


class Segments:
    """What a run's collector knows of segments."""

    def __init__(self, events: FileEvents) -> None:
        """Files that are held are watched by `events`."""
        self._events = events
        self._files: dict[Key, HeldFile] = {}

    def hold(self, fd: int) -> None:
        """Hold the file of `fd` open, and close `fd`.

        Of its own: `fd` may share its open file with the process that sent it, and then the
        kernel could not tell the two apart. OSError if that cannot be; the segment is never
        gone then.
        """
        try:
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            status = os.fstat(own)
        finally:
            os.close(fd)
        key = status.st_dev, status.st_ino
        if key in self._files:
            os.close(own)
            return
        watch = None
        with suppress(OSError):
            watch = self._events.watch(f"/proc/self/fd/{own}", IN_ATTRIB | IN_CLOSE)
        self._files[key] = HeldFile(own, watch)

    def is_gone(self, entry: SegmentEntry) -> bool:
        """Whether nobody can reach the segment any more; it may still be attached."""
        if entry.kind == SYSTEM_V:
            return not system_v.exists(entry.id)
        file = self._files.get((entry.device, entry.id))
        return file is not None and _is_unreachable(file.fd)

    def release(self, entry: SegmentEntry) -> None:
        """Let go of a segment that is gone."""
        self._drop((entry.device, entry.id))

    def release_unused(self, entries: list[SegmentEntry]) -> None:
        """Let go of files that were to become segments and have not: they had no entry in this
        look and in the one before."""
        known = {(entry.device, entry.id) for entry in entries}
        for key, file in list(self._files.items()):
            file.looks = 0 if key in known else file.looks + 1
            if file.looks > 1:
                self._drop(key)

    def close(self) -> None:
        """Let go of everything."""
        for key in list(self._files):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        file = self._files.pop(key, None)
        if file is None:
            return
        if file.watch is not None:
            self._events.forget(file.watch)
        os.close(file.fd)


def _is_unreachable(fd: int) -> bool:
    if os.fstat(fd).st_nlink:
        return False
    try:
        return not locks.is_open_elsewhere(fd)
    except OSError:
        # Another user's file: the kernel does not tell.
        return False
