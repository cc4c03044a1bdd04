"""The journal: a mount's state in sqlite3, so that it outlives the process that serves it.

Owns the schema and every statement. One transaction an operation; each also remembers
which request it answers, so that one that the kernel sends again is not applied twice.
It survives the death of a process, not of the machine, whose memory goes with it:
synchronous=OFF, and no fsync anywhere.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from msharefs.core.inode import Caller, Directory, Inode
from msharefs.core.layout import Mapping
from msharefs.core.region import Region, State

SCHEMA_VERSION = 1
REMEMBERED_REQUESTS = 64
"""More than can be applied and not yet answered at any moment."""

_SCHEMA = """
-- kind: D a directory, R a region, I mshare_info. parent: of a directory.
-- size -1: a region whose size is not set. token: what the data plane needs to know the
-- segment's registration by; slot: where the region's handles are counted.
CREATE TABLE inode (
    ino INTEGER PRIMARY KEY, kind TEXT, mode INTEGER, uid INTEGER, gid INTEGER,
    nlink INTEGER, atime_ns INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, parent INTEGER,
    size INTEGER, token INTEGER, slot INTEGER, maps INTEGER, unmaps INTEGER,
    creator_pid INTEGER, creator_uid INTEGER, creator_gid INTEGER);
CREATE TABLE name (
    parent INTEGER, name BLOB, ino INTEGER, cookie INTEGER,
    PRIMARY KEY (parent, name)) WITHOUT ROWID;
CREATE TABLE mapping (
    ino INTEGER, start INTEGER, end INTEGER, prot INTEGER, reserve INTEGER, huge INTEGER,
    PRIMARY KEY (ino, start)) WITHOUT ROWID;
-- The last requests applied, in the order of that, which is not that of their numbers;
-- result is the inode number that the answer shows.
CREATE TABLE applied (
    sequence INTEGER PRIMARY KEY, request INTEGER, opcode INTEGER, result INTEGER);
