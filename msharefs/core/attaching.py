"""Who may have a region's segment itself, and which page faults may be answered then.

Owns the rules of the direct data plane: what a client with an open handle is refused for, and when
a region goes one way or the other (ways.py). How a client gets the descriptor is not known here, nor how
a page fault is refused.
"""

from __future__ import annotations

import errno
import logging
import os

from msharefs.core.errors import (
    AccessDenied,
    ReachedDirectly,
    ReachedPlainly,
    SizeNotSet,
    Unsettled,
)
from msharefs.core.ledger import storage_error
from msharefs.core.ports import Lent
from msharefs.core.region import Region, State
from msharefs.core.tables import Tables
from msharefs.core.ways import Giving, Way

log = logging.getLogger(__name__)


class Attaching:
    """Changes of the ways by which regions are reached. In memory that outlives the process, like
    the counts of handles, so that none is a change of the journal."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        # Of these it has been said that a page fault was refused.
        self._told: set[int] = set()

    def check(self, region: Region, access: int, *, claims: bool = False) -> None:
        """Raise what a client with a handle of this access mode (O_RDONLY, ...) would be refused
        for now: AccessDenied for one that is for writing alone, which mmap(2) refuses, too;
        SizeNotSet; ReachedPlainly where its bytes come by page faults, or shall, because nobody
        has claimed the region on a mount that gives those alone. One that `claims` it takes a handle
        for reading and writing (else AccessDenied), and the only one."""
        if access == os.O_WRONLY:
            raise AccessDenied(f"region {region.ino} is open for writing alone")
        if claims and access != os.O_RDWR:
            raise AccessDenied(f"region {region.ino} is open for reading alone")
        if region.state is not State.SIZED:
            raise SizeNotSet(f"region {region.ino} has no size to be attached")
        if region.way is Way.PLAIN:
            raise ReachedPlainly(f"region {region.ino} is mapped plainly")
        # Its pages come by page faults, which a segment has none of.
        if not region.cacheable:
            raise ReachedPlainly(
                f"region {region.ino} has memory that is not reserved (MAP_NORESERVE)"
            )
        if region.way is Way.OPEN and self._tables.kernel.gives is Giving.CLAIMANTS:
            if not claims:
                raise ReachedPlainly(f"region {region.ino} is claimed by nobody")
            # Another one may have mapped it, and not touched it yet.
            if region.opens > 1:
                raise ReachedPlainly(f"region {region.ino} is open elsewhere as well")

    def attach(self, ino: int, access: int, *, claims: bool = False) -> Lent:
        """Give a region's segment to a client, and let the region be direct; the descriptor is open
        for what the handle was. Raises what `check` does, ReachedDirectly where no descriptor for reading
        alone can be had and the others have theirs, Unsettled where nobody has it open any more
        or a change of it is on its way, which may be one that reserves nothing, and the errors of a
        segment that cannot be opened."""
        region = self._tables.regions.get(ino)
        if region is None or not region.opens or region.reserving is not None:
            raise Unsettled(f"region {ino} cannot be attached at this moment")
        self.check(region, access, claims=claims)
        segment = self._tables.serve_from_segment(region)
        try:
            lent = segment.open() if access == os.O_RDWR else segment.open_for_readers()
        except OSError as cause:
            if cause.errno == errno.EOPNOTSUPP and region.way.is_direct:
                raise ReachedDirectly(f"region {ino} is attached directly") from cause
            raise storage_error(cause) from cause
        if region.way is Way.OPEN:
            log.debug("region %d is attached directly: nobody maps its file from now on", ino)
            self._told.discard(ino)
        self._tables.reach(region, region.way.when_attached)
        return lent

    def touch(self, region: Region) -> None:
        """A page fault of a plain mapping has come. It must not be answered where the region's
        clients have the segment: what they store would not be seen."""
        if region.way is Way.OPEN:
            self._tables.reach(region, region.way.when_touched)
        elif region.way.is_direct and region.ino not in self._told:
            self._told.add(region.ino)
            log.warning(
                "region %d is attached directly: a process that has mapped its file by plain"
                " mmap(2) gets SIGBUS",
                region.ino,
            )
