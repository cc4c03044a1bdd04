"""What there is to know of one region: its file's facts, its layout, and what it costs.

Owns the arithmetic of huge pages and page tables. It looks, and changes nothing.
"""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple

from msharefs.abi import CHANGED_ATTRIBUTE, HUGE_PAGE_SIZE
from msharefs.client.layout import Layout, Mapping, read_layout
from msharefs.inspect import mounts, processes
from msharefs.inspect.errors import InspectError

_CHANGED = CHANGED_ATTRIBUTE.decode("ascii")


class Summary(NamedTuple):
    """A region in a list of many, without its mappings. Sizes are bytes."""

    path: str
    name: str
    inode: int
    size: int
    """0 while nobody has set it."""
    memory: int
    """What it has in memory, reserved or touched."""
    uid: int
    gid: int
    permissions: int
    links: int
    mapped: int | None
    """This and what follows is None for a region that the caller may not read."""
    reserved: int | None
    huge: int | None
    """How much of what is mapped lies in huge pages, as the mount saw it."""
    mappings: int | None
    open_handles: int | None
    segment: tuple[int, int] | None
    """What is mapped by who has the memory itself: device and inode number."""
    changes: int | None
    """How often something was mapped or unmapped, ever."""

    @property
    def owner(self) -> str:
        """The name of its owner."""
        return processes.user_name(self.uid)

    @property
    def group(self) -> str:
        """The name of its group."""
        return _group_name(self.gid)

    @property
    def mode(self) -> str:
        """Its permissions as letters: "rw-r-----"."""
        return stat.filemode(self.permissions)[1:]


@dataclass(frozen=True, slots=True)
class Facts:
    """A region as it is at one moment."""

    path: str
    name: str
    file: os.stat_result
    layout: Layout | None
    """None for a region that the caller may not read."""

    @property
    def segment(self) -> tuple[int, int] | None:
        """Device and inode number of what is mapped by who has the memory itself."""
        return None if self.layout is None else self.layout.segment

    def summary(self) -> Summary:
        """What of it a list tells."""
        file, layout = self.file, self.layout
        return Summary(
            path=self.path,
            name=self.name,
            inode=file.st_ino,
            size=file.st_size,
            memory=file.st_blocks * 512,
            uid=file.st_uid,
            gid=file.st_gid,
            permissions=stat.S_IMODE(file.st_mode),
            links=file.st_nlink,
            mapped=None if layout is None else layout.mapped,
            reserved=None if layout is None else layout.reserved,
            huge=None if layout is None else layout.collapsed,
            mappings=None if layout is None else len(layout.mappings),
            open_handles=None if layout is None else layout.open_handles,
            segment=self.segment,
            changes=None if layout is None else layout.maps + layout.unmaps,
        )


def table_cost(layout: Layout) -> tuple[int, int]:
    """Bytes of page tables for a process that touches all of the region: with small pages
    only, and as it is. The levels above, the same for both, are left out."""
    units = 0
    last = -1
    for mapping in layout.mappings:
        first = mapping.offset // HUGE_PAGE_SIZE
        units += (mapping.end - 1) // HUGE_PAGE_SIZE - first + (first != last)
        last = (mapping.end - 1) // HUGE_PAGE_SIZE
    small = units * processes.TABLE_SIZE
    return small, small - layout.collapsed // HUGE_PAGE_SIZE * processes.TABLE_SIZE


def obstacle_to_huge_pages(status: dict[str, Any]) -> str | None:
    """Why a mount makes no more huge pages for now, by its status."""
    obstacle = status.get("huge_pages", {}).get("obstacle")
    return None if obstacle is None else str(obstacle)


def facts_of(found: mounts.Found) -> Facts:
    """The facts of a file that a search found. FileNotFoundError if it has gone since."""
    return Facts(found.path, found.name, found.file, _layout_or_nothing(found.path))


def look_at(path: str) -> tuple[mounts.Mount, Facts]:
    """The facts of the region at `path`, and its mount. OSError, InspectError if it is none."""
    mount = mounts.mount_of(path)
    file = os.stat(path)
    if not stat.S_ISREG(file.st_mode) or mounts.is_info(mount, path):
        raise InspectError(f"{path} is not a region")
    return mount, Facts(path, path, file, _layout_or_nothing(path))


def places_of(facts: Facts, devices: Collection[int]) -> list[tuple[int, int]]:
    """What a process maps that has the region: its file on one of these devices, or its segment."""
    places = [(device, facts.file.st_ino) for device in devices]
    return places if facts.segment is None else [*places, facts.segment]


def scan_for(facts: Facts, devices: Collection[int], supervisor: int) -> processes.Scan:
    """Who has something of its mount attached, or the memory of this region; not its servers."""
    segments = {} if facts.segment is None else {facts.segment: facts.file.st_ino}
    return processes.scan(devices, segments, supervisor)


def document(region: Summary, mount: mounts.Mount) -> dict[str, Any]:
    """One region as plain data, sizes in bytes; what may not be read is null."""
    return {
        "path": region.path,
        "mount": mount.path,
        "inode": region.inode,
        "size": region.size,
        "mapped": region.mapped,
        "reserved": region.reserved,
        "memory": region.memory,
        "huge": region.huge,
        "mappings": region.mappings,
        "open_handles": region.open_handles,
        "owner": region.owner,
        "group": region.group,
        "uid": region.uid,
        "gid": region.gid,
        "mode": f"{region.permissions:04o}",
        "links": region.links,
    }


def full_document(facts: Facts, mount: mounts.Mount, pids: list[int]) -> dict[str, Any]:
    """The same with the whole layout, and the processes `pids` that have it attached. Of files that are
    written back it is counted what was changed."""
    layout = needs_layout(facts)
    changed = changed_bytes(facts, layout.mappings)
    small, here = table_cost(layout)
    return document(facts.summary(), mount) | {
        "pids": pids,
        "page_tables": {"small_pages": small, "here": here},
        "creator": asdict(layout.creator),
        "maps": layout.maps,
        "unmaps": layout.unmaps,
        "layout": [_mapping_document(mapping, changed) for mapping in layout.mappings],
    }


def changed_bytes(facts: Facts, mappings: Iterable[Mapping]) -> dict[int, int | None]:
    """How many bytes of each of these mappings, by their offsets, were changed and are not in its file yet: for those
    that go back to one. None where the mount cannot tell. It counts them now, which takes as long as a sync that finds nothing to write."""
    return {
        mapping.offset: _changed_at(facts.path, mapping.offset)
        for mapping in mappings
        if mapping.file is not None and mapping.file.write_back in {"on", "failed"}
    }


def needs_layout(facts: Facts) -> Layout:
    """The layout, for commands that are about it. InspectError for who may not read it."""
    if facts.layout is None:
        raise InspectError(f"{facts.name} may not be read by you")
    return facts.layout


def _mapping_document(mapping: Mapping, changed: dict[int, int | None]) -> dict[str, Any]:
    told = asdict(mapping)
    if mapping.offset in changed:
        told["file"]["changed"] = changed[mapping.offset]
    return told


def _changed_at(path: str, offset: int) -> int | None:
    try:
        return int(os.getxattr(path, f"{_CHANGED}.{offset}"))
    except OSError:
        # A daemon of an earlier version, a file that does not answer.
        return None


def _layout_or_nothing(path: str) -> Layout | None:
    try:
        # By name: an open descriptor of ours would be counted as a user of the region.
        return read_layout(lambda attribute: os.getxattr(path, attribute))
    except PermissionError:
        return None


@cache
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
