"""The tables of a mount made again from its journal: after a crash, and on a new mount.

Owns what of an earlier process' state counts for the next one. After the death of a server the
kernel knows the inodes still, so handles, look-ups and registrations count; on a new mount nobody
has anything open, and only names count. Called once, before the first request.
"""

from __future__ import annotations

import sqlite3

from msharefs.abi import INFO_NAME
from msharefs.core.inode import INFO_INO, ROOT_INO, Caller, Directory, Inode
from msharefs.core.journal import time_from
from msharefs.core.layout import Layout
from msharefs.core.region import Region
from msharefs.core.tables import NOTHING, UNKNOWN, Tables


def after_crash(tables: Tables) -> list[int]:
    """Go on where a server died that served the same connection.

    The kernel is asked about inodes without a name: a FORGET may have died with the process
    that read it. Returns the regions whose memory somebody else has taken away: they have no
    mappings now.
    """
    for inode in _read_inodes(tables):
        inode.lookups = UNKNOWN
    for region in tables.regions.values():
        region.opens = tables.handles.get(region.slot)
        tables.open_handles += region.opens
    lost = _find_segments(tables)
    _put_in_order(tables)
    with tables.journal.change(None):
        for inode in tables.names.nameless():
            tables.ask_kernel(inode)
    return lost


def on_new_mount(tables: Tables) -> list[int]:
    """Begin with the names that an earlier mount left, or with nothing.

    Nobody has a handle; what has no name goes, and the kernel gets to know the segments when
    they are opened. Returns the regions whose memory somebody else has taken away: they
    have no mappings now.
    """
    for inode in _read_inodes(tables):
        inode.lookups = int(inode.ino == ROOT_INO)
    lost = _find_segments(tables)
    with tables.journal.change(None):
        tables.journal.forget_requests()
        tables.handles.forget_request()
        for region in tables.regions.values():
            tables.handles.set(region.slot, 0, 0)
            if region.registration:
                region.registration = 0
                tables.journal.save(region)
        for inode in tables.names.nameless():
            tables.drop_unreferenced(inode)
    _put_in_order(tables)
    return lost


def _read_inodes(tables: Tables) -> list[Inode]:
    """Fill the tables with what the journal has, without handles and look-ups. A new journal
    begins with the root directory and mshare_info."""
    journal, names = tables.journal, tables.names
    if not any(journal.inodes()):
        with journal.change(None):
            tables.record_entry(ROOT_INO, INFO_NAME, names.get(INFO_INO))
    inodes = {row["ino"]: _inode_from(row, tables) for row in journal.inodes()}
    for row in journal.names():
        directory = inodes[row["parent"]]
        if isinstance(directory, Directory):
            directory.put_again(row["name"], row["ino"], row["cookie"])
    tables.regions.update((i, r) for i, r in inodes.items() if isinstance(r, Region))
    for ino, mapping in journal.mappings():
        tables.regions[ino].layout.append(mapping)
    names.restore(inodes, last_ino=tables.handles.last_ino)
    tables.handles.open({region.slot for region in tables.regions.values()})
    return list(inodes.values())


def _inode_from(row: sqlite3.Row, tables: Tables) -> Inode:
    ino, mode, uid, gid = (row[k] for k in ("ino", "mode", "uid", "gid"))
    atime, mtime, ctime = (time_from(row[k]) for k in ("atime_ns", "mtime_ns", "ctime_ns"))
    inode: Inode
    if row["kind"] == "D":
        inode = directory = Directory(ino, row["parent"], mode, uid, gid, ctime)
        directory.begin_after(row["size"])
    elif row["kind"] == "I":
        inode = tables.names.get(INFO_INO)
    else:
        creator = Caller(row["creator_pid"], row["creator_uid"], row["creator_gid"])
        inode = region = Region(ino, mode & 0o7777, uid, gid, ctime, creator)
        region.registration, region.slot = row["registration"], row["slot"]
        region.maps, region.unmaps = tables.handles.changes(region.slot)
        if row["size"] >= 0:
            region.become_sized(row["size"])
    inode.nlink = row["nlink"]
    inode.atime_ns, inode.mtime_ns, inode.ctime_ns = atime, mtime, ctime
    return inode


def _find_segments(tables: Tables) -> list[int]:
    """Find the segments that there are, and remove those of no region. Returns the regions
    with mappings that have none."""
    stored = tables.memory.stored()
    for ino in stored.keys() - tables.regions.keys():
        stored[ino].destroy()
    lost = []
    with tables.journal.change(None):
        for region in tables.regions.values():
            region.segment = stored.get(region.ino)
            if region.segment is None and len(region.layout):
                lost.append(region.ino)
                tables.journal.replace_mappings(region.ino, list(region.layout), [])
                region.layout = Layout()
            tables.ledger.account(NOTHING, region.layout)
    return sorted(lost)


def _put_in_order(tables: Tables) -> None:
    """The process before may have been killed between a change of memory and its record."""
    tables.settle()
    tables.sweep()
