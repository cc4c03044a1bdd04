"""What the journal costs an operation, and how long a restart takes.

Measures the same operations with and without the journal side by side, in turns, on
memory that does nothing, then a real mount; and the time from a kill of the server to the
next answer with many regions. Prints a table. The mount needs root.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from msharefs import Region, abi
from msharefs.core import recovery, tail
from msharefs.core.attributes import AttributeChange
from msharefs.core.inode import ROOT_INO, Caller
from msharefs.core.journal import Journal, Request
from msharefs.core.manager import RegionManager
from msharefs.core.mapper import Limits
from msharefs.core.namespace import RootAttributes
from msharefs.core.records import Kind, Values
from msharefs.daemon.storage import open_handles, open_journal
from tests.helpers import raw
from tests.helpers.mount import Mount, missing_for_mounts
from tests.unit.support.fakes import FakeKernel, FakeMemory, Faults

ROUNDS = 30
REPEATS = 100
SIZE = 1 << 21
RESTS = {"killed as soon as it answers": 0.0, "killed after two seconds": 2.0}
"""A server that has served for a while has a standby beside it (daemon/supervisor.py)."""
LIMITS = Limits(align=4096, max_region=1 << 40, max_mappings=1 << 16, nr_inodes=1 << 20)
CALLER = Caller(1, 0, 0)
MAP = abi.CreateMapping(
    0,
    4096,
    0,
    abi.PROT_READ | abi.PROT_WRITE,
    abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS,
    0,
)


class NoJournal(Journal):
    """Keeps nothing: what an operation costs without its record."""

    def commit(self, request: Request | None, result: int) -> None:
        """Nothing is durable."""

    def _write(self, kind: Kind, values: Values) -> None:
        """Nothing is written."""


class Bench:
    """One manager and the operations on it, each called with a number of its own."""

    def __init__(self, manager: RegionManager) -> None:
        self.manager = manager
        self.region = manager.create(None, ROOT_INO, b"kept", 0o600, CALLER)
        manager.setattr(None, self.region.ino, AttributeChange(size=SIZE))
        self._number = 0

    def operations(self) -> dict[str, Callable[[], object]]:
        """By name. Each leaves all as it was, so that none grows slower."""
        return {
            "create + size + close + unlink": self.create,
            "mkdir + rmdir": self.mkdir,
            "rename": self.rename,
            "chmod": self.chmod,
            "open + close": self.open,
            "map + unmap": self.map,
        }

    def request(self) -> Request:
        """The next one of the kernel."""
        self._number += 2
        return Request(self._number, 1)

    def create(self) -> None:
        """The life of a region."""
        manager = self.manager
        region = manager.create(self.request(), ROOT_INO, b"new", 0o600, CALLER)
        manager.setattr(self.request(), region.ino, AttributeChange(size=SIZE))
        manager.release(self.request(), region.ino)
        manager.unlink(self.request(), ROOT_INO, b"new")
        manager.forget([(region.ino, 1)])

    def mkdir(self) -> None:
        """A directory comes and goes."""
        folder = self.manager.mkdir(self.request(), ROOT_INO, b"folder", 0o700, CALLER)
        self.manager.rmdir(self.request(), ROOT_INO, b"folder")
        self.manager.forget([(folder.ino, 1)])

    def rename(self) -> None:
        """There and back."""
        self.manager.rename(self.request(), ROOT_INO, b"kept", ROOT_INO, b"other", 0)
        self.manager.rename(self.request(), ROOT_INO, b"other", ROOT_INO, b"kept", 0)

    def chmod(self) -> None:
        """A mode."""
        self.manager.setattr(self.request(), self.region.ino, AttributeChange(mode=0o640))

    def open(self) -> None:
        """A handle."""
        self.manager.open(self.request(), self.region.ino, os.O_RDWR)
        self.manager.release(self.request(), self.region.ino)

    def map(self) -> None:
        """A page."""
        mappings = self.manager.mappings
        mappings.perform(mappings.plan_map(self.request(), self.region, MAP, writable=True))
        unmap = abi.Unmap(0, 4096)
        mappings.perform(mappings.plan_unmap(self.request(), self.region, unmap, writable=True))


def microseconds(operation: Callable[[], object]) -> float:
    """The time of one of many."""
    began = time.perf_counter()
    for _ in range(REPEATS):
        operation()
    return (time.perf_counter() - began) / REPEATS * 1e6


def manager_with(journal: Journal, handles: str) -> RegionManager:
    """On memory that does nothing; `handles` is the path of their counts."""
    manager = RegionManager(
        FakeMemory(1 << 30),
        FakeKernel(Faults()),
        LIMITS,
        RootAttributes(),
        time.time_ns,
        journal,
        open_handles(handles),
    )
    if not isinstance(journal, NoJournal):
        recovery.on_new_mount(manager.tables, lambda _: None)
    return manager


def side_by_side(directory: str) -> dict[str, tuple[float, float]]:
    """Each operation's median time in microseconds: without and with the journal."""
    durable = open_journal(os.path.join(directory, "journal"), lambda _: None, lambda: None)
    nothing = NoJournal(
        ":memory:",
        lambda: memoryview(bytearray(tail.SIZE)),
        lambda _: None,
        lambda: None,
        lambda *_: None,
    )
    without = Bench(manager_with(nothing, os.path.join(directory, "other"))).operations()
    journalled = Bench(manager_with(durable, os.path.join(directory, "handles"))).operations()
    times = {}
    for name, operation in without.items():
        pairs = [(microseconds(operation), microseconds(journalled[name])) for _ in range(ROUNDS)]
        times[name] = (
            statistics.median(pair[0] for pair in pairs),
            statistics.median(pair[1] for pair in pairs),
        )
    return times


