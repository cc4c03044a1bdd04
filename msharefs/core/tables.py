"""What a mount knows, and what is changed together: names, regions, memory, handles, journal.

Owns the life of an inode: when a region gets its segment, when nothing refers to an inode any more,
and how the memory of such a region is given back, at once or by a worker where that takes long.
No rule of an operation is here; each operation is a change of the journal (`journal.change`)
that calls these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain, islice
from typing import TypeVar

from msharefs.core.collapsing import Collapsing
from msharefs.core.errors import OutOfMemory, OverQuota
from msharefs.core.handles import HandleCounts
from msharefs.core.inode import Inode
from msharefs.core.journal import DROP, MAPPINGS_A_STATEMENT, Journal, Request
from msharefs.core.layout import Layout
from msharefs.core.ledger import Ledger, Totals, storage_error
from msharefs.core.namespace import Namespace
from msharefs.core.ports import Kernel, Memory, OpenSegment, Segment
from msharefs.core.quotas import Quotas, Share
from msharefs.core.region import NO_GROWTH, Region
from msharefs.core.sweeping import Rounds, sweep, sweep_all
from msharefs.core.ways import Giving, Way

log = logging.getLogger(__name__)

UNKNOWN = 1 << 62
"""Look-ups of an inode that an earlier process counted. The kernel is asked instead."""
DROPPED_AT_ONCE = 16
"""Inodes that are forgotten in one change of the journal."""
ASKED_ABOUT = 1024
"""Regions about which the kernel is asked before a request is refused: some 2 ms."""
DROP_WORK, A_MAPPING = 32 << 20, 4 << 10
"""Bytes that are given back in one change, but for those of its last region: some 5 ms; and as how many a
mapping counts whose record goes."""

T = TypeVar("T")


class Tables:
    """The tables of one mount. `regions` are those that something refers to, by number."""

    def __init__(
        self,
        names: Namespace,
        memory: Memory,
        kernel: Kernel,
        journal: Journal,
        handles: HandleCounts,
        quotas: Quotas,
    ) -> None:
        self.names = names
        self.memory = memory
        self.kernel = kernel
        self.journal = journal
        self.handles = handles
        self.ledger = Ledger(memory)
        self.quotas = quotas
        self.regions: dict[int, Region] = {}
        self._direct: dict[int, Region] = {}
        self.collapsing = Collapsing(self.regions, memory.huge, attached=self._attached())
        self._rounds = Rounds(self.regions, self.ledger.looked_at_all)
        self.open_handles = 0
        self._reclaiming: dict[int, Region] = {}

    # Segments and the memory that they share

    def serve_from_segment(self, region: Region) -> Segment:
        """Make the region's segment where it has none, and register it with the kernel where
        it is not. Raises OutOfMemory, NoDescriptor or StorageFailed, with nothing changed."""
        try:
            if region.segment is None:
                region.segment = self._new_segment(region)
            elif not region.registration:
                region.registration = self.kernel.register(region.segment.open())
        except OSError as cause:
            raise storage_error(cause) from cause
        return region.segment

    def open_segment(self, region: Region) -> OpenSegment:
        """The region's segment, to be changed. Raises what `serve_from_segment` does."""
        segment = self.serve_from_segment(region)
        try:
            return segment.open()
        except OSError as cause:
            raise storage_error(cause) from cause

    def charge(self, region: Region, need: int, growth: Share) -> None:
        """Set `need` bytes aside for a change of a region, by which it may have so much more; and
        before that is refused give back the memory of regions which the kernel has given
        up, where only its word (FORGET) is still on the way. Raises OutOfMemory, OverQuota, or
        StorageFailed where the limit cannot be set."""
        try:
            self._charge(region, need, growth)
        except (OutOfMemory, OverQuota):
            if not self._reclaim_given_up():
                raise
            self._charge(region, need, growth)

    def uncharge(self, region: Region, need: int) -> None:
        """What was set aside is accounted now, or was not needed."""
        self.ledger.uncharge(need)
        self.ledger.growing -= region.growth.mappings
        self.ledger.growing_files -= region.growth.files
        self.quotas.take(region.uid, region.growth)
        region.growth = NO_GROWTH

    def begin_accounts(self) -> None:
        """Of what an earlier process left, once all of it is in the tables."""
        self.ledger.restore([region.layout for region in self.regions.values()])
        regions = (
            (r.uid, r.layout.mapped, r.names, len(r.layout), r.layout.files)
            for r in self.regions.values()
        )
        others = ((inode.uid, 0, 1, 0, 0) for inode in self.names.others())
        self.quotas.restore(chain(regions, others))

    def account(self, region: Region, before: Totals) -> None:
        """Add what changed in the layout of a region."""
        layout = region.layout
        self.ledger.account(before, layout)
        grown = Share(
            layout.mapped - before.mapped,
            mappings=len(layout) - before.count,
            files=layout.files - before.files,
        )
        self.quotas.add(region.uid, grown)

    def make_room(self, extra: int) -> bool:
        """Let what is charged win against touches of holes: sweep, and allow `extra` bytes
        more until the limit is settled. Returns whether that can be."""
        try:
            self.ledger.make_room(extra, self._rounds)
        except OSError as error:
            log.error("cannot set the memory's limit: %s", error)
            return False
        return True

    def settle(self) -> bool:
        """Let the memory's limit follow what is charged. Returns whether it does; a change
        that is done stays done where the limit cannot follow now."""
        try:
            return self.ledger.settle(self._rounds)
        except OSError as error:
            log.error("cannot set the memory's limit, will try again: %s", error)
            return False

    def sweep(self) -> int:
        """Take back pages in holes, touched while budget was free. Returns their bytes."""
        return sum(sweep_all(self.regions))

    def sweep_direct(self) -> Iterator[int]:
        """The same in regions whose clients have the segment: no limit and no page fault tells of
        what they touch. In steps, each with its bytes."""
        return sweep_all(self._direct)

    def sweep_some(self) -> bool:
        """The same in the next few regions. Returns whether there are more to be looked at."""
        sweep(self._rounds)
        return self._rounds.unfinished

    def free_above(self, capacity: int) -> Iterator[None]:
        """Sweep all regions, in steps, as long as more than `capacity` bytes is in use."""
        steps = sweep_all(self.regions)
        while self.ledger.is_above(capacity) and next(steps, None) is not None:
            yield

    def look_again(self) -> None:
        """Let `settle` begin another look at all regions, if it has one at all."""
        self.ledger.look_again()

    def change_owner(self, inode: Inode, before: int) -> None:
        """An inode belonged to the user `before`, and counts for its owner from now on."""
        share = inode.share if isinstance(inode, Region) else Share(inodes=inode.names)
        self.quotas.take(before, share)
        self.quotas.add(inode.uid, share)

    # Life: each within a change of the journal

    def add_region(self, parent: int, name: bytes, region: Region) -> None:
        """A new region has a name, and the kernel knows it."""
        self.names.add(parent, name, region)
        self.regions[region.ino] = region
        region.lookups += 1
        region.slot = self.handles.new_slot()
        self.record_entry(parent, name, region)

    def record_entry(self, parent: int, name: bytes, inode: Inode) -> None:
        """A directory has a name more, or the same name for another inode."""
        directory = self.names.directory(parent)
        self.handles.last_ino = max(self.handles.last_ino, inode.ino)
        self.journal.put_name(directory, name)
        self.journal.save(directory)
        self.journal.save(inode)

    def lost_a_name(self, parent: int, name: bytes, inode: Inode) -> None:
        """What a name meant that was taken away; it may have been the last."""
        self.journal.drop_name(parent, name)
        self.journal.save(self.names.directory(parent))
        if self.drop_unreferenced(inode):
            return
        self.journal.save(inode)
        # Once the last name and handle are gone nobody can ask for attributes again.
        if inode.nlink or inode.opens:
            self.kernel.attributes_changed(inode.ino)

    def count_handles(self, request: Request | None, region: Region, more: int) -> None:
        """A region has been opened (1) or closed (-1). In memory that outlives the process, so
        that it needs no record in the journal."""
        region.opens += more
        self.open_handles += more
        if not region.opens:
            self.note_way(region, region.way.when_closed)
        self.handles.set(region.slot, region.opens, request.unique if request else 0, region.way)

    def reach(self, region: Region, way: Way) -> None:
        """A region is reached this way from now on, until its last handle is closed."""
        if way is not region.way:
            self.note_way(region, way)
            self.handles.set_way(region.slot, way)
            if self.kernel.gives is Giving.CLAIMANTS:
                # Huge pages of it are for its clients from now on, and were for nobody.
                self.collapsing.changed(region, 0, region.size)

    def note_way(self, region: Region, way: Way) -> None:
        """The same where it is kept already, or about to be."""
        region.way = way
        if way.is_direct:
            self._direct[region.ino] = region
        else:
            self._direct.pop(region.ino, None)

    def _attached(self) -> Container[int] | None:
        """The regions whose segments programs map."""
        if not self.kernel.maps_segments:
            return None
        return self._direct if self.kernel.gives is Giving.CLAIMANTS else self.regions

    def ask_kernel(self, inode: Inode) -> None:
        """An inode that the kernel does not know is not open or mapped either."""
        if not self.kernel.is_known(inode.ino):
            self.open_handles -= inode.opens
            inode.lookups = inode.opens = 0

    def drop_unreferenced(self, inode: Inode) -> bool:
        """Forget an inode that nothing needs any more, and have a region's memory given back.
        Returns whether it went; one with mappings that go back to files goes when those have
        them (`WriteBack.let_go`)."""
        if isinstance(inode, Region) and not inode.referenced and inode.goes_back:
            self.kernel.owes(inode.ino)
            return False
        if not self.names.drop_unreferenced(inode):
            return False
        if isinstance(inode, Region):
            self._reclaim(inode)
            self.handles.free_slot(inode.slot)
        self.journal.drop(inode.ino, list(inode.layout) if isinstance(inode, Region) else ())
        return True

    def drop_all(self, inodes: Iterable[Inode]) -> None:
        """Forget those of them that nothing needs, in changes of their own, so that no burst needs
        more room in the journal than it has."""
        for some in steps_to_drop(inodes, lambda inode: inode):
            with self.journal.rewrite(None, statements=sum(map(statements_to_drop, some))):
                for inode in some:
                    self.drop_unreferenced(inode)

    # Memory of regions that are gone

    @property
    def may_come(self) -> bool:
        """Whether memory may be there in a moment that is not there now: of regions that are
        gone, or in holes of those that have not been looked at yet."""
        return bool(self._reclaiming) or self._rounds.unfinished

    @property
    def sweeping(self) -> bool:
        """Whether some regions have been looked at for pages in holes, and others not yet."""
        return self._rounds.unfinished

    @property
    def reclaiming(self) -> int:
        """How many regions are gone whose memory a worker is giving back."""
        return len(self._reclaiming)

    def reclaimed(self, ino: int) -> None:
        """The segment of a region that is gone has been destroyed."""
        region = self._reclaiming.pop(ino)
        self.ledger.account(Totals(region.layout), Layout())
        self.settle()

    def _charge(self, region: Region, need: int, growth: Share) -> None:
        self.quotas.check(region.uid, growth)
        self.ledger.charge(need, self._rounds)
        self.ledger.growing += growth.mappings
        self.ledger.growing_files += growth.files
        self.quotas.add(region.uid, growth)
        region.growth = growth

    def _reclaim(self, region: Region) -> None:
        del self.regions[region.ino]
        self._direct.pop(region.ino, None)
        self.collapsing.gone(region.ino)
        # The name has been counted off.
        self.quotas.take(region.uid, region.share._replace(inodes=0))
        self._reclaiming[region.ino] = region
        mapped = region.layout.mapped
        if self.kernel.region_gone(region.ino, region.registration, region.segment, mapped):
            self.reclaimed(region.ino)

    def _reclaim_given_up(self) -> bool:
        # The latest first: there may be very many that the kernel has still, and each is asked about.
        latest = reversed(self.regions.values())
        nameless = islice((r for r in latest if r.nlink == 0 and r.opens == 0), ASKED_ABOUT)
        given_up = [region for region in nameless if not self.kernel.is_known(region.ino)]
        for region in given_up:
            region.lookups = 0
        self.drop_all(given_up)
        return bool(given_up)

    def _new_segment(self, region: Region) -> Segment:
        segment = self.memory.create(region.ino)
        try:
            region.registration = self.kernel.register(segment.open())
        except OSError:
            segment.destroy()
            raise
        return segment


def statements_to_drop(inode: Inode | None) -> int:
    """Of a change in which this inode may go with all its mappings, at most."""
    if isinstance(inode, Region):
        layout = inode.layout
        return DROP + len(layout) // MAPPINGS_A_STATEMENT + layout.files
    return DROP


def steps_to_drop(things: Iterable[T], inode_of: Callable[[T], Inode | None]) -> Iterator[list[T]]:
    """The same in their order, so many at a time as may be forgotten in one change: few of regions
    that have much, should they go."""
    some: list[T] = []
    work = 0
    for thing in things:
        some.append(thing)
        inode = inode_of(thing)
        if isinstance(inode, Region) and not inode.nlink:
            work += inode.layout.mapped + len(inode.layout) * A_MAPPING
        if len(some) == DROPPED_AT_ONCE or work >= DROP_WORK:
            yield some
            some, work = [], 0
    if some:
        yield some
