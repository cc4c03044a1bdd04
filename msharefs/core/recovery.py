"""The tables of a mount made again from its journal: after a crash, and on a new mount.

Owns what of an earlier process' state counts for the next one. After the death of a server the
kernel knows the inodes still, so handles, look-ups and registrations count; on a new mount nobody
has anything open, and only names count. Called once, before the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Any, TypeVar

from msharefs.abi import INFO_NAME
from msharefs.core.inode import AUTOMAPS, INFO_INO, ROOT_INO, Caller, Directory, Entry, Inode
from msharefs.core.journal import STATEMENTS, time_from
from msharefs.core.layout import Layout
from msharefs.core.region import Region
from msharefs.core.tables import UNKNOWN, Tables, statements_to_drop
from msharefs.core.ways import Way

T = TypeVar("T")
Progress = Callable[[str], None]
"""Called again and again, with a few words: there may be millions of everything."""
STEP = 10_000
"""Of anything, between two such calls."""


def after_crash(tables: Tables, progress: Progress) -> list[int]:
    """Go on where a server died that served the same connection.

    The kernel is asked about inodes without a name: a FORGET may have died with the process
    that read it. Returns the regions whose memory somebody else has taken away: they have no
    mappings now.
    """
    for inode in _read_inodes(tables, progress):
        inode.lookups = UNKNOWN
    tables.open_handles = sum(region.opens for region in tables.regions.values())
    ways = tables.handles.ways()
    for region in tables.regions.values() if ways else ():
        tables.note_way(region, ways.get(region.slot, Way.OPEN))
    lost = _find_segments(tables, progress)
    _put_in_order(tables)
    nameless = tables.names.nameless()
    for inode in _told(progress, "without a name", nameless):
        tables.ask_kernel(inode)
    tables.drop_all(nameless)
    return lost


def on_new_mount(tables: Tables, progress: Progress) -> list[int]:
    """Begin with the names that an earlier mount left, or with nothing.

    Nobody has a handle; what has no name goes, and the kernel gets to know the segments when
    they are opened. Returns the regions whose memory somebody else has taken away: they
    have no mappings now.
    """
    for inode in _read_inodes(tables, progress):
        inode.lookups = int(inode.ino == ROOT_INO)
    lost = _find_segments(tables, progress)
    # The statement that goes over all inodes rewrites some ten of them with each page.
    more = len(tables.regions) // 64
    with tables.journal.rewrite(None, statements=STATEMENTS + more):
        tables.journal.forget_connection(more=more)
        tables.handles.forget_request()
        ways = tables.handles.ways()
        for region in _told(progress, "regions closed", tables.regions.values()):
            if region.segment is not None:
                way = ways.get(region.slot, Way.OPEN)
                tables.note_way(region, way.when_mounted_again)
            tables.handles.set(region.slot, 0, 0, region.way)
            region.opens = region.registration = 0
    tables.drop_all(_told(progress, "without a name", tables.names.nameless()))
    _put_in_order(tables)
    return lost


def _told(progress: Progress, what: str, things: Iterable[T]) -> Iterator[T]:
    """The same, with a word now and then about how many it were."""
    return chain.from_iterable(_steps(progress, what, iter(things)))


def _steps(progress: Progress, what: str, left: Iterator[T]) -> Iterator[list[T]]:
    number = 0
    while some := list(islice(left, STEP)):
        progress(f"{number:,} {what}")
        yield some
        number += len(some)


def _read_inodes(tables: Tables, progress: Progress) -> list[Inode]:
    """Fill the tables with what the journal has, without handles and look-ups. A new journal
    begins with the root directory and mshare_info."""
    journal, names = tables.journal, tables.names
    if not any(journal.inodes()):
        with journal.change(None):
            tables.record_entry(ROOT_INO, INFO_NAME, names.get(INFO_INO))
    rows = _told(progress, "inodes", journal.inodes())
    # Few programs make many regions.
    info, caller = names.get(INFO_INO), cache(Caller)
    inodes = {row[0]: _inode_from(row, info, caller) for row in rows}
    _read_names(tables, inodes, progress)
    regions = tables.regions
    regions.update((ino, inode) for ino, inode in inodes.items() if isinstance(inode, Region))
    for ino, mapping in _told(progress, "mappings", journal.mappings()):
        regions[ino].layout.append(mapping)
    names.restore(inodes, last_ino=tables.handles.last_ino)
    tables.handles.open({region.slot for region in regions.values()})
    counts = tables.handles.counts()
    for region in _told(progress, "regions with their counts", regions.values()):
        region.opens, region.maps, region.unmaps = counts[region.slot]
    return list(inodes.values())


def _inode_from(row: tuple[Any, ...], info: Inode, caller: Callable[..., Caller]) -> Inode:
    """The inode of a row, which has the columns of the journal's schema. What it is called, and
    what a region has mapped, is elsewhere. Written for speed, because of a million regions."""
    ino, kind, mode, uid, gid, nlink, atime, mtime, ctime, parent, size = row[:11]
    registration, slot, creator_pid, creator_uid, creator_gid, automap = row[11:]
    inode: Inode
    if kind == "R":
        creator = caller(creator_pid, creator_uid, creator_gid)
        inode = region = Region(ino, mode & 0o7777, uid, gid, 0, creator)
        region.registration = registration
        region.slot = slot
        if size >= 0:
            region.was_sized(size)
    elif kind == "D":
        inode = directory = Directory(ino, parent, mode, uid, gid, 0)
        directory.begin_after(size)
    else:
        inode = info
    inode.nlink = nlink
    inode.automap = AUTOMAPS[automap]
    if bytes in (type(atime), type(mtime), type(ctime)):
        atime, mtime, ctime = time_from(atime), time_from(mtime), time_from(ctime)
    inode.atime_ns = atime
    inode.mtime_ns = mtime
    inode.ctime_ns = ctime
    return inode


def _read_names(tables: Tables, inodes: dict[int, Inode], progress: Progress) -> None:
    """Fill the directories."""
    rows = _told(progress, "names", tables.journal.names())
    for parent, names in groupby(rows, key=itemgetter(0)):
        directory = inodes[parent]
        if isinstance(directory, Directory):
            entries = [Entry(name, ino, cookie) for _parent, name, ino, cookie in names]
            directory.put_again(entries)
            for name, ino, _cookie in entries:
                inodes[ino].place = parent, name


def _find_segments(tables: Tables, progress: Progress) -> list[int]:
    """Find the segments that there are, and remove those of no region. Returns the regions
    with mappings that have none."""
    stored = tables.memory.stored()
    for ino in _told(progress, "segments of no region", stored.keys() - tables.regions.keys()):
        stored[ino].destroy()
    lost = []
    for ino, region in _told(progress, "regions with their segments", tables.regions.items()):
        region.segment = stored.get(ino)
        if region.segment is None and len(region.layout):
            lost.append(ino)
            with tables.journal.rewrite(None, statements=statements_to_drop(region)):
                tables.journal.replace_mappings(ino, list(region.layout), [])
                region.layout = Layout()
        if len(region.layout):
            tables.collapsing.changed(region, 0, region.size)
    tables.begin_accounts()
    return sorted(lost)


def _put_in_order(tables: Tables) -> None:
    """The process before may have been killed between a change of memory and its record. Where
    no more is in use than is reserved, there is nothing that no mapping holds."""
    tables.settle()
    if tables.ledger.has_more_than_reserved:
        tables.sweep()
