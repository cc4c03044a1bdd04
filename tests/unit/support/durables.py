"""A server on fakes, whose process can die and come again."""

from __future__ import annotations

import itertools
from pathlib import Path

from msharefs.core import recovery
from msharefs.core.journal import Journal, Request
from msharefs.core.manager import RegionManager
from msharefs.core.mapper import Limits
from msharefs.core.namespace import RootAttributes
from tests.unit.support.disks import FakeDisk
from tests.unit.support.fakes import FakeClock, FakeKernel, FakeMemory, Faults
from tests.unit.support.worlds import DEFAULT_ROOT, SharedBytes, World, new_tail


class Killed(BaseException):
    """The process is dead. No `except Exception` may catch it."""


class Host:
    """What outlives a server: memory, handle counts, the journal, and the kernel's view.

    `start` makes the next server. `kill_at` ends it at the n-th step that it comes to,
    from then on: a BaseException goes through it, and nothing of it runs any more.
    """

    def __init__(
        self, directory: Path, limits: Limits, capacity: int, *, reclaim_later: bool = False
    ) -> None:
        self.steps: list[str] = []
        self._kill_at: int | None = None
        self.memory = FakeMemory(capacity, faults=Faults())
        self.memory.faults.observe = self._reached
        self.memory.before = lambda step, _ino: self._reached(step)
        self.kernel = FakeKernel(self.memory.faults, reclaim_later=reclaim_later)
        self.clock = FakeClock()
        self.counts = SharedBytes()
        self.disk = FakeDisk()
        self.limits = limits
        self.broken = 0
        self.lost: list[int] = []
        self.progress: list[str] = []
        self.journal: Journal | None = None
        self._path = directory / "journal"
        self._tail = new_tail()
        self._uniques = itertools.count(2, 2)

    def start(self, *, same_connection: bool = True, root: RootAttributes = DEFAULT_ROOT) -> World:
        """A server, with the state that an earlier one left."""
        if self.journal is not None:
            self.journal.close()
        self._kill_at = None
        self.journal = Journal(
            str(self._path), lambda: self._tail, self._reached, self._broke, self.disk.allocate
        )
        manager = RegionManager(
            self.memory,
            self.kernel,
            self.limits,
            root,
            self.clock,
            self.journal,
            self.counts.open(),
        )
        recover = recovery.after_crash if same_connection else recovery.on_new_mount
        self.progress.clear()
        self.lost = recover(manager.tables, self.progress.append)
        self.steps.clear()
        return World(manager, self.memory, self.kernel, self.clock, self.disk)

    def kill_at(self, step: int) -> None:
        """The server dies when it comes to a step for so many times more, counted from 0."""
        self.steps.clear()
        self._kill_at = step

    def next_request(self, opcode: int) -> Request:
        """A new request of the kernel."""
        return Request(next(self._uniques), opcode)

    def close(self) -> None:
        """Let go of the journal's file."""
        if self.journal is not None:
            self.journal.close()

    def _reached(self, step: str) -> None:
        self.steps.append(step)
        if self._kill_at is not None and len(self.steps) > self._kill_at:
            raise Killed(step)

    def _broke(self) -> None:
        self.broken += 1
