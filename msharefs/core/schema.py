"""The file of the journal: its tables, and how it is opened.

Owns the schema, what becomes of a file of an earlier version, and what is wrong with one that cannot be
used. What is written to the tables is not known here.
"""

from __future__ import annotations

import os
import secrets
import sqlite3

from msharefs.core.room import PAGE

SCHEMA_VERSION = 5

_SCHEMA = """
-- kind: D a directory, R a region, I mshare_info. parent: of a directory.
-- size -1: a region whose size is not set; of a directory, its last cookie. registration: what the kernel knows the segment
-- by, 0 for not yet; slot: where the region's handles are counted. Times are a BLOB where
-- 64 bits are not enough for the nanoseconds: after April 2262, or before September 1677.
-- automap: the place in AUTOMAPS.
CREATE TABLE inode (
    ino INTEGER PRIMARY KEY, kind TEXT, mode INTEGER, uid INTEGER, gid INTEGER,
    nlink INTEGER, atime_ns INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, parent INTEGER,
    size INTEGER, registration INTEGER, slot INTEGER,
    creator_pid INTEGER, creator_uid INTEGER, creator_gid INTEGER, automap INTEGER);
CREATE TABLE name (
    parent INTEGER, name BLOB, ino INTEGER, cookie INTEGER,
    PRIMARY KEY (parent, name)) WITHOUT ROWID;
-- file: NULL, or which file the bytes came from, as words (_file_text). For reports alone.
CREATE TABLE mapping (
    ino INTEGER, start INTEGER, end INTEGER, prot INTEGER, reserve INTEGER, huge INTEGER,
    file TEXT, PRIMARY KEY (ino, start)) WITHOUT ROWID;
-- The last requests applied, in the order of that, which is not that of their numbers;
-- result is the inode number that the answer shows.
CREATE TABLE applied (
    sequence INTEGER PRIMARY KEY, request INTEGER, opcode INTEGER, result INTEGER);
"""
_STEPS = {
    1: """
ALTER TABLE inode RENAME COLUMN token TO registration;
ALTER TABLE inode DROP COLUMN maps;
ALTER TABLE inode DROP COLUMN unmaps;
""",
    2: "ALTER TABLE mapping ADD COLUMN file TEXT;",
    3: "ALTER TABLE inode ADD COLUMN automap INTEGER DEFAULT 0;",
    # A mapping's file may have three words more, which version 4 would not understand.
    4: "",
}
"""What earlier versions wrote is changed in place when it is opened, from schema to schema. Up to 3 there
was no tail: who knows only that must not read a journal that may have one."""
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
"""Result codes (https://sqlite.org/rescode.html) that say so of a file; an SQL error is a table that
is not there."""


class JournalError(Exception):
    """The journal cannot be used; the text says why."""


class NewerJournalError(JournalError):
    """A later version wrote it, and it is left alone."""


class DamagedJournalError(JournalError):
    """It is torn or foreign. One that cannot be read for want of disk, memory or descriptors is not."""


class DamagedTailError(JournalError):
    """Its tail is torn or foreign, and sqlite has all that was before."""


def open_database(path: str) -> sqlite3.Connection:
    """Open or make it, with what an earlier version wrote in today's form. Raises sqlite3.Error
    (`why_not`), NewerJournalError, or DamagedJournalError."""
    fresh = not os.path.exists(path)
    db = sqlite3.connect(path, isolation_level=None, cached_statements=64)
    try:
        _prepare(db, path, fresh=fresh)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: str, *, fresh: bool) -> None:
    # Before the first access, so that the write-ahead log needs no shared memory.
    # Rows are small, and each page that a transaction touches is copied whole.
    db.execute(f"PRAGMA page_size = {PAGE}")
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    if not fresh:
        _check(db, path)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = OFF")
    # Names are sorted when they are read, and there may be no room for a file to do it in.
    db.execute("PRAGMA temp_store = MEMORY")
    # The log is emptied when its room is used up, and not when a commit finds it long.
    db.execute("PRAGMA wal_autocheckpoint = 0")
    earlier = db.execute("PRAGMA user_version").fetchone()[0]
    if earlier != SCHEMA_VERSION:
        script = "".join(_STEPS[n] for n in range(earlier, SCHEMA_VERSION)) if earlier else _SCHEMA
        # Its tail is known by that number, also to a later version.
        number = db.execute("PRAGMA application_id").fetchone()[0]
        number = number or secrets.randbelow((1 << 31) - 1) + 1
        db.executescript(
            f"BEGIN; {script} PRAGMA user_version = {SCHEMA_VERSION};"
            f" PRAGMA application_id = {number}; COMMIT;"
        )


def _check(db: sqlite3.Connection, path: str) -> None:
    """Look at what is there, and change nothing of it."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise NewerJournalError(
            f"{path} was written by a later version (schema {version}, this one knows "
            f"{SCHEMA_VERSION}): install that version again, or discard it with -o fresh"
        )
    if version < 1:
        raise DamagedJournalError(f"{path} is no journal of msharefs")
    if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
        raise DamagedJournalError(f"{path} is damaged")


def why_not(path: str, error: sqlite3.Error) -> JournalError:
    """Why it cannot be opened."""
    kind = DamagedJournalError if error.sqlite_errorcode & 0xFF in _DAMAGED else JournalError
    return kind(f"{path} cannot be read: {error}")
