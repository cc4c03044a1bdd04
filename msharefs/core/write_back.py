"""Mappings that go back to files: which they are, and what is remembered of each time.

Owns which parts of a region have to be written where, what a failure leaves in the layout until a later
time succeeds, and which records nothing refers to any more. How a page gets into a file, and whether
it must, is not known here.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Collection, Iterable, Sequence

from msharefs.core.errors import NoRoom
from msharefs.core.journal import STATEMENTS
from msharefs.core.layout import LOST, MappedFile, Mapping
from msharefs.core.ledger import Totals
from msharefs.core.ports import Done
from msharefs.core.region import Region
from msharefs.core.tables import Tables

log = logging.getLogger(__name__)


class WriteBack:
    """What a mount's regions owe to files."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def due(self, region: Region, start: int, end: int) -> list[Mapping]:
        """The parts of `start` to `end` (bytes) that go back to a file, in order."""
        if not region.goes_back:
            return []
        return [m for m in region.layout.clipped(start, end) if m.file and m.file.goes_back]

    def due_at(self, region: Region, place: int) -> list[Mapping]:
        """The mapping that has the byte `place`, whole, if it goes back to a file."""
        found = region.layout.overlapping(place, place + 1)
        return [m for m in found if m.file and m.file.goes_back]

    def settle(self, region: Region, part: Mapping, done: Done) -> None:
        """A part of a region has been written, or could not be. A failure is in the layout from now on;
        success of a whole mapping ends that."""
        whole = next(iter(region.layout.overlapping(part.start, part.end)), None)
        if whole is None or whole.file is None or part.file is None:
            return
        _report(region, part.file, done)
        if not done.error and (part.start, part.end) != (whole.start, whole.end):
            return
        file = whole.file._replace(unwritten=done.unwritten, error=done.error)
        if file != whole.file:
            try:
                self._change(region, whole, file)
            except NoRoom as error:
                log.warning("not kept for later that %s has an error: %s", file.path, error)

    def release(self, region: Region, parts: Sequence[Mapping]) -> None:
        """These parts are in their files and go now: from here on what is in memory does not go back. If
        a server died after it was taken away, the next one would write zeros."""
        for part in parts:
            if part.file is not None:
                self._change(region, part, part.file._replace(record=0))

    def restore(self, region: Region, parts: Sequence[Mapping]) -> None:
        """They stay."""
        for part in parts:
            if part.file is not None:
                self._change(region, part, part.file)

    def unneeded(self, region: Region, before: Iterable[Mapping]) -> list[int]:
        """The records of these mappings, which a change found there, that no part of the region has
        now."""
        left = {m.file.record for m in region.layout if m.file} if region.layout.files else set()
        return sorted({m.file.record for m in before if m.file and m.file.goes_back} - left)

    def wanted(self) -> list[Region]:
        """Regions of which something goes back."""
        if not self._tables.ledger.files:
            return []
        return [region for region in self._tables.regions.values() if region.goes_back]

    def records(self) -> set[int]:
        """All that a mapping has."""
        return {m.file.record for r in self.wanted() for m in self.due(r, 0, r.size) if m.file}

    def lose(self, kept: Collection[int]) -> None:
        """Only these records are there; the mappings of others are memory from now on."""
        for region in self.wanted():
            for mapping in self.due(region, 0, region.size):
                file = mapping.file
                if file is not None and file.record not in kept:
                    log.error(
                        "region %d: %d bytes from %d on do not go back to %s any more (user %d, device %d,"
                        " inode %d): the supervisor that had the file is gone",
                        region.ino,
                        mapping.size,
                        mapping.start,
                        file.path,
                        file.uid,
                        file.device,
                        file.inode,
                    )
                    self._change(region, mapping, file._replace(record=LOST))

    def let_go(self, region: Region) -> list[int]:
        """Nothing refers to a region but its files, and those have what they could have: it goes now.
        Returns its records, which nobody needs then."""
        records = sorted({m.file.record for m in self.due(region, 0, region.size) if m.file})
        region.owes_nothing = True
        self._tables.drop_all([region])
        return records

    def _change(self, region: Region, mapping: Mapping, file: MappedFile) -> None:
        tables = self._tables
        with tables.journal.rewrite(None, statements=STATEMENTS):
            before = Totals(region.layout)
            cut = region.layout.cut(mapping.start, mapping.end)
            fresh = region.layout.apply(cut, [mapping._replace(file=file)])
            tables.account(region, before)
            tables.journal.replace_mappings(region.ino, cut.old, fresh)


def _report(region: Region, file: MappedFile, done: Done) -> None:
    if done.both:
        log.warning(
            "%s: %d bytes that somebody else had changed were written over, because region %d had changed them, too",
            file.path,
            done.both,
            region.ino,
        )
    if done.error:
        log.warning(
            "region %d: %d bytes are not written to %s (user %d): %s",
            region.ino,
            done.unwritten,
            file.path,
            file.uid,
            os.strerror(done.error),
        )


def failure(cause: OSError, part: Mapping) -> Done:
    """What it is where a part could not even be tried."""
    return Done(unwritten=part.size, error=cause.errno or errno.EIO)
