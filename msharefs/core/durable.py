"""A RegionManager whose changes outlive the process.

Owns when what is journalled: each change of state is one transaction, which ends before
the answer is given, and `restore` makes the same tables from it again. The rules are
RegionManager's and stay there; here each of its changes is followed by its record.

An exception between `begin` and `commit` means that the tables and the journal may
differ; `broken` is called, and the process has to start again from the journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType

from msharefs.abi import INFO_NAME, CreateMapping, Unmap
from msharefs.core.errors import RefusedError
from msharefs.core.handles import HandleCounts
from msharefs.core.inode import INFO_INO, ROOT_INO, Caller, Directory, Inode
from msharefs.core.journal import Applied, Journal, Request
from msharefs.core.layout import Layout
from msharefs.core.ledger import Totals
from msharefs.core.manager import AttributeChange, Limits, RegionManager
from msharefs.core.namespace import RENAME_EXCHANGE, RootAttributes
from msharefs.core.plan import MapPlan, Plan, UnmapPlan
from msharefs.core.ports import Memory, Notices
from msharefs.core.region import Region

UNKNOWN = 1 << 62
"""Look-ups of an inode that an earlier process counted. The kernel is asked instead."""
NOTHING = Totals(Layout())


@dataclass(frozen=True, slots=True)
class Durability:
    """Where state goes. `reached` is told of each step, for tests that end the process
    there; `broken` that the tables and the journal may differ."""

    journal: Journal
    handles: HandleCounts
    reached: Callable[[str], None]
    broken: Callable[[], None]


class DurableManager(RegionManager):
    """`request` is set by the adapter before each call: what it is being called for."""

    def __init__(
        self,
        memory: Memory,
        notices: Notices,
        limits: Limits,
        root: RootAttributes,
        clock: Callable[[], int],
        durability: Durability,
    ) -> None:
        self.request: Request | None = None
        # A region has one plan at a time.
        self._planned_for: dict[int, Request | None] = {}
        self._journal = durability.journal
        self._handles = durability.handles
        self._reached = durability.reached
        self._durability = durability
        super().__init__(memory, notices, limits, root, clock)

    # Names

    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> Region:
        """As RegionManager.create."""
        region = super().create(parent, name, mode, caller)
        with self._transaction(region.ino):
            region.slot = self._handles.new_slot()
            self._enter(parent, name, region)
            self._count_handles(region)
        return region

    def mknod(self, parent: int, name: bytes, mode: int, caller: Caller) -> Region:
        """As RegionManager.mknod."""
        region = super().mknod(parent, name, mode, caller)
        with self._transaction(region.ino):
            region.slot = self._handles.new_slot()
            self._enter(parent, name, region)
        return region

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Directory:
        """As RegionManager.mkdir."""
        directory = super().mkdir(parent, name, mode, caller)
        with self._transaction(directory.ino):
            self._enter(parent, name, directory)
        return directory

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """As RegionManager.link."""
        inode = super().link(ino, parent, name)
        with self._transaction(ino):
            self._enter(parent, name, inode)
        return inode

    def unlink(self, parent: int, name: bytes) -> None:
        """As RegionManager.unlink."""
        inode = self.names.existing(parent, name)
        with self._transaction(0):
            super().unlink(parent, name)
            self._leave(parent, name, inode)

    def rmdir(self, parent: int, name: bytes) -> None:
        """As RegionManager.rmdir."""
        inode = self.names.existing(parent, name)
        with self._transaction(0):
            super().rmdir(parent, name)
            self._leave(parent, name, inode)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """As RegionManager.rename."""
        inode = self.names.existing(parent, name)
        target = self.names.find(new_parent, new_name)
        with self._transaction(0):
            super().rename(parent, name, new_parent, new_name, flags)
            if target is inode:
                return
            if target is not None:
                self._leave(new_parent, new_name, target)
            self._leave(parent, name, inode)
            self._enter(new_parent, new_name, inode)
            if flags & RENAME_EXCHANGE and target is not None:
                self._enter(parent, name, target)

    def setattr(self, ino: int, change: AttributeChange) -> Inode:
        """As RegionManager.setattr."""
        inode = super().setattr(ino, change)
        with self._transaction(ino):
            self._journal.save(inode)
        return inode

    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        """As RegionManager.fallocate."""
        super().fallocate(ino, mode, offset, length)
        with self._transaction(ino):
            self._journal.save(self.names.get(ino))

    def forget(self, counts: Iterable[tuple[int, int]]) -> None:
        """As RegionManager.forget; where an earlier process counted, the kernel is asked."""
        known = []
        serving, self.request = self.request, None
        for ino, lookups in counts:
            inode = self.names.peek(ino)
            if inode is None:
                continue  # we knew before: the kernel was asked
            if inode.lookups >= UNKNOWN // 2:
                self._ask_kernel(inode)
            else:
                known.append((ino, lookups))
        super().forget(known)
        self.request = serving

    # Handles

    def open(self, ino: int, flags: int) -> Inode:
        """As RegionManager.open."""
        inode = self.names.get(ino)
        without_segment = isinstance(inode, Region) and inode.segment is None
        super().open(ino, flags)
        if isinstance(inode, Region):
            if without_segment:
                with self._transaction(ino):
                    self._journal.save(inode)
            self._count_handles(inode)
        return inode

    def release(self, ino: int) -> None:
        """As RegionManager.release."""
        inode = self.names.peek(ino)
        if inode is None or inode.opens == 0:
            # A FORGET that was sent after this RELEASE may be read before it; and handles
            # of mshare_info that an earlier process gave are not counted.
            return
        inode.opens -= 1
        self.open_handles -= 1
        if isinstance(inode, Region):
            self._count_handles(inode)
        self._drop_unreferenced(inode)

    # Mappings

    def plan_map(
        self,
        ino: int,
        request: CreateMapping,
        *,
        writable: bool,
        has_descriptor: Callable[[int], bool],
    ) -> MapPlan:
        """As RegionManager.plan_map."""
        plan = super().plan_map(ino, request, writable=writable, has_descriptor=has_descriptor)
        self._planned_for[ino] = self.request
        return plan

    def plan_unmap(self, ino: int, request: Unmap, *, writable: bool) -> UnmapPlan:
        """As RegionManager.plan_unmap."""
        plan = super().plan_unmap(ino, request, writable=writable)
        self._planned_for[ino] = self.request
        return plan

    def commit(self, plan: Plan) -> None:
        """As RegionManager.commit. Others may have been served since the plan was made."""
        self._reached("cleared")
        serving, self.request = self.request, self._planned_for.pop(plan.region.ino, None)
        span = plan.mapping if isinstance(plan, MapPlan) else plan.gone
        layout = plan.region.layout
        old = layout.overlapping(span.start, span.end)
        low = min([span.start, *(m.start for m in old)])
        high = max([span.end, *(m.end for m in old)])
        with self._transaction(plan.region.ino):
            super().commit(plan)
            self._journal.replace_mappings(plan.region.ino, old, layout.overlapping(low, high))
        self._handles.set_changes(plan.region.slot, plan.region.maps, plan.region.unmaps)
        self.request = serving

    # Requests that come again

    def applied(self, unique: int) -> Applied | None:
        """What an earlier process did for a request that was then not answered."""
        return self._journal.applied(unique)

    def handle_was_counted(self, unique: int) -> bool:
        """Whether an OPEN or RELEASE was counted, and only the answer is missing."""
        return self._handles.was_applied(unique)

    # After a crash

    def restore(self, *, same_connection: bool) -> list[int]:
        """Make the tables from the journal. `same_connection` tells that the kernel knows
        the inodes still, as after the death of a server; else only names count. Returns
        the regions whose memory somebody else has taken away: they have no mappings now."""
        inodes = {row["ino"]: self._inode_from(row) for row in self._journal.inodes()}
        if not inodes:
            with self._transaction(0):
                self._enter(ROOT_INO, INFO_NAME, self.names.get(INFO_INO))
            self._take_up_segments(same_connection=False)
            self.settle()
            return []
        for row in self._journal.names():
            directory = inodes[row["parent"]]
            if isinstance(directory, Directory):
                directory.put_again(row["name"], row["ino"], row["cookie"])
        self.regions.update((i, r) for i, r in inodes.items() if isinstance(r, Region))
        for ino, mapping in self._journal.mappings():
            self.regions[ino].layout.insert(mapping)
        for inode in inodes.values():
            inode.lookups = UNKNOWN if same_connection or inode.ino == ROOT_INO else 0
        self.names.restore(inodes, last_ino=self._handles.last_ino)
        self._handles.take_up({region.slot for region in self.regions.values()})
        if not same_connection:
            self._journal.forget_requests()
            self._handles.forget_request()
        lost = self._take_up_segments(same_connection=same_connection)
        self.settle()
        self.sweep()
        return lost

    def connected(self, *, same_connection: bool) -> None:
        """The kernel can be talked to, and has not been answered yet.

        On a new connection the segments are made known to it. On the same one it is asked
        about inodes without a name: a FORGET may have died with the process that read it.
        """
        for region in self.regions.values():
            # Without a token the process died between making the segment and recording it.
            if region.segment is not None and not (same_connection and region.token):
                token = self._notices.segment_made(region.ino, region.segment)
                if token != region.token:
                    region.token = token
                    with self._transaction(0):
                        self._journal.save(region)
        if same_connection:
            for inode in self.names.nameless():
                self._ask_kernel(inode)

    def _take_up_segments(self, *, same_connection: bool) -> list[int]:
        stored = set(self.memory.stored())
        for ino in stored - self.regions.keys():
            self.memory.discard(ino)
        lost = [ino for ino in self.regions.keys() - stored if len(self.regions[ino].layout)]
        for ino in lost:
            self._forget_mappings(self.regions[ino])
        for region in self.regions.values():
            self.ledger.account(NOTHING, region.layout)
            if region.ino in stored:
                region.segment = self.memory.take_up(region.ino)
                if same_connection:
                    self._notices.segment_adopted(region.ino, region.segment, region.token)
            if same_connection:
                region.opens = self._handles.get(region.slot)
                self.open_handles += region.opens
            else:
                self._handles.set(region.slot, 0, 0)
        if not same_connection:
            for inode in self.names.nameless():
                self._drop_unreferenced(inode)
        return sorted(lost)

    def _forget_mappings(self, region: Region) -> None:
        with self._transaction(0):
            self._journal.replace_mappings(region.ino, list(region.layout), [])
        region.layout = Layout()

    def _inode_from(self, row: sqlite3.Row) -> Inode:
        ino, mode, uid, gid, ctime = (row[k] for k in ("ino", "mode", "uid", "gid", "ctime_ns"))
        inode: Inode
        if row["kind"] == "D":
            inode = Directory(ino, row["parent"], mode, uid, gid, ctime)
        elif row["kind"] == "I":
            inode = self.names.get(INFO_INO)
        else:
            creator = Caller(row["creator_pid"], row["creator_uid"], row["creator_gid"])
            inode = region = Region(ino, mode & 0o7777, uid, gid, ctime, creator)
            region.token, region.slot = row["token"], row["slot"]
            region.maps, region.unmaps = self._handles.changes(region.slot)
            if row["size"] >= 0:
                region.become_sized(row["size"])
        inode.nlink, inode.ctime_ns = row["nlink"], ctime
        inode.atime_ns, inode.mtime_ns = row["atime_ns"], row["mtime_ns"]
        return inode

    def _ask_kernel(self, inode: Inode) -> None:
        """An inode that the kernel does not know is not open or mapped either."""
        if not self._notices.is_known(inode.ino):
            self.open_handles -= inode.opens
            inode.lookups = inode.opens = 0
            self._drop_unreferenced(inode)

    def _reap(self) -> bool:
        """As RegionManager._reap: done on the way, it is no part of what is being served."""
        serving, self.request = self.request, None
        try:
            return super()._reap()
        finally:
            self.request = serving

    def _drop_unreferenced(self, inode: Inode) -> bool:
        if not super()._drop_unreferenced(inode):
            return False
        with self._transaction(0):
            self._journal.drop(inode.ino)
        if isinstance(inode, Region):
            self._handles.free_slot(inode.slot)
        return True

    # Records

    def _enter(self, parent: int, name: bytes, inode: Inode) -> None:
        directory = self.names.directory(parent)
        self._handles.last_ino = max(self._handles.last_ino, inode.ino)
        self._journal.put_name(directory, name)
        self._journal.save(directory)
        self._journal.save(inode)

    def _leave(self, parent: int, name: bytes, inode: Inode) -> None:
        self._journal.drop_name(parent, name)
        self._journal.save(self.names.directory(parent))
        if self.names.peek(inode.ino) is inode:
            self._journal.save(inode)

    def _count_handles(self, region: Region) -> None:
        unique = 0 if self.request is None else self.request.unique
        self._handles.set(region.slot, region.opens, unique)

    def _transaction(self, result: int) -> _Transaction:
        """One within another is part of it. `result` is the inode number in the answer."""
        return _Transaction(self._journal, self._durability, self.request, result)


class _Transaction:
    """A context for the records of one change. Plain, because it is on every hot path."""

    __slots__ = ("_durability", "_journal", "_outermost", "_request", "_result")

    def __init__(
        self, journal: Journal, durability: Durability, request: Request | None, result: int
    ) -> None:
        self._journal = journal
        self._durability = durability
        self._request = request
        self._result = result
        self._outermost = False

    def __enter__(self) -> None:
        try:
            self._outermost = self._journal.begin()
        except Exception:
            # Some changes are made before their transaction begins.
            self._durability.broken()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, RefusedError):
            # Refusals come before any change.
            if self._outermost:
                self._journal.roll_back()
        elif error is not None:
            self._durability.broken()
        elif self._outermost:
            self._commit()

    def _commit(self) -> None:
        self._durability.reached("before commit")
        try:
            self._journal.commit(self._request, self._result)
        except Exception:
            self._durability.broken()
            raise
        self._durability.reached("after commit")
