"""The tables of a mount made again from its journal: after a crash, and on a new mount.

Owns what of an earlier process' state counts for the next one. After the death of a server the
kernel knows the inodes still, so handles, look-ups and registrations count; on a new mount nobody
has anything open, and only names count. Called once, before the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from msharefs.abi import INFO_NAME
from msharefs.core.inode import AUTOMAPS, INFO_INO, ROOT_INO, Caller, Directory, Inode
from msharefs.core.journal import STATEMENTS, time_from
from msharefs.core.layout import Layout
from msharefs.core.region import Region
from msharefs.core.tables import NOTHING, UNKNOWN, Tables, statements_to_drop

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
    for region in tables.regions.values():
        region.opens = tables.handles.get(region.slot)
        tables.note_way(region, tables.handles.way(region.slot))
        tables.open_handles += region.opens
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
        for region in tables.regions.values():
            if region.segment is not None:
                tables.note_way(region, tables.handles.way(region.slot).when_mounted_again)
            tables.handles.set(region.slot, 0, 0, region.way)
            region.registration = 0
    tables.drop_all(_told(progress, "without a name", tables.names.nameless()))
    _put_in_order(tables)
    return lost


def _told(progress: Progress, what: str, things: Iterable[T]) -> Iterator[T]:
    """The same, with a word now and then about how many it were."""
    for number, thing in enumerate(things):
        if number % STEP == 0:
            progress(f"{number:,} {what}")
        yield thing


def _read_inodes(tables: Tables, progress: Progress) -> list[Inode]:
    """Fill the tables with what the journal has, without handles and look-ups. A new journal
    begins with the root directory and mshare_info."""
    journal, names = tables.journal, tables.names
    if not any(journal.inodes()):
        with journal.change(None):
            tables.record_entry(ROOT_INO, INFO_NAME, names.get(INFO_INO))
    # Few programs make many regions.
    creators: dict[tuple[int, int, int], Caller] = {}
    rows = _told(progress, "inodes", journal.inodes())
    inodes = {row[0]: _inode_from(row, tables, creators) for row in rows}
    for parent, name, ino, cookie in _told(progress, "names", journal.names()):
        directory = inodes[parent]
        if isinstance(directory, Directory):
            directory.put_again(name, ino, cookie)
            inodes[ino].place = (parent, name)
    tables.regions.update((i, r) for i, r in inodes.items() if isinstance(r, Region))
    for ino, mapping in _told(progress, "mappings", journal.mappings()):
        tables.regions[ino].layout.append(mapping)
    names.restore(inodes, last_ino=tables.handles.last_ino)
    tables.handles.open({region.slot for region in tables.regions.values()})
    for region in tables.regions.values():
        region.maps, region.unmaps = tables.handles.changes(region.slot)
    return list(inodes.values())


def _inode_from(
    row: tuple[Any, ...], tables: Tables, creators: dict[tuple[int, int, int], Caller]
) -> Inode:
    """The inode of a row, which has the columns of the journal's schema."""
    ino, kind, mode, uid, gid, nlink, atime, mtime, ctime, parent, size, registration, slot, *_ = (
        row
    )
    inode: Inode
    if kind == "D":
        inode = directory = Directory(ino, parent, mode, uid, gid, 0)
        directory.begin_after(size)
    elif kind == "I":
        inode = tables.names.get(INFO_INO)
    else:
        who = row[-4:-1]
        creator = creators.get(who) or creators.setdefault(who, Caller(*who))
        inode = region = Region(ino, mode & 0o7777, uid, gid, 0, creator)
        region.registration, region.slot = registration, slot
        if size >= 0:
            region.was_sized(size)
    inode.nlink = nlink
    inode.automap = AUTOMAPS[row[-1]]
    inode.atime_ns, inode.mtime_ns = time_from(atime), time_from(mtime)
    inode.ctime_ns = time_from(ctime)
    return inode


def _find_segments(tables: Tables, progress: Progress) -> list[int]:
    """Find the segments that there are, and remove those of no region. Returns the regions
    with mappings that have none."""
    stored = tables.memory.stored()
    for ino in _told(progress, "segments of no region", stored.keys() - tables.regions.keys()):
        stored[ino].destroy()
    lost = []
    for region in tables.regions.values():
        region.segment = stored.get(region.ino)
        if region.segment is None and len(region.layout):
            lost.append(region.ino)
            with tables.journal.rewrite(None, statements=statements_to_drop(region)):
                tables.journal.replace_mappings(region.ino, list(region.layout), [])
                region.layout = Layout()
        if len(region.layout):
            tables.account(region, NOTHING)
    return sorted(lost)


def _put_in_order(tables: Tables) -> None:
    """The process before may have been killed between a change of memory and its record. Where
    no more is in use than is reserved, there is nothing that no mapping holds."""
    tables.settle()
    if tables.ledger.has_more_than_reserved:
        tables.sweep()