"""


class JournalError(Exception):
    """The journal cannot be used; the text says why."""


class NewerJournalError(JournalError):
    """A later version wrote it, and it is left alone."""


@dataclass(frozen=True, slots=True)
class Request:
    """Which request of the kernel is being answered."""

    unique: int
    opcode: int


@dataclass(frozen=True, slots=True)
class Applied:
    """A request that was applied: what it was, and the inode number in its answer."""

    opcode: int
    result: int


class Journal:
    """An open journal. Every method but the reading ones is part of a transaction."""

    def __init__(self, path: str) -> None:
        """Open or make it. Raises NewerJournalError, or JournalError where it is torn or
        foreign."""
        try:
            self._db = _open(path)
        except (sqlite3.Error, JournalError) as error:
            raise (
                error
                if isinstance(error, JournalError)
                else JournalError(f"{path} cannot be read: {error}")
            ) from error
        self._execute = self._db.execute
        self._sequence = self._last_sequence()
        self._open = False

    def begin(self) -> bool:
        """Start a transaction, unless one is open. Returns whether it did."""
        if self._open:
            return False
        self._execute("BEGIN")
        self._open = True
        return True

    def roll_back(self) -> None:
        """Nothing was changed after all."""
        self._execute("ROLLBACK")
        self._open = False

    def commit(self, request: Request | None, result: int) -> None:
        """Make everything since `begin` durable, together with the fact that it answers
        `request`."""
        if request is not None:
            self._sequence += 1
            self._execute(
                "INSERT INTO applied VALUES (?, ?, ?, ?)",
                (self._sequence, request.unique, request.opcode, result),
            )
            if self._sequence % REMEMBERED_REQUESTS == 0:
                oldest = self._sequence - REMEMBERED_REQUESTS
                self._execute("DELETE FROM applied WHERE sequence <= ?", (oldest,))
        self._execute("COMMIT")
        self._open = False

    def applied(self, unique: int) -> Applied | None:
        """What a request did, if it was applied."""
        row = self._execute(
            "SELECT opcode, result FROM applied WHERE request = ?", (unique,)
        ).fetchone()
        return None if row is None else Applied(*row)

    def forget_requests(self) -> None:
        """The connection whose requests were remembered is gone."""
        self.begin()
        self._execute("DELETE FROM applied")
        self.commit(None, 0)

    def save(self, inode: Inode) -> None:
        """Write an inode's attributes."""
        kind, parent, size, token, slot = "I", 0, 0, 0, 0
        maps = unmaps = 0
        creator = Caller(0, 0, 0)
        if isinstance(inode, Directory):
            kind, parent = "D", inode.parent
        elif isinstance(inode, Region):
            kind, size = "R", inode.size if inode.state is State.SIZED else -1
            token, slot = inode.token, inode.slot
            maps, unmaps, creator = inode.maps, inode.unmaps, inode.creator
        self._execute(
            "REPLACE INTO inode VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                inode.ino,
                kind,
                inode.mode,
                inode.uid,
                inode.gid,
                inode.nlink,
                inode.atime_ns,
                inode.mtime_ns,
                inode.ctime_ns,
                parent,
                size,
                token,
                slot,
                maps,
                unmaps,
                creator.pid,
                creator.uid,
                creator.gid,
            ),
        )

    def drop(self, ino: int) -> None:
        """Remove an inode and its mappings."""
        self._execute("DELETE FROM inode WHERE ino = ?", (ino,))
        self._execute("DELETE FROM mapping WHERE ino = ?", (ino,))

    def put_name(self, directory: Directory, name: bytes) -> None:
        """Write a name as it is in the directory now."""
        entry = directory.entry(name)
        self._execute(
            "REPLACE INTO name VALUES (?, ?, ?, ?)",
            (directory.ino, name, entry.ino, entry.cookie),
        )

    def drop_name(self, parent: int, name: bytes) -> None:
        """Remove a name."""
        self._execute("DELETE FROM name WHERE parent = ? AND name = ?", (parent, name))

    def replace_mappings(self, ino: int, old: list[Mapping], new: list[Mapping]) -> None:
        """Write what became of some mappings of a region."""
        self._db.executemany(
            "DELETE FROM mapping WHERE ino = ? AND start = ?", [(ino, m.start) for m in old]
        )
        self._db.executemany(
            "INSERT INTO mapping VALUES (?, ?, ?, ?, ?, ?)",
            [(ino, m.start, m.end, m.prot, m.reserve, m.huge) for m in new],
        )

    def inodes(self) -> Iterator[sqlite3.Row]:
        """All inodes, by number."""
        yield from self._execute("SELECT * FROM inode ORDER BY ino")

    def names(self) -> Iterator[sqlite3.Row]:
        """All names, each directory's in the order of its listing."""
        yield from self._execute("SELECT * FROM name ORDER BY parent, cookie")

    def mappings(self) -> Iterator[tuple[int, Mapping]]:
        """All mappings with their region's number."""
        for row in self._execute("SELECT * FROM mapping ORDER BY ino, start"):
            ino, start, end, prot, reserve, huge = row
            yield ino, Mapping(start, end, prot, bool(reserve), bool(huge))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def _last_sequence(self) -> int:
        row = self._execute("SELECT max(sequence) FROM applied").fetchone()
        return int(row[0] or 0)


def _open(path: str) -> sqlite3.Connection:
    fresh = not os.path.exists(path)
    db = sqlite3.connect(path, isolation_level=None, cached_statements=64)
    try:
        _prepare(db, path, fresh=fresh)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: str, *, fresh: bool) -> None:
    db.row_factory = sqlite3.Row
    # Before the first access, so that the write-ahead log needs no shared memory.
    # Rows are small, and each page that a transaction touches is copied whole.
    db.execute("PRAGMA page_size = 1024")
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    if not fresh:
        _check(db, path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    if fresh:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _check(db: sqlite3.Connection, path: str) -> None:
    """Look at what is there, and change nothing of it."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise NewerJournalError(
            f"{path} was written by a later version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): install that version again, or discard it with -o fresh"
        )
    if version != SCHEMA_VERSION:
        raise JournalError(f"{path} is no journal of msharefs")
    if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
        raise JournalError(f"{path} is damaged")
