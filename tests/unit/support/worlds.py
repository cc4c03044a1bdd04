"""Builders for tests over RegionManager: a manager on fakes, its requests in short, and a
snapshot of all that a refused operation must leave as it was.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import pytest

from msharefs import abi
from msharefs.core import recovery, tail
from msharefs.core.attributes import AttributeChange
from msharefs.core.errors import RefusedError
from msharefs.core.handles import HandleCounts
from msharefs.core.inode import ROOT_INO, Automap, Caller, Directory, Inode
from msharefs.core.journal import Journal, Request
from msharefs.core.layout import MappedFile
from msharefs.core.manager import RegionManager
from msharefs.core.mapper import Limits
from msharefs.core.namespace import RootAttributes
from msharefs.core.plan import MapPlan
from msharefs.core.quotas import NO_LIMITS, UNLIMITED, Share
from msharefs.core.region import Region
from msharefs.core.tables import Tables
from tests.unit.support.disks import FakeDisk
from tests.unit.support.fakes import FakeClock, FakeKernel, FakeMemory, FakeSegment, Faults

T = TypeVar("T")

PAGE = abi.PAGE_SIZE
MIB = 1 << 20
ALIGN = 2 * MIB
ALICE = Caller(pid=101, uid=1001, gid=2001)
BOB = Caller(pid=102, uid=1002, gid=2002)
ANONYMOUS = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS
DEFAULT_ROOT = RootAttributes()
READ_WRITE = abi.PROT_READ | abi.PROT_WRITE


@contextmanager
def refused(code: int) -> Iterator[None]:
    """The body must raise RefusedError with exactly this errno."""
    with pytest.raises(RefusedError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code], str(caught.value)


def attempt(operation: Callable[[], T]) -> T | RefusedError:
    """What the operation returns, or how it was refused."""
    try:
        return operation()
    except RefusedError as refusal:
        return refusal


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


@dataclass(slots=True)
class World:
    """A RegionManager on fakes, and the fakes. `request` is what its changes are for."""

    manager: RegionManager
    memory: FakeMemory
    kernel: FakeKernel
    clock: FakeClock
    disk: FakeDisk
    request: Request | None = None

    @property
    def tables(self) -> Tables:
        """What the manager knows."""
        return self.manager.tables

    @property
    def faults(self) -> Faults:
        """Of memory and the kernel both."""
        return self.memory.faults

    def region(self, name: bytes = b"region", size: int = ALIGN, parent: int = ROOT_INO) -> Region:
        """A new region with one open handle; of no size where `size` is 0."""
        region = self.manager.create(self.request, parent, name, 0o600, ALICE)
        if size:
            self.manager.setattr(self.request, region.ino, AttributeChange(size=size))
        return region

    def limit(self, limits: Limits, capacity: int) -> None:
        """Let other limits hold, in one go."""
        for _ in self.manager.change_limits(limits, capacity):
            pass

    def map(
        self,
        region: Region,
        start: int,
        size: int,
        *,
        flags: int = 0,
        prot: int = READ_WRITE,
        writable: bool = True,
    ) -> None:
        """CREATE_MAPPING of anonymous memory, with further `flags`."""
        wanted = abi.CreateMapping(start, size, 0, prot, ANONYMOUS | flags)
        self.manager.mappings.perform(self.plan(region, wanted, writable=writable))

    def plan(
        self,
        region: Region,
        wanted: abi.CreateMapping,
        *,
        writable: bool = True,
        file: MappedFile | None = None,
    ) -> MapPlan:
        """What a CREATE_MAPPING would do, of `file` if it names one, its memory charged."""
        return self.manager.mappings.plan_map(
            self.request, region, wanted, writable=writable, file=file
        )

    def unmap(self, region: Region, start: int, size: int, *, writable: bool = True) -> None:
        """UNMAP."""
        mappings = self.manager.mappings
        unwanted = abi.Unmap(start, size)
        plan = mappings.plan_unmap(self.request, region, unwanted, writable=writable)
        mappings.perform(plan)

    def truncate(self, region: Region, size: int, **change: int) -> None:
        """ftruncate of a region under automap, with other attributes of the same request."""
        plan = self.manager.sizing.plan_truncate(
            self.request, region, size, AttributeChange(size=size, **change)
        )
        self.manager.mappings.perform(plan)

    def fallocate(self, region: Region, offset: int, length: int, *, mode: int = 0) -> None:
        """fallocate of a region under automap."""
        plan = self.manager.sizing.plan_fallocate(self.request, region, mode, offset, length)
        self.manager.mappings.perform(plan)

    def close(self, region: Inode) -> None:
        """The last descriptor of an open is closed, and the kernel forgets the inode."""
        self.manager.release(self.request, region.ino)
        self.forget(region)

    def forget(self, inode: Inode) -> None:
        """The kernel drops the inode from its cache."""
        self.manager.forget([(inode.ino, inode.lookups)])

    def snapshot(self) -> dict[str, Any]:
        """Everything that a refused operation must not change, as values to compare."""
        tables = self.tables
        ledger, names = tables.ledger, tables.names
        return {
            "inodes": {ino: inode_state(names.get(ino)) for ino in inode_numbers(names)},
            "next inode": names._next_ino,
            "regions": sorted(tables.regions),
            "open handles": tables.open_handles,
            "ledger": (ledger.mappings, ledger.reserved, ledger.pending, ledger.optional),
            "files": (ledger.files, ledger.growing_files),
            "shares": tables.quotas.users(),
            "limits": (ledger.limit, self.memory.limit),
            "segments": {ino: segment_state(s) for ino, s in self.memory.segments.items()},
            "used": self.memory.used(),
        }


def make_world(
    *,
    capacity: int = 64 * MIB,
    align: int = ALIGN,
    max_region: int = 1 << 40,
    max_mappings: int = 65530,
    nr_inodes: int = 1000,
    max_mappings_total: int = UNLIMITED,
    max_files: int = UNLIMITED,
    user: Share = NO_LIMITS,
    root: RootAttributes = DEFAULT_ROOT,
    reclaim_later: bool = False,
    reserve_always: bool = False,
    automap: Automap = Automap.OFF,
    huge: str = "never",
) -> World:
    """A mount with nothing in it but mshare_info, its journal in memory."""
    faults = Faults()
    memory = FakeMemory(capacity, huge=huge, faults=faults)
    kernel = FakeKernel(faults, reclaim_later=reclaim_later)
    clock = FakeClock()
    limits = Limits(
        align,
        max_region,
        max_mappings,
        nr_inodes,
        max_mappings_total=max_mappings_total,
        max_files=max_files,
        user=user,
        reserve_always=reserve_always,
        automap=automap,
    )
    disk = FakeDisk()
    manager = make_manager(memory, kernel, limits, root, clock, disk)
    faults.reset()
    return World(manager, memory, kernel, clock, disk)


def make_manager(
    memory: FakeMemory,
    kernel: FakeKernel,
    limits: Limits,
    root: RootAttributes,
    clock: FakeClock,
    disk: FakeDisk,
) -> RegionManager:
    """A manager of a new mount, its journal in memory, but with as much room as `disk` gives."""
    journal = Journal(":memory:", new_tail, lambda step: None, journal_is_broken, disk.allocate)
    manager = RegionManager(memory, kernel, limits, root, clock, journal, SharedBytes().open())
    recovery.on_new_mount(manager.tables, lambda _: None)
    return manager


def new_tail() -> memoryview:
    """Memory for the tail of a new journal."""
    return memoryview(bytearray(tail.SIZE))


def journal_is_broken() -> NoReturn:
    """No operation, whatever it meets, may leave the tables and the journal different."""
    raise AssertionError("the tables and the journal may differ")


def segment_of(region: Region) -> FakeSegment:
    """The region's segment, which must be there."""
    assert isinstance(region.segment, FakeSegment)
    return region.segment


def inode_numbers(names: Any) -> list[int]:
    """Every inode that there is, those without a name included."""
    return sorted(names._inodes)


def inode_state(inode: Inode) -> dict[str, Any]:
    """All that an inode remembers, as plain values."""
    state: dict[str, Any] = {
        name: getattr(inode, name)
        for name in ("automap", "mode", "uid", "gid", "nlink", "lookups", "opens", "size", "blocks")
    }
    state["times"] = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
    if isinstance(inode, Directory):
        state["parent"] = inode.parent
        state["entries"] = list(inode.listing(0, inode.end))
    if isinstance(inode, Region):
        state["state"] = inode.state
        state["creator"] = inode.creator
        state["layout"] = list(inode.layout)
        state["sums"] = (inode.layout.mapped, inode.layout.reserved)
        state["counters"] = (inode.maps, inode.unmaps)
        state["segment"] = inode.segment is not None
    return state


def segment_state(segment: FakeSegment) -> dict[str, Any]:
    """All that a segment holds, as plain values."""
    return {
        "size": segment.size,
        "pages": frozenset(segment.pages),
        "data": dict(segment.data),
        "huge": frozenset(segment.huge),
        "destroyed": segment.destroyed,
    }
