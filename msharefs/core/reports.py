"""What the mount tells about itself: layout, status and statfs, as plain data.

Owns the form of the JSON in `user.msharefs.layout` and of core's part of
`user.msharefs.status`. It reads the manager and changes nothing.
"""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import dataclass
from heapq import nlargest
from itertools import islice
from operator import itemgetter
from typing import Any

from msharefs.abi import PAGE_SIZE
from msharefs.core.inode import ROOT_INO, Directory
from msharefs.core.layout import LOST, MappedFile, Mapping
from msharefs.core.manager import RegionManager
from msharefs.core.quotas import UNLIMITED, Quotas, Share
from msharefs.core.region import Region
from msharefs.core.ways import Way

LAYOUT_VERSION = 1
REGIONS_TOLD = 1000
NAMES_A_REGION = 4
"""So many names are looked at for each region that may be told of, whatever they are."""
LISTED_BY_ALL = 0o005
USERS_SHOWN = 100
"""Those with most memory. There may be very many, and an extended attribute has 64 KiB at most."""
MAPPINGS_A_PAGE = 500
"""An extended attribute has 64 KiB at most; a mapping takes up to 120 bytes of it."""


@dataclass(frozen=True, slots=True)
class FileSystemSize:
    """statfs: pages of memory and inodes, in all and free, and what a user may have of the pages;
    FUSE has no word for the same of inodes."""

    pages: int
    pages_free: int
    pages_available: int
    inodes: int
    inodes_free: int


def file_system_size(manager: RegionManager, uid: int) -> FileSystemSize:
    """What `df` and `df -i` show a user."""
    capacity = manager.tables.ledger.capacity
    used = max(
        manager.tables.memory.used(), manager.tables.ledger.reserved + manager.tables.ledger.pending
    )
    inodes = manager.limits.nr_inodes
    free = max(0, capacity - used)
    return FileSystemSize(
        pages=capacity // PAGE_SIZE,
        pages_free=free // PAGE_SIZE,
        pages_available=min(free, manager.tables.quotas.left(uid).size) // PAGE_SIZE,
        inodes=inodes,
        inodes_free=max(0, inodes - len(manager.names)),
    )


def layout_json(region: Region, start: int, room: int, *, collapsed: int) -> bytes:
    """A region and its mappings from byte `start` on, as many of them as `room` bytes hold.
    Where there are more, "next" is the offset to go on from, else null. With one mapping it
    may be longer than `room`. `collapsed` bytes of the region are in huge pages."""
    count = MAPPINGS_A_PAGE
    while True:
        found = list(islice(region.layout.from_offset(start), count + 1))
        shown = found[:count]
        text = _layout_text(region, collapsed, shown, found[count:])
        if len(text) <= room or len(shown) <= 1:
            return text
        count = max(1, len(shown) * room // len(text))


def status(manager: RegionManager) -> dict[str, Any]:
    """Core's part of the mount's status."""
    ledger, memory = manager.tables.ledger, manager.tables.memory
    return {
        "arena": {
            "size": ledger.capacity,
            "reserved": ledger.reserved,
            "used": memory.used(),
            "limit": ledger.limit,
            "huge": memory.huge,
            "overcommit": not manager.limits.reserve_always,
        },
        "huge_pages": {
            "collapsed": manager.tables.collapsing.total,
            "obstacle": manager.tables.collapsing.obstacle,
        },
        "inodes": {"limit": manager.limits.nr_inodes, "used": len(manager.names)},
        "regions": len(manager.tables.regions),
        "mappings": ledger.mappings,
        "mappings_limit": manager.limits.max_mappings_total,
        "files": {"limit": manager.limits.max_files, "mapped": ledger.files},
        "user_limits": _limits(manager.limits.user),
        "users": _users(manager.tables.quotas),
        "open_handles": manager.tables.open_handles,
    }


def by_region(manager: RegionManager, most: int = REGIONS_TOLD) -> list[dict[str, Any]]:
    """What there is to tell of each region, for whoever asks: so only of those in directories that
    everybody may list, each once. At most so many, the oldest names of each directory first, and
    directories after what is beside them."""
    told: dict[int, dict[str, Any]] = {}
    looked_at = 0
    directories = deque([(b"", manager.names.directory(ROOT_INO))])
    while directories:
        path, directory = directories.popleft()
        if directory.mode & LISTED_BY_ALL != LISTED_BY_ALL:
            continue
        for entry in directory.listing(0, directory.end):
            if len(told) == most or looked_at == NAMES_A_REGION * most:
                return list(told.values())
            looked_at += 1
            inode, place = manager.names.get(entry.ino), path + b"/" + entry.name
            if isinstance(inode, Region):
                told.setdefault(inode.ino, {"path": place, **_figures(inode)})
            elif isinstance(inode, Directory):
                directories.append((place, inode))
    return list(told.values())


def _figures(region: Region) -> dict[str, Any]:
    return {
        "size": region.size,
        "mapped": region.layout.mapped,
        "reserved": region.layout.reserved,
        "mappings": len(region.layout),
        "open_handles": region.opens,
        "maps": region.maps,
        "unmaps": region.unmaps,
    }


def _limits(limits: Share) -> dict[str, int | None]:
    """Those of each user; None is no limit."""
    return {name: None if limit == UNLIMITED else limit for name, limit in limits._asdict().items()}


def _users(quotas: Quotas) -> dict[str, dict[str, int]]:
    """Who has most, by user ID, which is text in JSON."""
    most = nlargest(USERS_SHOWN, quotas.users().items(), key=itemgetter(1))
    return {str(uid): share._asdict() for uid, share in most}


def _layout_text(
    region: Region, collapsed: int, shown: list[Mapping], rest: list[Mapping]
) -> bytes:
    document = {
        "version": LAYOUT_VERSION,
        "size": region.size,
        "mapped": region.layout.mapped,
        "reserved": region.layout.reserved,
        "collapsed": collapsed,
        "mapping_count": len(region.layout),
        "mappings": [_mapping(m) for m in shown],
        "next": rest[0].start if rest else None,
        "creator": {
            "pid": region.creator.pid,
            "uid": region.creator.uid,
            "gid": region.creator.gid,
        },
        "open_handles": region.opens,
        "counters": {"maps": region.maps, "unmaps": region.unmaps},
    }
    if region.way is not Way.OPEN:
        document["way"] = "direct" if region.way.is_direct else "plain"
    if region.way.is_direct and region.segment is not None:
        # Who looks for those that have it finds nothing of the region's file with them.
        document["segment"] = region.segment.identity()
    return json.dumps(document).encode()


def _mapping(mapping: Mapping) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "offset": mapping.start,
        "size": mapping.size,
        "prot": mapping.prot_text,
        "reserve": mapping.reserve,
        "huge": mapping.huge,
    }
    if mapping.file is not None:
        shown["file"] = _file(mapping.file)
    return shown


def _file(file: MappedFile) -> dict[str, Any]:
    """Where something goes back to it, also how far it has come."""
    shown: dict[str, Any] = {
        "device": file.device,
        "inode": file.inode,
        "offset": file.offset,
        "uid": file.uid,
        "path": file.path,
    }
    if file.record:
        shown["write_back"] = "lost" if file.record == LOST else "failed" if file.error else "on"
        shown["unwritten"] = file.unwritten
        shown["error"] = os.strerror(file.error) if file.error else None
    return shown
