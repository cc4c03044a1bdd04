"""The random client of machine.py over a manager whose process is restarted in between.

A restart ends the process between two requests; test_durable.py kills it within one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis.stateful import rule

from msharefs.core.inode import INFO_INO
from msharefs.core.manager import RegionManager
from msharefs.core.mapper import Limits
from tests.model.machine import LIMITS, Machine
from tests.unit.support.durables import Host


class DurableMachine(Machine):
    """Machine, and restarts."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.host = Host(
            Path(self._directory.name),
            Limits(LIMITS.align, LIMITS.max_region, LIMITS.max_mappings, LIMITS.nr_inodes),
            LIMITS.capacity,
            reclaim_later=self.reclaim_later,
        )
        super().__init__()
        self.memory, self.kernel = self.host.memory, self.host.kernel

    def make_manager(self) -> RegionManager:
        """The first process."""
        return self.host.start().manager

    def before_request(self) -> None:
        """Each is a new one of the kernel."""
        super().before_request()
        self.request = self.host.next_request(0)

    def find_first(self, parent: int, name: bytes) -> None:
        """What an earlier process counted is not known, so the kernel is asked about what
        has lost its name; and it has looked the name up before."""
        node = self.model.find(parent, name)
        if node is not None and not node.lookups:
            self.manager.lookup(parent, name)
            node.lookups += 1
            self.learn()

    @rule()
    def restart(self) -> None:
        """The process dies and another takes its place. Handles of mshare_info are counted
        by a process alone."""
        self.reclaim()
        info = self.model.nodes[INFO_INO]
        while info.opens:
            self.model.released(INFO_INO)
        self.learn()
        self.manager = self.host.start().manager
        self.strays = False

    def teardown(self) -> None:
        """The journal's file goes, too."""
        super().teardown()
        self.host.close()
        self._directory.cleanup()


class DurableMachineWithSlowDeaths(DurableMachine):
    """Regions die in two steps."""

    reclaim_later = True
