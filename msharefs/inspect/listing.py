"""The regions of a directory or of every mount, with who has them attached.

Owns what belongs to one look at a mount, and its form as plain data for JSON. A mount that fails
does not hide the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from msharefs.inspect import mounts, processes, regions
from msharefs.inspect.probe import Asker
from msharefs.inspect.processes import Scan


@dataclass(slots=True)
class Listing:
    """The regions below one directory of one mount."""

    mount: mounts.Mount
    top: str
    scan: Scan
    found: list[regions.Summary] = field(default_factory=list)
    unreadable: list[OSError] = field(default_factory=list)

    @property
    def removed(self) -> dict[int, list[int]]:
        """Inodes that are attached and have no name any more, with the pids that hold them."""
        if self.top != self.mount.path or self.unreadable:
            return {}
        named = {region.inode for region in self.found}
        return {inode: pids for inode, pids in self.scan.attached.items() if inode not in named}

    def attached(self, region: regions.Summary) -> list[int]:
        """Who has a region attached, as far as it could be seen."""
        return self.scan.attached.get(region.inode, [])


class Looker:
    """Looks at mounts, again and again; one that hangs keeps nobody waiting for long."""

    def __init__(self) -> None:
        self._asker = Asker()

    def look_at(self, directory: str | None) -> list[Listing]:
        """The directory that is asked about, or each mount. OSError and InspectError about it; of
        all mounts the failure of one is in its listing."""
        if directory is not None:
            return [self._asker.ask(directory, partial(_look_below, directory))]
        listings: list[Listing] = []
        for mount, top in mounts.chosen(None):
            try:
                listings.append(self._asker.ask(mount.path, partial(look, mount, top)))
            except OSError as error:
                error.filename = mount.path
                listings.append(Listing(mount, top, Scan(), unreadable=[error]))
        return listings


def look(mount: mounts.Mount, top: str) -> Listing:
    """Everything there is to tell of the regions below `top`. Raises OSError."""
    status = mounts.status_or_nothing(mount)
    found: list[regions.Summary] = []
    unreadable: list[OSError] = []
    for path in mounts.regions(mount, top, unreadable.append):
        with suppress(FileNotFoundError):
            found.append(regions.facts_of(path).summary())
    segments = {each.segment: each.inode for each in found if each.segment is not None}
    supervisor = mounts.supervisor_of(status)
    scan = processes.scan(mounts.devices_of(mount, status), segments, supervisor)
    return Listing(mount, top, scan, found, unreadable)


def _look_below(directory: str) -> Listing:
    ((mount, top),) = mounts.chosen(directory)
    return look(mount, top)


def document(listings: Sequence[Listing]) -> dict[str, Any]:
    """All of it as plain data, sizes in bytes."""
    return {
        "regions": [
            regions.document(region, listing.mount) | {"pids": listing.attached(region)}
            for listing in listings
            for region in listing.found
        ],
        "removed": [
            {"mount": listing.mount.path, "inode": inode, "pids": pids}
            for listing in listings
            for inode, pids in listing.removed.items()
        ],
        "unreadable": [error.filename for listing in listings for error in listing.unreadable],
        "unseen_processes": max((listing.scan.unseen for listing in listings), default=0),
        "processes_hidden": any(listing.scan.hidden for listing in listings),
    }
