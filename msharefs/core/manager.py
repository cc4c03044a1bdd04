"""RegionManager: the one door to the file system for every adapter.

Owns the order in which names, regions, budget and memory change, so that each method
either does all of an operation or raises `RefusedError` with nothing changed. Plain
synchronous functions; it must not know who calls it. Changes of memory that may take
long come in parts (plan, acquire, clear, commit or abandon): the caller may run `acquire`
and `clear` in a thread and must then let no other plan of the same region in between.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from msharefs.abi import INFO_NAME, CreateMapping, Unmap
from msharefs.core.checks import unmapped_range, wanted_mapping
from msharefs.core.errors import (
    AccessDenied,
    InvalidArgument,
    IsADirectory,
    NotAnIoctl,
    NotFound,
    NotPermitted,
    NotSupported,
    OutOfMemory,
)
from msharefs.core.inode import Caller, Directory, Entry, InfoFile, Inode
from msharefs.core.layout import Range
from msharefs.core.ledger import Ledger, Totals, storage_error, sweep
from msharefs.core.namespace import Namespace, RootAttributes
from msharefs.core.plan import MapPlan, Plan, UnmapPlan
from msharefs.core.ports import Memory, Notices, Segment
from msharefs.core.region import Event, Region

log = logging.getLogger(__name__)

ACQUIRE_TRIES = 8
FIRST_EXTRA = 1 << 20
"""Processes that hammer holes can take pages that were promised to a plan. So each try gets
twice as many bytes more to be taken; what they took is swept afterwards."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the mount options allow. Sizes in bytes."""

    align: int
    max_region: int
    max_mappings: int
    nr_inodes: int


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """A setattr: None leaves a field alone. Times in nanoseconds, size in bytes."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class RegionManager:
    """All regions of one mount. Call `settle` once when it has what it starts with."""

    def __init__(
        self,
        memory: Memory,
        notices: Notices,
        limits: Limits,
        root: RootAttributes,
        clock: Callable[[], int],
    ) -> None:
        self.limits = limits
        self.memory = memory
        self.ledger = Ledger(memory)
        self.open_handles = 0
        # Regions that are gone and whose memory is being freed.
        self.dying = 0
        self.regions: dict[int, Region] = {}
        self._notices = notices
        self._clock = clock
        self.names = Namespace(
            root,
            info_name=INFO_NAME,
            info_text=b"%d\n" % limits.align,
            nr_inodes=limits.nr_inodes,
            clock=clock,
        )

    # Names

    def getattr(self, ino: int) -> Inode:
        """The inode with this number. Raises NotFound."""
        return self.names.get(ino)

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """What a name means, counted as known to the kernel; None where there is no such
        name. Raises NameTooLong or NotADirectory."""
        inode = self.names.find(parent, name)
        if inode is not None:
            inode.lookups += 1
        return inode

    def create(self, parent: int, name: bytes, mode: int, caller: Caller) -> Region:
        """Make a region and open it: one look-up and one handle more."""
        region = self.names.new_region(parent, name, mode, caller)
        self._segment_of(region)
        self._add_region(parent, name, region)
        region.opens += 1
        self.open_handles += 1
        return region

    def mknod(self, parent: int, name: bytes, mode: int, caller: Caller) -> Region:
        """Make a region without opening it. Raises NotPermitted for devices and the like."""
        if not stat.S_ISREG(mode):
            raise NotPermitted("only regular files and directories can be made here")
        region = self.names.new_region(parent, name, mode, caller)
        self._add_region(parent, name, region)
        return region

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Directory:
        """Make a directory: one look-up more."""
        directory = self.names.new_directory(parent, name, mode, caller)
        self.names.add(parent, name, directory)
        directory.lookups += 1
        return directory

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """A further name for a region: one look-up more."""
        inode = self.names.link(ino, parent, name)
        inode.lookups += 1
        return inode

    def unlink(self, parent: int, name: bytes) -> None:
        """Take a region's name away; the last one leaves it to handles and mappings."""
        self._lost_a_name(self.names.unlink(parent, name))

    def rmdir(self, parent: int, name: bytes) -> None:
        """Take an empty directory away."""
        self._lost_a_name(self.names.rmdir(parent, name))

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """Move a name; with RENAME_EXCHANGE swap two, with RENAME_NOREPLACE replace none."""
        replaced = self.names.rename(parent, name, new_parent, new_name, flags)
        if replaced is not None:
            self._lost_a_name(replaced)

    def listing(self, ino: int, after: int) -> Iterator[tuple[Entry, Inode]]:
        """The names of a directory whose cookie is greater than `after`; see `lookup` for
        the count that each name handed to the kernel needs."""
        for entry in self.names.directory(ino).listing(after):
            yield entry, self.names.get(entry.ino)

    def setattr(self, ino: int, change: AttributeChange) -> Inode:
        """Change attributes; the size first, because it alone can be refused."""
        inode = self.names.get(ino)
        if isinstance(inode, InfoFile):
            raise NotPermitted("mshare_info belongs to the file system")
        if change.size is not None:
            self._set_size(inode, change.size)
        if change.mode is not None:
            inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(change.mode)
        if change.uid is not None or change.gid is not None:
            _change_owner(inode, change)
        if change.atime_ns is not None:
            inode.atime_ns = change.atime_ns
        if change.mtime_ns is not None:
            inode.mtime_ns = change.mtime_ns
        inode.ctime_ns = self._clock()
        return inode

    def forget(self, counts: Iterable[tuple[int, int]]) -> None:
        """The kernel knows each (inode number, look-ups) that many times less."""
        for ino, lookups in counts:
            try:
                inode = self.names.get(ino)
            except NotFound:
                log.debug("inode %d is gone already", ino)
                continue
            inode.lookups -= lookups
            self._drop_unreferenced(inode)

    # Handles

    def open(self, ino: int, flags: int) -> Inode:
        """One more handle on a region or mshare_info. Raises IsADirectory, AccessDenied,
        SizeAlreadySet (O_TRUNC)."""
        inode = self.names.get(ino)
        if isinstance(inode, Region):
            if flags & os.O_TRUNC:
                inode.next_state(Event.SIZE_ZERO)
            self._segment_of(inode)
        elif inode.is_directory:
            raise IsADirectory(f"inode {ino} is a directory")
        elif flags & (os.O_ACCMODE | os.O_TRUNC):
            raise AccessDenied("mshare_info is read only")
        inode.opens += 1
        self.open_handles += 1
        return inode

    def release(self, ino: int) -> None:
        """One handle less. Processes may still have the region mapped."""
        inode = self.names.get(ino)
        inode.opens -= 1
        self.open_handles -= 1
        self._drop_unreferenced(inode)

    def info_text(self, inode: Inode) -> bytes:
        """The content of mshare_info. Raises InvalidArgument for anything else."""
        if not isinstance(inode, InfoFile):
            raise InvalidArgument(f"inode {inode.ino} has no text")
        return inode.text

    # Size and mappings

    def fallocate(self, ino: int, mode: int, offset: int, length: int) -> None:
        """Set a region's size to `length` bytes, which is all that fallocate can do here."""
        if mode:
            raise NotSupported(f"fallocate mode {mode:#x}")
        if offset:
            raise InvalidArgument(f"fallocate at offset {offset}")
        inode = self.names.get(ino)
        self._set_size(inode, length)
        inode.ctime_ns = self._clock()

    def ioctl_region(self, ino: int) -> Region:
        """The region that an ioctl addresses. Raises NotAnIoctl for anything else."""
        inode = self.names.get(ino)
        if not isinstance(inode, Region):
            raise NotAnIoctl(f"inode {ino} is not a region")
        return inode

    def plan_map(
        self,
        ino: int,
        request: CreateMapping,
        *,
        writable: bool,
        has_descriptor: Callable[[int], bool],
    ) -> MapPlan:
        """Check a CREATE_MAPPING and promise its memory; `writable` tells how the caller's
        descriptor was opened, `has_descriptor` which others he has. Raises the errors of
        checks.wanted_mapping, AccessDenied and OutOfMemory."""
        region = self.ioctl_region(ino)
        _check_writable(writable)
        mapping = wanted_mapping(region, request, has_descriptor)
        layout, start, end = region.layout, mapping.start, mapping.end
        total = len(layout) + layout.growth(start, end, added=1)
        if total > self.limits.max_mappings:
            raise OutOfMemory(f"max_mappings={self.limits.max_mappings} reached")
        segment = self._segment_of(region)
        replaced = tuple(layout.clipped(start, end))
        need = 0
        if mapping.reserve:
            need = mapping.size - sum(old.size for old in replaced if old.reserve)
        plan = MapPlan(
            region=region,
            segment=segment,
            mapping=mapping,
            need=need,
            gaps=tuple(layout.gaps(start, end)),
            replaced=replaced,
            stray=not region.cacheable or segment.allocated() > layout.reserved,
        )
        self._promise(need)
        region.claimed = Range(start, end)
        return plan

    def plan_unmap(self, ino: int, request: Unmap, *, writable: bool) -> UnmapPlan:
        """Check an UNMAP. Raises the errors of checks.unmapped_range, AccessDenied and
        OutOfMemory (a split that would make too many mappings)."""
        region = self.ioctl_region(ino)
        _check_writable(writable)
        gone = unmapped_range(region, request)
        layout = region.layout
        growth = layout.growth(gone.start, gone.end, added=0)
        if growth > 0 and len(layout) + growth > self.limits.max_mappings:
            raise OutOfMemory(f"max_mappings={self.limits.max_mappings} reached")
        removed = tuple(layout.clipped(gone.start, gone.end))
        return UnmapPlan(region, self._segment_of(region), gone, removed)

    def commit(self, plan: Plan) -> None:
        """Record what a plan did, and let the limit follow."""
        region, layout = plan.region, plan.region.layout
        before = Totals(layout)
        if isinstance(plan, MapPlan):
            region.claimed = None
            self.ledger.withdraw(plan.need)
            layout.insert(plan.mapping)
            region.maps += 1
        else:
            layout.remove(plan.gone.start, plan.gone.end)
            region.unmaps += 1
        self.ledger.account(before, layout)
        self.settle()
        self._notices.attributes_changed(region.ino)

    def abandon(self, plan: Plan, cause: OSError) -> NoReturn:
        """A plan's `acquire` failed and undid itself: take the promise back and raise why."""
        if isinstance(plan, MapPlan):
            plan.region.claimed = None
            self.ledger.withdraw(plan.need)
            self.settle()
        raise storage_error(cause) from cause

    def perform(self, plan: Plan) -> None:
        """Acquire, clear and commit in one go."""
        for tries_left in reversed(range(ACQUIRE_TRIES)):
            try:
                plan.acquire()
                break
            except OSError as cause:
                if not self.may_try_again(cause, tries_left):
                    self.abandon(plan, cause)
        plan.clear()
        self.commit(plan)

    def may_try_again(self, cause: OSError, tries_left: int) -> bool:
        """Whether what made `acquire` fail is gone. The memory was promised, so if there is
        none, others touched holes while the budget of the plan was free."""
        if cause.errno != errno.ENOSPC or not tries_left:
            return False
        extra = FIRST_EXTRA << ACQUIRE_TRIES - tries_left
        try:
            self.ledger.make_room(extra, self.regions.values())
        except OSError as error:
            log.error("cannot set the memory's limit: %s", error)
            return False
        return True

    # Memory

    def settle(self) -> bool:
        """Let the memory's limit follow what is promised. Returns whether it does; a change
        that is done stays done where the limit cannot follow now."""
        try:
            return self.ledger.settle(self.regions.values())
        except OSError as error:
            log.error("cannot set the memory's limit, will try again: %s", error)
            return False

    def sweep(self) -> int:
        """Take back pages in holes, touched while budget was free. Returns their bytes."""
        return sweep(self.regions.values())

    def bury(self, region: Region) -> None:
        """The last step of a region that is gone, after its segment was destroyed."""
        self.dying -= 1
        before = Totals(region.layout)
        region.layout.remove(0, region.size)
        self.ledger.account(before, region.layout)
        self.settle()

    def _promise(self, need: int) -> None:
        """Set memory aside, and before it is refused that of regions which the kernel has
        given up, where only its word (FORGET) is still on the way."""
        try:
            self.ledger.promise(need, self.regions.values())
        except OutOfMemory:
            if not self._reap():
                raise
            self.ledger.promise(need, self.regions.values())

    def _reap(self) -> bool:
        given_up = [
            region
            for region in self.regions.values()
            if region.nlink == 0 and region.opens == 0 and not self._notices.is_known(region.ino)
        ]
        for region in given_up:
            region.lookups = 0
            self._drop_unreferenced(region)
        return bool(given_up)

    def _segment_of(self, region: Region) -> Segment:
        if region.segment is None:
            try:
                region.segment = self._new_segment(region)
            except OSError as cause:
                raise storage_error(cause) from cause
        return region.segment

    def _new_segment(self, region: Region) -> Segment:
        segment = self.memory.create(region.ino)
        try:
            region.token = self._notices.segment_made(region.ino, segment)
        except OSError:
            segment.destroy()
            raise
        return segment

    def _set_size(self, inode: Inode, size: int) -> None:
        if not isinstance(inode, Region):
            raise IsADirectory(f"inode {inode.ino} has no size to set")
        event = inode.check_size(size, align=self.limits.align, largest=self.limits.max_region)
        if event is Event.SIZE_ZERO:
            return
        try:
            self._segment_of(inode).set_size(size)
        except OSError as cause:
            raise storage_error(cause) from cause
        inode.become_sized(size)
        _drop_privileges(inode)
        inode.mtime_ns = self._clock()

    # Life and death

    def _add_region(self, parent: int, name: bytes, region: Region) -> None:
        self.names.add(parent, name, region)
        self.regions[region.ino] = region
        region.lookups += 1

    def _lost_a_name(self, inode: Inode) -> None:
        # Once the last name and handle are gone nobody can ask for attributes again.
        if not self._drop_unreferenced(inode) and (inode.nlink or inode.opens):
            self._notices.attributes_changed(inode.ino)

    def _drop_unreferenced(self, inode: Inode) -> bool:
        if not self.names.drop_unreferenced(inode):
            return False
        if isinstance(inode, Region):
            del self.regions[inode.ino]
            self.dying += 1
            if self._notices.region_gone(inode):
                self.bury(inode)
        return True


def _check_writable(writable: bool) -> None:
    if not writable:
        raise AccessDenied("the descriptor was not opened for writing")


def _change_owner(inode: Inode, change: AttributeChange) -> None:
    """chown(2); a new mode from the same request stands."""
    if change.uid is not None:
        inode.uid = change.uid
    if change.gid is not None:
        inode.gid = change.gid
    if not inode.is_directory and change.mode is None:
        _drop_privileges(inode)


def _drop_privileges(inode: Inode) -> None:
    """A file with a new owner or size loses set-user-ID, and set-group-ID where it is
    executable: the kernel leaves that to us (FUSE_HANDLE_KILLPRIV)."""
    inode.mode &= ~stat.S_ISUID
    if inode.mode & stat.S_IXGRP:
        inode.mode &= ~stat.S_ISGID
