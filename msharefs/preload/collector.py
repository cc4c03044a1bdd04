"""What lives in a run's region, who has it, and giving back what nobody has.

Owns the only decision that a range is free again. It knows no signals and no sockets; the
runner tells it what has happened.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from msharefs.client.region import Region
from msharefs.preload.holders import Holders, Span, find_holders, overlaps, windows_of
from msharefs.preload.segments import LEFT, SegmentTable, vanished


@dataclass(slots=True)
class Watch:
    """One of the processes that have a range: while it has, the others need no look."""

    pid: int
    pidfd: int


class Collector:
    """The ranges of one run."""

    def __init__(self, region: Region, table: SegmentTable | None, guard: int = 0) -> None:
        """Whatever is mapped in the region now belongs to others and is left alone. This
        process and the guard have nothing of the run."""
        self._ours = frozenset({os.getpid(), guard})
        self._region = region
        self._table = table
        status = os.fstat(region.fileno())
        self._file = status.st_dev, status.st_ino
        # With the table, which is there already.
        self._foreign = {m.offset for m in region.layout().mappings}
        self._watches: dict[Span, Watch] = {}
        self.peak = 0
        """The most bytes that lived in the region at one moment, as far as was seen."""

    @property
    def pidfds(self) -> list[int]:
        """Each becomes readable when a process that has a range ends."""
        return [watch.pidfd for watch in self._watches.values()]

    @property
    def holders(self) -> set[int]:
        """For each range one of the processes that had it at the last look."""
        return {watch.pid for watch in self._watches.values()}

    def placed(self, offset: int, pid: int) -> None:
        """A process has attached the range that begins at `offset`."""
        for span in self._ranges():
            if span[0] == offset and span not in self._watches:
                self._watch(span, [pid])

    def still_held(self, offset: int) -> bool:
        """Whether the range at `offset` still has its watched process, so that there is
        nothing to do about a window on it that went."""
        for (start, end), watch in self._watches.items():
            if start <= offset < end:
                windows = windows_of(watch.pid, *self._file)
                return windows is None or overlaps(windows, (start, end))
        return False

    def collect(self, only: set[int] | None = None) -> None:
        """Look at everything, and give back what nobody has: all of it, or `only` the ranges
        with these offsets in them.

        Raises TableBusyError: to be called again soon.
        """
        with self._locked():
            # First the ranges, then the processes: a range that appears in between is not
            # looked at, and one without a process now can get none (see region.c).
            spans = self._ranges()
            holders = find_holders(*self._file, self._ours)
            named = self._named_segments(holders)
            for span in spans:
                pids = holders.of(span)
                if pids:
                    self._watch(span, pids)
                    continue
                self._unwatch(span)
                wanted = only is None or any(span[0] <= offset < span[1] for offset in only)
                if wanted and holders.complete and not overlaps(named, span):
                    self._region.unmap(span[0], span[1] - span[0])
        for span in self._watches.keys() - set(spans):
            self._unwatch(span)

    def close(self) -> None:
        """Let go of everything."""
        for span in list(self._watches):
            self._unwatch(span)
        if self._table is not None:
            self._table.close()

    def _ranges(self) -> list[Span]:
        """The run's own ranges."""
        found = [
            (m.offset, m.end)
            for m in self._region.layout().mappings
            if m.offset not in self._foreign
        ]
        self.peak = max(self.peak, sum(end - start for start, end in found))
        return found

    def _named_segments(self, holders: Holders) -> list[Span]:
        """Where segments are that exist, attached or not. Entries of others go."""
        if self._table is None:
            return []
        segments = list(self._table.segments())
        idle = [s for s in segments if s.kind == LEFT or not holders.of(s.span)]
        dead = vanished(idle)
        for segment in dead:
            self._table.remove(segment)
        return [s.span for s in segments if s not in dead and s.kind != LEFT]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._table is None:
            yield
            return
        with self._table.locked():
            yield

    def _watch(self, span: Span, pids: list[int]) -> None:
        """Watch one of the processes; the one that is watched already, if it is among them."""
        watch = self._watches.get(span)
        if watch is not None and watch.pid in pids:
            return
        self._unwatch(span)
        for pid in pids:
            try:
                self._watches[span] = Watch(pid, os.pidfd_open(pid))
            except OSError:
                continue  # it has just ended
            return

    def _unwatch(self, span: Span) -> None:
        watch = self._watches.pop(span, None)
        if watch is not None:
            os.close(watch.pidfd)
