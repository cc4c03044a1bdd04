"""A DurableManager on fakes, whose process can die and come again."""

from __future__ import annotations

import itertools
from pathlib import Path

from msharefs.core.durable import Durability, DurableManager
from msharefs.core.handles import HandleCounts
from msharefs.core.journal import Journal, Request
from msharefs.core.manager import Limits
from msharefs.core.namespace import RootAttributes
from tests.unit.support.fakes import FakeClock, FakeMemory, FakeNotices, Faults
from tests.unit.support.worlds import DEFAULT_ROOT, World


class SharedBytes:
    """Stands in for a file that is mapped shared: its bytes outlive those who wrote them."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def resize(self, size: int) -> memoryview:
        """All of it, grown with zeros; earlier views are of no use any more."""
        grown = bytearray(size)
        grown[: len(self._bytes)] = self._bytes
        self._bytes = grown
        return memoryview(grown)

    def open(self) -> HandleCounts:
        """As a process that starts does it."""
        return HandleCounts(self.resize, len(self))


class Killed(BaseException):
    """The process is dead. No `except Exception` may catch it."""


class Host:
    """What outlives a server: memory, handle counts, the journal, and the kernel's view.

    `start` makes the next server. `kill_at` ends it at the n-th step that it comes to,
    from then on: a BaseException goes through it, and nothing of it runs any more.
    """

    def __init__(
        self, directory: Path, limits: Limits, capacity: int, *, bury_later: bool = False
    ) -> None:
        self.steps: list[str] = []
        self._kill_at: int | None = None
        self.memory = FakeMemory(capacity, faults=Faults())
        self.memory.faults.observe = self._reached
        self.memory.before = lambda step, _ino: self._reached(step)
        self.notices = FakeNotices(self.memory.faults, bury_later=bury_later)
        self.clock = FakeClock()
        self.counts = SharedBytes()
        self.limits = limits
        self.broken = 0
        self.lost: list[int] = []
        self.journal: Journal | None = None
        self._path = directory / "journal"
        self._uniques = itertools.count(2, 2)

    def start(
        self, *, same_connection: bool = True, root: RootAttributes = DEFAULT_ROOT
    ) -> DurableManager:
        """A server's manager, with the state that an earlier one left."""
        if self.journal is not None:
            self.journal.close()
        self._kill_at = None
        self.journal = Journal(str(self._path))
        durability = Durability(self.journal, self.counts.open(), self._reached, self._broke)
        manager = DurableManager(
            self.memory, self.notices, self.limits, root, self.clock, durability
        )
        self.lost = manager.restore(same_connection=same_connection)
        manager.connected(same_connection=same_connection)
        self.steps.clear()
        return manager

    def world(self, manager: DurableManager) -> World:
        """The same in the shape that other tests use."""
        return World(manager, self.memory, self.notices, self.clock)

    def kill_at(self, step: int) -> None:
        """The server dies when it comes to a step for so many times more, counted from 0."""
        self.steps.clear()
        self._kill_at = step

    def next_request(self, manager: DurableManager, opcode: int) -> Request:
        """What the manager does from now on is for a new request of the kernel."""
        manager.request = Request(next(self._uniques), opcode)
        return manager.request

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
