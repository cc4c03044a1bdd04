"""CREATE_MAPPING and UNMAP: the rules, the memory and the record of each, in this order.

A change of memory may take long, so it comes in parts: a plan is made (all rules, memory
charged), it is acquired and cleared (plan.py), then committed or abandoned. The caller may run
`acquire` and `clear` in a thread and must then let no other plan of the same region in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from msharefs.abi import PROT_READ, PROT_WRITE, CreateMapping, Unmap
from msharefs.core.checks import maps_file, unmapped_range, wanted_mapping
from msharefs.core.contents import SCRATCH, FileBytes, Zeros
from msharefs.core.errors import (
    AccessDenied,
    BadDescriptor,
    NoSpace,
    NotAnIoctl,
    OutOfFiles,
    OutOfMappings,
    OutOfMemory,
    RefusedError,
)
from msharefs.core.inode import Automap
from msharefs.core.journal import Request
from msharefs.core.layout import Cut, Fill, Layout, MappedFile, Mapping, Range, files_in
from msharefs.core.ledger import Totals, storage_error
from msharefs.core.plan import STATEMENTS, FillPlan, MapPlan, Plan, UnmapPlan
from msharefs.core.quotas import NO_LIMITS, UNLIMITED, Share
from msharefs.core.region import Region
from msharefs.core.tables import Tables

MOST_FILLED = 128
"""Mappings among which the holes of a range are looked for in one request: some 10 ms, where each
and each hole becomes a record. In parts any range can be filled."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the mount options allow. Sizes in bytes."""

    align: int
    max_region: int
    max_mappings: int
    nr_inodes: int
    max_mappings_total: int = UNLIMITED
    max_files: int = UNLIMITED
    """Mappings of files in all regions."""
    user: Share = NO_LIMITS
    """Each user's, but for root."""
    reserve_always: bool = False
    """MAP_NORESERVE reserves, too. Where first touches are not seen, pages that were promised and
    are not there yet go to whoever touches first, in a hole of another region as well."""
    automap: Automap = Automap.OFF
    """What holds where a directory or region says nothing of its own."""


