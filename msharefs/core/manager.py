"""RegionManager: the one door to the file system for every adapter.

Owns the operations on names, attributes, handles and sizes: each either does all of it, in the
tables and in the journal, or raises `RefusedError` with nothing changed. CREATE_MAPPING and UNMAP
are in `mappings` (mapper.py), sizes that come with memory in `sizing` (sizing.py), what goes back
to files in `write_back` (write_back.py), what clients that have the segment itself are told in
`attaching` (attaching.py). Plain synchronous functions; it must not know who calls it, but is told
for which request of the kernel, so that one that is sent again is not applied twice.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from operator import itemgetter

from msharefs.abi import INFO_NAME
from msharefs.core.attaching import Attaching
from msharefs.core.attributes import AttributeChange, change_attributes, drop_privileges
from msharefs.core.errors import (
    AccessDenied,
    Busy,
    InvalidArgument,
    IsADirectory,
    NotPermitted,
    NotSupported,
)
from msharefs.core.handles import HandleCounts
from msharefs.core.inode import Caller, Directory, Entry, InfoFile, Inode
from msharefs.core.journal import STATEMENTS, Applied, Journal, Request
from msharefs.core.ledger import storage_error
from msharefs.core.mapper import Limits, Mapper
from msharefs.core.namespace import RENAME_EXCHANGE, Namespace, RootAttributes
from msharefs.core.ports import Kernel, Memory
from msharefs.core.quotas import Quotas
from msharefs.core.region import Event, Region
from msharefs.core.sizing import Sizing
from msharefs.core.sweeping import slices
from msharefs.core.tables import UNKNOWN, Tables, statements_to_drop, steps_to_drop
from msharefs.core.write_back import WriteBack

log = logging.getLogger(__name__)

CHECKED_AT_ONCE = 4096
"""Regions whose size and mappings are compared with a limit in one go: a millisecond."""


class RegionManager:
    """All regions of one mount. It begins with nothing in it: recovery.py fills it with what
    an earlier process left.

    Methods that change something take the request that they are called for first, or None
    where the kernel would not send it again. They raise what the method of Namespace or Region
    behind them raises, which is always a RefusedError and never an OSError.
    """

    def __init__(
        self,
        memory: Memory,
        kernel: Kernel,
        limits: Limits,
        root: RootAttributes,
        clock: Callable[[], int],
        journal: Journal,
        handles: HandleCounts,
    ) -> None:
        """`clock` gives nanoseconds since 1970. `journal` and `handles` belong to the caller."""
        self.journal = journal
        quotas = Quotas(limits.user)
        self.names = Namespace(
            root,
            info_name=INFO_NAME,
            info_text=b"%d\n" % limits.align,
            nr_inodes=limits.nr_inodes,
            quotas=quotas,
            clock=clock,
        )
        self.tables = Tables(self.names, memory, kernel, journal, handles, quotas)
        self.mappings = Mapper(self.tables, limits)
        self.sizing = Sizing(self.tables, self.mappings, clock)
        self.attaching = Attaching(self.tables)
        self.write_back = WriteBack(self.tables)
        self._clock = clock

    # Limits

    @property
    def limits(self) -> Limits:
        """Those that hold now."""
        return self.mappings.limits

    def change_limits(self, limits: Limits, capacity: int) -> Generator[None, None, None]:
        """Let other limits hold from now on; regions may use `capacity` bytes together. `align`
        stays what it is. Raises Busy, with nothing changed, where more is there than one of
        those allows that are lower than before; but a user may have more than his new limits,
        and gets no more then.

        In steps, between which others are served: there may be very many regions to be looked
        at. Until the last step nothing gets above the lower ones of the limits of a region, which
        hold from the first. One change at a time.

        They are no part of the journal: who calls this keeps them for later servers.
        """
        before, memory = self.limits, self.tables.memory
        self.mappings.limits = replace(
            before,
            max_region=min(before.max_region, limits.max_region),
            max_mappings=min(before.max_mappings, limits.max_mappings),
        )
        try:
            yield from self._check_regions(before, limits)
            if capacity < memory.capacity:
                yield from self.tables.free_above(capacity)
            self._check_sums(limits)
            if capacity < memory.capacity:
                self.tables.ledger.check_capacity(capacity)
        except BaseException:
            self.mappings.limits = before
            raise
        self.mappings.limits = limits
        self.names.nr_inodes = limits.nr_inodes
        self.tables.quotas.limits = limits.user
        memory.set_capacity(capacity)
        self.tables.settle()

    def _check_regions(self, before: Limits, limits: Limits) -> Iterator[None]:
        if limits.max_region >= before.max_region and limits.max_mappings >= before.max_mappings:
            return
        for some in slices(self.tables.regions, CHECKED_AT_ONCE):
            for region in some:
                if region.size > limits.max_region < before.max_region:
                    raise Busy(f"max_region={limits.max_region}: one has {region.size} bytes")
                count = len(region.layout) + region.growth.mappings
                if count > limits.max_mappings < before.max_mappings:
                    raise Busy(f"max_mappings={limits.max_mappings}: a region has {count}")
            yield

    def _check_sums(self, limits: Limits) -> None:
        if len(self.names) > limits.nr_inodes < self.limits.nr_inodes:
            raise Busy(f"nr_inodes={limits.nr_inodes}: {len(self.names)} are in use")
        mappings = self.tables.ledger.mappings + self.tables.ledger.growing
        if mappings > limits.max_mappings_total < self.limits.max_mappings_total:
            raise Busy(f"max_mappings_total={limits.max_mappings_total}: there are {mappings}")
        files = self.tables.ledger.files + self.tables.ledger.growing_files
        if files > limits.max_files < self.limits.max_files:
            raise Busy(f"max_files={limits.max_files}: there are {files}")

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

    def create(
        self, request: Request | None, parent: int, name: bytes, mode: int, caller: Caller
    ) -> Region:
        """Make a region and open it: one look-up and one handle more. Raises also OutOfMemory
        or StorageFailed where there can be no segment."""
        region = self.names.new_region(parent, name, mode, caller)
        with self.journal.change(request, region.ino):
            self.tables.handles.have_room()
            self.tables.serve_from_segment(region)
            self.tables.add_region(parent, name, region)
            self.tables.count_handles(request, region, 1)
        return region

    def mknod(
        self, request: Request | None, parent: int, name: bytes, mode: int, caller: Caller
    ) -> Region:
        """Make a region without opening it. Raises NotPermitted for devices and the like."""
        if not stat.S_ISREG(mode):
            raise NotPermitted("only regular files and directories can be made here")
        region = self.names.new_region(parent, name, mode, caller)
        with self.journal.change(request, region.ino):
            self.tables.handles.have_room()
            self.tables.add_region(parent, name, region)
        return region

    def mkdir(
        self, request: Request | None, parent: int, name: bytes, mode: int, caller: Caller
    ) -> Directory:
        """Make a directory: one look-up more."""
        directory = self.names.new_directory(parent, name, mode, caller)
        with self.journal.change(request, directory.ino):
            self.names.add(parent, name, directory)
            directory.lookups += 1
            self.tables.record_entry(parent, name, directory)
        return directory

    def link(self, request: Request | None, ino: int, parent: int, name: bytes) -> Inode:
        """A further name for a region: one look-up more."""
        with self.journal.change(request, ino):
            inode = self.names.link(ino, parent, name)
            inode.lookups += 1
            self.tables.record_entry(parent, name, inode)
        return inode

    def unlink(self, request: Request | None, parent: int, name: bytes) -> None:
        """Take a region's name away; the last one leaves it to handles and mappings."""
        may_go = statements_to_drop(self.names.find(parent, name))
        with self.journal.rewrite(request, statements=STATEMENTS + may_go):
            self.tables.lost_a_name(parent, name, self.names.unlink(parent, name))

    def rmdir(self, request: Request | None, parent: int, name: bytes) -> None:
        """Take an empty directory away."""
        with self.journal.rewrite(request):
            self.tables.lost_a_name(parent, name, self.names.rmdir(parent, name))

    def rename(
        self,
        request: Request | None,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
    ) -> None:
        """Move a name; with RENAME_EXCHANGE swap two, with RENAME_NOREPLACE replace none."""
        target = self.names.find(new_parent, new_name)
        may_go = statements_to_drop(target)
        with self.journal.change(request, statements=STATEMENTS + may_go):
            inode = self.names.existing(parent, name)
            replaced = self.names.rename(parent, name, new_parent, new_name, flags)
            if target is inode:
                return
            if replaced is not None:
                self.tables.lost_a_name(new_parent, new_name, replaced)
            self.journal.drop_name(parent, name)
            self.journal.save(self.names.directory(parent))
            self.tables.record_entry(new_parent, new_name, inode)
            if target is not None and flags & RENAME_EXCHANGE:
                self.tables.record_entry(parent, name, target)

    def listing(self, ino: int, after: int, end: int) -> Iterator[tuple[Entry, Inode]]:
        """The names of a directory whose cookie is greater than `after` and not greater than
        `end`; see `lookup` for the count that each name handed to the kernel needs."""
        for entry in self.names.directory(ino).listing(after, end):
            yield entry, self.names.get(entry.ino)

    def setattr(self, request: Request | None, ino: int, change: AttributeChange) -> Inode:
        """Change attributes; the size first, because it alone can be refused. Raises
        NotPermitted for mshare_info."""
        inode = self.names.get(ino)
        if isinstance(inode, InfoFile):
            raise NotPermitted("mshare_info belongs to the file system")
        with self.journal.rewrite(request, ino):
            now = self._clock()
            if change.size is not None:
                self._set_size(inode, change.size)
                inode.mtime_ns = now
            owner = inode.uid
            change_attributes(inode, change)
            if inode.uid != owner:
                self.tables.change_owner(inode, owner)
            inode.ctime_ns = now
            self.journal.save(inode)
        return inode

    def forget(self, counts: Iterable[tuple[int, int]]) -> None:
        """The kernel knows each (inode number, look-ups) that many times less. Where an
        earlier process counted, it is asked whether it knows the inode at all."""
        for _between in self.forget_in_steps(counts):
            pass

    def forget_in_steps(self, counts: Iterable[tuple[int, int]]) -> Iterator[None]:
        """The same, in steps of some milliseconds, between which others can be served."""
        known = ((self.names.peek(ino), ino, lookups) for ino, lookups in counts)
        for number, some in enumerate(steps_to_drop(known, itemgetter(0))):
            if number:
                yield
            statements = sum(statements_to_drop(inode) for inode, _ino, _lookups in some)
            with self.journal.rewrite(None, statements=statements):
                for inode, ino, lookups in some:
                    self._forget(inode, ino, lookups)

    # Handles

    def open(self, request: Request | None, ino: int, flags: int) -> Inode:
        """One more handle on a region or mshare_info. Raises IsADirectory, AccessDenied,
        SizeAlreadySet (O_TRUNC), OutOfMemory or StorageFailed (no segment)."""
        inode = self.names.get(ino)
        if isinstance(inode, Region):
            if flags & os.O_TRUNC:
                inode.next_state(Event.SIZE_ZERO)
            self._serve_from_segment(inode)
            if flags & os.O_TRUNC:
                self._stamp_truncation(inode)
            self.tables.count_handles(request, inode, 1)
            return inode
        if inode.is_directory:
            raise IsADirectory(f"inode {ino} is a directory")
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            raise AccessDenied("mshare_info is read only")
        inode.opens += 1
        self.tables.open_handles += 1
        return inode

    def release(self, request: Request | None, ino: int) -> None:
        """One handle less. Processes may still have the region mapped."""
        inode = self.names.peek(ino)
        if inode is None or inode.opens == 0:
            # A FORGET that was sent after this RELEASE may be read before it; and handles
            # of mshare_info that an earlier process gave are not counted.
            return
        if isinstance(inode, Region):
            self.tables.count_handles(request, inode, -1)
        else:
            inode.opens -= 1
            self.tables.open_handles -= 1
        if not inode.referenced:
            with self.journal.rewrite(None, statements=statements_to_drop(inode)):
                self.tables.drop_unreferenced(inode)

    def info_text(self, inode: Inode) -> bytes:
        """The content of mshare_info. Raises InvalidArgument for anything else."""
        if not isinstance(inode, InfoFile):
            raise InvalidArgument(f"inode {inode.ino} has no text")
        return inode.text

    # Size

    def fallocate(
        self, request: Request | None, ino: int, mode: int, offset: int, length: int
    ) -> None:
        """Set a region's size to `length` bytes, which is all that fallocate can do here.
        mtime and ctime stay, as with the kernel feature; but a new mode is a new ctime. Raises
        NotSupported for a mode, InvalidArgument for an offset, and what ftruncate(2) would be
        refused for."""
        if mode:
            raise NotSupported(f"fallocate mode {mode:#x}")
        if offset:
            raise InvalidArgument(f"fallocate at offset {offset}")
        inode = self.names.get(ino)
        with self.journal.rewrite(request, ino):
            permissions = inode.mode
            self._set_size(inode, length)
            if inode.mode != permissions:
                inode.ctime_ns = self._clock()
            self.journal.save(inode)

    # Requests that come again

    def applied(self, unique: int) -> Applied | None:
        """What an earlier process did for a request that was then not answered."""
        return self.journal.applied(unique)

    def handle_was_counted(self, unique: int) -> bool:
        """Whether an OPEN or RELEASE was counted, and only the answer is missing."""
        return self.tables.handles.was_applied(unique)

    # Parts of the above

    def _forget(self, inode: Inode | None, ino: int, lookups: int) -> None:
        if inode is None:
            log.debug("inode %d is gone already", ino)
        elif inode.lookups >= UNKNOWN // 2:
            self.tables.ask_kernel(inode)
        else:
            inode.lookups -= lookups
        if inode is not None:
            self.tables.drop_unreferenced(inode)

    def _serve_from_segment(self, region: Region) -> None:
        registration = region.registration
        self.tables.serve_from_segment(region)
        if region.registration != registration:
            with self.journal.rewrite(None):
                self.journal.save(region)

    def _stamp_truncation(self, region: Region) -> None:
        """What O_TRUNC does to any file, also to one without a size. A request that comes again
        may do it again."""
        permissions = region.mode
        with self.journal.rewrite(None):
            drop_privileges(region)
            region.mtime_ns = region.ctime_ns = self._clock()
            self.journal.save(region)
        if region.mode != permissions:
            # Of its own accord the kernel asks for the times alone.
            self.tables.kernel.attributes_changed(region.ino)

    def _set_size(self, inode: Inode, size: int) -> None:
        """0 leaves a region without a size."""
        if not isinstance(inode, Region):
            raise IsADirectory(f"inode {inode.ino} has no size to set")
        event = inode.check_size(size, align=self.limits.align, largest=self.limits.max_region)
        if event is Event.SIZE:
            try:
                self.tables.open_segment(inode).set_size(size)
            except OSError as cause:
                raise storage_error(cause) from cause
            inode.become_sized(size)
        drop_privileges(inode)
