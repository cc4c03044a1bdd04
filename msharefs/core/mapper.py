"""CREATE_MAPPING and UNMAP: the rules, the memory and the record of each, in this order.

A change of memory may take long, so it comes in parts: a plan is made (all rules, memory
charged), it is acquired and cleared (plan.py), then committed or abandoned. The caller may run
`acquire` and `clear` in a thread and must then let no other plan of the same region in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from msharefs.abi import CreateMapping, Unmap
from msharefs.core.checks import unmapped_range, wanted_mapping
from msharefs.core.errors import AccessDenied, NotAnIoctl, OutOfMemory, RefusedError
from msharefs.core.journal import Request
from msharefs.core.layout import Cut, Range
from msharefs.core.ledger import Totals, storage_error
from msharefs.core.plan import STATEMENTS, MapPlan, Plan, UnmapPlan
from msharefs.core.region import Region
from msharefs.core.tables import Tables


@dataclass(frozen=True, slots=True)
class Limits:
    """What the mount options allow. Sizes in bytes."""

    align: int
    max_region: int
    max_mappings: int
    nr_inodes: int
    reserve_always: bool = False
    """MAP_NORESERVE reserves, too. Where first touches are not seen, pages that were promised and
    are not there yet go to whoever touches first, in a hole of another region as well."""


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

    def plan_map(
        self,
        request: Request | None,
        region: Region,
        wanted: CreateMapping,
        *,
        writable: bool,
        has_descriptor: Callable[[int], bool],
    ) -> MapPlan:
        """Check a CREATE_MAPPING and charge its memory; `writable` tells how the caller's
        descriptor was opened, `has_descriptor` which others he has. The plan must be committed or
        abandoned. Raises the errors of checks.wanted_mapping, AccessDenied, OutOfMemory and
        NoRoom."""
        _check_writable(writable)
        mapping = wanted_mapping(region, wanted, has_descriptor)
        if self.limits.reserve_always:
            mapping = mapping._replace(reserve=True)
        cut = region.layout.cut(mapping.start, mapping.end)
        self._check_count(region, cut, added=1)
        segment = self.tables.open_segment(region)
        need = 0
        if mapping.reserve:
            need = mapping.size - cut.reserved
        stray = segment.allocated() > region.layout.reserved
        plan = MapPlan(request, region, segment, mapping, cut, need, stray)
        self._promise(plan, growing=STATEMENTS)
        try:
            self.tables.charge(need)
        except RefusedError:
            self.tables.journal.withdraw(plan.statements)
            raise
        region.reserving = Range(mapping.start, mapping.end)
        return plan

    def plan_unmap(
        self, request: Request | None, region: Region, unwanted: Unmap, *, writable: bool
    ) -> UnmapPlan:
        """Check an UNMAP. The plan must be committed or abandoned. Raises the errors of
        checks.unmapped_range, AccessDenied and OutOfMemory (a split that would make too many
        mappings)."""
        _check_writable(writable)
        gone = unmapped_range(region, unwanted)
        cut = region.layout.cut(gone.start, gone.end)
        self._check_count(region, cut, added=0)
        plan = UnmapPlan(request, region, self.tables.open_segment(region), cut)
        self._promise(plan, growing=0)
        return plan

    def commit(self, plan: Plan) -> None:
        """Record what a plan did, and let the limit follow."""
        self.tables.journal.failpoint("cleared")
        region, layout = plan.region, plan.region.layout
        with self.tables.journal.promised(plan.request, region.ino, plan.statements):
            before = Totals(layout)
            if isinstance(plan, MapPlan):
                region.reserving = None
                self.tables.ledger.uncharge(plan.need)
                fresh = layout.apply(plan.cut, plan.mapping)
                region.maps += 1
            else:
                fresh = layout.apply(plan.cut, None)
                region.unmaps += 1
            self.tables.ledger.account(before, layout)
            self.tables.settle()
            self.tables.kernel.attributes_changed(region.ino)
            self.tables.journal.replace_mappings(region.ino, plan.cut.old, fresh)
        self.tables.handles.set_changes(region.slot, region.maps, region.unmaps)

    def abandon(self, plan: Plan, cause: OSError) -> NoReturn:
        """A plan's `acquire` failed and undid itself: take the charge back and raise why."""
        self.tables.journal.withdraw(plan.statements)
        if isinstance(plan, MapPlan):
            plan.region.reserving = None
            self.tables.ledger.uncharge(plan.need)
            self.tables.settle()
        raise storage_error(cause) from cause

    def perform(self, plan: Plan) -> None:
        """Acquire, clear and commit in one go. Raises OutOfMemory or StorageFailed."""
        try:
            plan.acquire(self.tables.make_room)
        except OSError as cause:
            self.abandon(plan, cause)
        plan.clear()
        self.commit(plan)

    def _promise(self, plan: Plan, *, growing: int) -> None:
        """The record of a plan must not find the disk full when the memory has changed."""
        self.tables.journal.promise(plan.statements, growing=growing)

    def _check_count(self, region: Region, cut: Cut, *, added: int) -> None:
        """A limit that is met already forbids what adds, not what replaces or takes away."""
        growth = cut.growth(added=added)
        if growth > 0 and len(region.layout) + growth > self.limits.max_mappings:
            raise OutOfMemory(f"max_mappings={self.limits.max_mappings} reached")


def _check_writable(writable: bool) -> None:
    if not writable:
        raise AccessDenied("the descriptor was not opened for writing")