class Mapper:
    """Changes of the mappings of regions."""

    def __init__(self, tables: Tables, limits: Limits) -> None:
        self.tables = tables
        self.limits = limits

    def ioctl_region(self, ino: int) -> Region:
        """The region that an ioctl addresses. Raises NotAnIoctl for anything else."""
        inode = self.tables.names.get(ino)
        if not isinstance(inode, Region):
            raise NotAnIoctl(f"inode {ino} is not a region")
        return inode

    def check_map(self, region: Region, wanted: CreateMapping, *, writable: bool) -> Range:
        """Raise what a CREATE_MAPPING would be refused for at this moment, whatever file and
        however much memory there is: AccessDenied and the errors of checks.wanted_mapping. Returns
        what it would map."""
        _check_writable(writable)
        mapping = wanted_mapping(region, wanted)
        return Range(mapping.start, mapping.end)

    def check_unmap(self, region: Region, unwanted: Unmap, *, writable: bool) -> Range:
        """The same of an UNMAP: AccessDenied and the errors of checks.unmapped_range."""
        _check_writable(writable)
        return unmapped_range(region, unwanted)

    def plan_map(
        self,
        request: Request | None,
        region: Region,
        wanted: CreateMapping,
        *,
        writable: bool,
        file: MappedFile | None = None,
        data: int = 0,
    ) -> MapPlan:
        """Check a CREATE_MAPPING and charge its memory; `writable` tells how the caller's
        descriptor was opened, `file` what was found where it names a file, of which so many bytes are `data`, if
        `takes_data_alone`. The plan must be committed or abandoned. Raises the errors of `check_map`, BadDescriptor without a file
        that is needed, OutOfMemory, OutOfMappings, OutOfFiles, OverQuota, NoRoom, and NoDescriptor or
        StorageFailed without a segment."""
        _check_writable(writable)
        mapping = wanted_mapping(region, wanted)
        if maps_file(wanted):
            if file is None:
                raise BadDescriptor(f"no MAP_ANONYMOUS, and no file is open as {wanted.fd}")
            mapping = mapping._replace(file=file)
        cut = region.layout.cut(mapping.start, mapping.end)
        # In the place of mappings a file needs memory that is there for certain when it is copied.
        if not mapping.reserve and (self._reserves(region) or (file and cut.inside)):
            mapping = mapping._replace(reserve=True)
        growth = self._growth(region, cut, [mapping])
        segment = self.tables.open_segment(region)
        need = mapping.size - cut.reserved if mapping.reserve else min(data, mapping.size)
        if mapping.file is not None:
            # For a while both are there, the old bytes and the new ones.
            need += cut.mapped
        stray = segment.allocated() > region.layout.reserved
        plan = MapPlan(request, region, segment, mapping, cut, need, stray, Zeros())
        self._charge(plan, growth, statements=STATEMENTS)
        region.reserving = Range(mapping.start, mapping.end)
        if mapping.file is None:
            return plan
        try:
            return plan._replace(contents=self._file_bytes(region, mapping.file, plan))
        except OSError as cause:
            self.abandon(plan, cause)

    def takes_data_alone(self, region: Region, wanted: CreateMapping) -> bool:
        """Whether a file that is mapped so would have memory for its data alone, as far as can be said before its
        region's turn has come. Raises what `check_map` does."""
        mapping = wanted_mapping(region, wanted)
        mapped = region.layout.overlapping(mapping.start, mapping.end)
        return not (mapping.reserve or mapped or self._reserves(region))

    def plan_fill(
        self,
        request: Request | None,
        region: Region,
        size: int,
        span: tuple[int, int],
        *,
        reserve: bool,
        finish: Callable[[], None],
    ) -> FillPlan:
        """Let a region have `size` bytes, which no byte is lost by, and its range `span` no hole,
        read and write; with `reserve` that memory is there then. `finish` records what else is
        changed. The plan must be committed or abandoned. Raises OutOfMemory, NoRoom, NoDescriptor
        and StorageFailed."""
        start, end = span
        reserve = reserve or self._reserves(region)
        fill = self._fill(region.layout, start, end, reserve=reserve)
        growth = self._growth(region, fill.cut, fill.mappings)
        segment = self.tables.open_segment(region)
        need = sum(part.size for part in (*fill.fresh, *fill.late)) if reserve else 0
        stray = segment.allocated() > region.layout.reserved
        plan = FillPlan(request, region, segment, fill, reserve, size, need, stray, finish)
        self._charge(plan, growth, statements=STATEMENTS + len(fill.mappings))
        if start < end:
            region.reserving = Range(start, end)
        return plan

    def plan_unmap(
        self, request: Request | None, region: Region, unwanted: Unmap, *, writable: bool
    ) -> UnmapPlan:
        """Check an UNMAP. The plan must be committed or abandoned. Raises the errors of
        checks.unmapped_range and AccessDenied, and where a split would make too many mappings
        OutOfMemory, OutOfMappings, OutOfFiles and OverQuota."""
        _check_writable(writable)
        gone = unmapped_range(region, unwanted)
        cut = region.layout.cut(gone.start, gone.end)
        growth = self._growth(region, cut, [])
        plan = UnmapPlan(request, region, self.tables.open_segment(region), cut)
        self._charge(plan, growth, statements=0)
        return plan

    def commit(self, plan: Plan) -> None:
        """Record what a plan did, and let the limit follow."""
        self.tables.journal.failpoint("cleared")
        region, layout = plan.region, plan.region.layout
        with self.tables.journal.promised(plan.request, region.ino, plan.statements):
            before = Totals(layout)
            region.reserving = None
            self.tables.uncharge(region, plan.need)
            fresh = layout.apply(plan.cut, plan.mappings)
            self.tables.account(region, before)
            plan.finish()
            self.tables.collapsing.changed(region, plan.cut.start, plan.cut.end)
            self.tables.settle()
            self.tables.kernel.attributes_changed(region.ino)
            self.tables.journal.replace_mappings(region.ino, plan.cut.old, fresh)
        self.tables.handles.set_changes(region.slot, region.maps, region.unmaps)

    def abandon(self, plan: Plan, cause: OSError) -> NoReturn:
        """A plan's `acquire` failed and undid itself: take the charge back and raise why."""
        self.withdraw(plan)
        error = storage_error(cause)
        if isinstance(plan, FillPlan) and isinstance(error, OutOfMemory):
            error = NoSpace(str(error))
        raise error from cause

    def withdraw(self, plan: Plan) -> None:
        """A plan has got nothing, or has given it up: take back what was promised and charged."""
        self.tables.journal.withdraw(plan.statements)
        plan.region.reserving = None
        self.tables.uncharge(plan.region, plan.need)
        self.tables.settle()

    def acquire(self, plan: Plan) -> None:
        """Get a plan's memory at once. Raises OutOfMemory or StorageFailed, and the plan is abandoned
        then."""
        try:
            plan.acquire(self.tables.make_room)
        except OSError as cause:
            self.abandon(plan, cause)

    def perform(self, plan: Plan) -> None:
        """Acquire, clear and commit in one go. Raises OutOfMemory or StorageFailed."""
        self.acquire(plan)
        plan.clear()
        self.commit(plan)

    def _fill(self, layout: Layout, start: int, end: int, *, reserve: bool) -> Fill:
        """What is missing in a range. To look for it among very many mappings, and to record what
        becomes of each, would keep everybody else waiting. Raises OutOfMemory."""
        if layout.is_filled(start, end, reserve=reserve):
            return Fill.nothing(start)
        if (count := layout.count(start, end)) > MOST_FILLED:
            raise OutOfMemory(f"{count} mappings in a range that is to be filled at once")
        return layout.fill(start, end, PROT_READ | PROT_WRITE, reserve=reserve)

    def _reserves(self, region: Region) -> bool:
        """Whether MAP_NORESERVE reserves: where no page fault could bring the memory."""
        return self.limits.reserve_always or region.way.is_direct

    def _charge(self, plan: Plan, growth: Share, *, statements: int) -> None:
        """Memory and all that is limited, and room for the record, of which so many statements may
        add to the journal: that must not find the disk full when the memory has changed."""
        journal = self.tables.journal
        journal.promise(plan.statements, growing=statements)
        try:
            self.tables.charge(plan.region, plan.need, growth)
        except RefusedError:
            journal.withdraw(plan.statements)
            raise

    def _growth(self, region: Region, cut: Cut, new: Sequence[Mapping]) -> Share:
        """How much more a region may have while a change is on its way that puts `new` in the place
        of what is there. A limit that is met already forbids what adds, not
        what replaces or takes away. Raises OutOfMemory, OutOfMappings and OutOfFiles."""
        limits, ledger = self.limits, self.tables.ledger
        size = max(0, sum([mapping.size for mapping in new]) - cut.mapped)
        more = max(0, cut.growth(added=len(new)))
        if more and len(region.layout) + more > limits.max_mappings:
            raise OutOfMemory(f"max_mappings={limits.max_mappings} reached")
        if more and ledger.mappings + ledger.growing + more > limits.max_mappings_total:
            raise OutOfMappings(f"max_mappings_total={limits.max_mappings_total} reached")
        files = max(0, cut.file_growth(added=files_in(new)))
        if files and ledger.files + ledger.growing_files + files > limits.max_files:
            raise OutOfFiles(f"max_files={limits.max_files} reached")
        return Share(size=size, mappings=more, files=files)

    def _file_bytes(self, region: Region, file: MappedFile, plan: MapPlan) -> FileBytes:
        """Raises OSError where no scratch segment can be had."""
        scratch = self.tables.memory.create(SCRATCH + region.ino) if plan.cut.inside else None
        return FileBytes(plan.mapping, file, scratch)


def _check_writable(writable: bool) -> None:
    if not writable:
        raise AccessDenied("the descriptor was not opened for writing")