def on_a_mount(mounted: Mount) -> dict[str, float]:
    """The same operations through the kernel: median time in microseconds."""
    kept, other, new, folder = (mounted.path / word for word in ("kept", "other", "new", "folder"))
    with Region.create(kept, SIZE) as region:

        def create() -> None:
            fd = os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR)
            os.ftruncate(fd, SIZE)
            os.close(fd)
            os.unlink(new)

        def mkdir() -> None:
            os.mkdir(folder)
            os.rmdir(folder)

        def rename() -> None:
            os.rename(kept, other)
            os.rename(other, kept)

        def mapping() -> None:
            raw.create_mapping(region.fileno(), 0, 4096)
            raw.unmap(region.fileno(), 0, 4096)

        calls: dict[str, Callable[[], object]] = {
            "create + size + close + unlink": create,
            "mkdir + rmdir": mkdir,
            "rename": rename,
            "chmod": lambda: os.chmod(kept, 0o640),
            "open + close": lambda: os.close(os.open(kept, os.O_RDWR)),
            "map + unmap": mapping,
        }
        return {
            name: statistics.median(microseconds(call) for _ in range(ROUNDS // 5))
            for name, call in calls.items()
        }


def fill(mounted: Mount, regions: int) -> None:
    """Make so many regions with a page of memory each."""
    for number in range(regions):
        with Region.create(mounted.path / f"region{number}", SIZE) as region:
            region.map(0, 4096)


def restart_gap(mounted: Mount, kills: int, rest: float) -> list[float]:
    """Milliseconds from a kill to the next answer, with `rest` seconds before each kill."""
    gaps = []
    for _ in range(kills):
        server = mounted.server_pid
        time.sleep(rest)
        began = time.perf_counter()
        os.kill(server, signal.SIGKILL)
        os.statvfs(mounted.path)
        gaps.append((time.perf_counter() - began) * 1000)
    return gaps


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--regions", type=int, default=1000, help="of the mount (1000)")
    parser.add_argument("--kills", type=int, default=10, help="to measure the gap by (10)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        core = side_by_side(directory)
    missing = missing_for_mounts()
    if missing is not None:
        show_operations(core, {})
        print(f"no mount measured: {missing}")
        return 0
    # A page each, and twice that for what belongs to it.
    mounted = Mount(f"size={256 + asked.regions // 100}M,align=4096")
    try:
        mounted.wait_until_it_answers()
        show_operations(core, on_a_mount(mounted))
        fill(mounted, asked.regions)
        print(f"  next answer after a kill, {asked.regions} regions, {asked.kills} kills each:")
        for when, rest in RESTS.items():
            times = restart_gap(mounted, asked.kills, rest)
            middle, longest = statistics.median(times), max(times)
            print(f"    {when:<40}median {middle:4.0f} ms, longest {longest:4.0f} ms")
    finally:
        mounted.discard()
    return 0


def show_operations(core: dict[str, tuple[float, float]], mounted: dict[str, float]) -> None:
    """The table of the operations, with those on a mount where there are any."""
    print(f"  {'microseconds':<32}{'plain':>9}{'journal':>9}{'costs':>9}{'mount':>9}{'ratio':>8}")
    for name, (plain, journalled) in core.items():
        line = f"  {name:<32}{plain:>9.1f}{journalled:>9.1f}{journalled - plain:>9.1f}"
        if name in mounted:
            whole = mounted[name]
            # What the mount would take without what the journal adds.
            line += f"{whole:>9.1f}{whole / (whole - journalled + plain):>8.2f}"
        print(line)


if __name__ == "__main__":
    sys.exit(main())
