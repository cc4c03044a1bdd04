"""What lives in a run's region, and giving back what nobody has.

Owns the decision that a range is free again. Who has what it does not know by itself: the tables
of the run say it, and the kernel keeps them true (holdings.c, segments.py).
"""

from __future__ import annotations

import time

from msharefs.client.region import Region
from msharefs.preload.run_file import Range, RangeState, RunFile, SegmentEntry
from msharefs.preload.segments import Segments

ABANDONED_SECONDS = 10.0
"""A step that takes microseconds has not been made in this time: nobody will make it."""


class Collector:
    """The ranges of one run."""

    def __init__(self, region: Region, run_file: RunFile, segments: Segments) -> None:
        """Whatever else is mapped in the region belongs to others and is left alone."""
        self.region = region
        """The region, by the way that it is mounted now."""
        self._run_file = run_file
        self._segments = segments
        self._making: dict[tuple[int, int], float] = {}
        """Since when these ranges are told, by number and offset."""
        self._hint = 0

    def replace_region(self, region: Region) -> None:
        """The region was mounted anew; from now on by this way."""
        self.region.close()
        self.region = region

    def collect(self) -> None:
        """Look at everything, and give back what nobody has.

        Raises RunFileBusyError: to be called again soon. MshareError: the mount does not answer.
        """
        with self._run_file.locked():
            self._run_file.clear_dead_holders()
            ranges, segments = self._run_file.ranges(), self._run_file.segments()
            self._free(ranges, segments)
            self._free_abandoned(
                {each.number: each.offset for each in ranges if each.state is RangeState.TOLD}
            )
            if segments:
                self._run_file.raise_floor()
            self._segments.release_unused(self._run_file.segments())
            self._hint, _ = self._run_file.take_hints(self._hint)

    def collect_hinted(self) -> None:
        """Give back what processes have said that they had last. Raises as `collect`."""
        hint, numbers = self._run_file.take_hints(self._hint)
        if numbers is None:
            self.collect()
            return
        if numbers:
            with self._run_file.locked():
                ranges = self._run_file.ranges()
                self._free(
                    [r for r in ranges if r.number in numbers and r.state is RangeState.FILLED], []
                )
        self._hint = hint

    def _free(self, ranges: list[Range], segments: list[SegmentEntry]) -> None:
        """Give back which of these nobody has.

        The ranges were read, with the lock, before it is looked who has them: each that is more
        than told was somebody's then, and its place cannot have become another's since. A segment
        that nobody has may be attached at any time by who can reach it. So which of them are gone
        is asked first: nobody can begin to have those, and who has one by then is seen.
        """
        self._note_peak(ranges, segments)
        by_range = {entry.range: entry for entry in segments}
        reachable = {entry.range for entry in segments if not self._segments.is_gone(entry)}
        held = self._run_file.held()
        for each in ranges:
            if each.number in reachable or held >> each.number & 1:
                continue
            if each.state is RangeState.TOLD:
                continue
            if each.state is RangeState.SEGMENT:
                self._free_segment(each, by_range.get(each.number))
            elif each.state is RangeState.FILLED or _is_filled(self.region, each):
                self._unmap(each)
            else:
                self._run_file.free_range(each.number)

    def _free_abandoned(self, making: dict[int, int]) -> None:
        """Whoever began these has been killed, if they are still not done after a long time."""
        now = time.monotonic()
        seen = {key: self._making.get(key, now) for key in making.items()}
        overdue = {key for key, since in seen.items() if now - since > ABANDONED_SECONDS}
        if overdue:
            # As it is now: the other one may just have gone on.
            for each in self._run_file.ranges():
                if each.state is RangeState.TOLD and (each.number, each.offset) in overdue:
                    self._run_file.free_range(each.number)
        self._making = seen

    def _free_segment(self, room: Range, entry: SegmentEntry | None) -> None:
        """Give back a segment that is gone. Without an entry: whoever began to make it has been
        killed."""
        if entry is not None:
            self._run_file.remove_segment(entry)
        self._unmap(room)
        if entry is not None:
            # Last: until then no other file can have its inode.
            self._segments.release(entry)

    def _unmap(self, each: Range) -> None:
        self.region.unmap(each.offset, each.size)
        self._run_file.free_range(each.number)

    def _note_peak(self, ranges: list[Range], segments: list[SegmentEntry]) -> None:
        nameless = sum(each.size for each in ranges if each.state is RangeState.FILLED)
        self._run_file.note_peak(nameless + sum(entry.size for entry in segments))


def give_all_back(region: Region, run_file: RunFile) -> None:
    """Take away all that a run has put into the region. Raises as `Collector.collect`."""
    with run_file.locked():
        for each in run_file.ranges():
            if each.state is RangeState.TOLD:
                continue
            if each.state is not RangeState.FILLING or _is_filled(region, each):
                region.unmap(each.offset, each.size)
            run_file.free_range(each.number)


def _is_filled(region: Region, each: Range) -> bool:
    """Whether who wanted memory there got it before it was killed. Else others may have
    something mapped there."""
    return any(
        (mapping.offset, mapping.size) == (each.offset, each.size)
        for mapping in region.layout().mappings
    )
