"""Room on disk for the journal's next changes, had before they are made.

Owns how many pages a change may need at most, and that sqlite finds them: a full disk is then a
refusal before anything has changed, and never a commit that fails. sqlite writes a change into
its log, so the log has so many pages for good and is emptied (a checkpoint) before they are
used up; and where a change may add to the database, that has as many free pages in it. What takes
away or overwrites needs no free page, so that a full disk can be emptied; some are left for it all
the same, because trees of pages are put in balance at times.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from msharefs.core.errors import NoRoom

PAGE = 1024
"""Bytes of a page of the database."""
LOGGED, GROWN = 12, 4
"""Pages at most that a statement writes into the log, and that it adds to the database, but for rare
moments, in which a commit can fail as before if there is no disk either. Measured with names of any
length, 60,000 in a directory: a name's own record up to 19, all others up to 11; the
changes of an operation together stay below."""
LOG = 1280
"""Pages that the log has, for some thirty changes, which are moved into it at once."""
SPARE = 64
"""Free pages that are left for what takes away."""
GROWTH = 512
"""Free pages that the database gets at a time, so that it is not asked again soon."""
_FRAME = PAGE + 24
_LOG_HEADER = 32
_OVERFLOW = PAGE - 4

Allocate = Callable[[str, int], None]
"""Has the first so many bytes of the journal's file with a suffix on disk. Raises OSError."""


class Room:
    """Of one open journal. `promised` pages are for changes that are on their way."""

    def __init__(
        self,
        execute: Callable[..., sqlite3.Cursor],
        allocate: Allocate,
        move: Callable[[], None],
    ) -> None:
        """Nothing is had yet, and what the log holds is not known. `move` has sqlite execute all
        statements that were counted."""
        self._execute = execute
        self._allocate = allocate
        self._move = move
        self._log_length = 0
        self._log = 0
        self._free = 0
        self._promised = 0

    def claim(self, statements: int, growing: int) -> None:
        """So many statements will be executed, of which `growing` may add to the database. Raises
        NoRoom."""
        logged = (statements + self._promised) * LOGGED
        free = (growing + self._promised) * GROWN + SPARE if growing else 0
        if logged > self._log or (growing and free > self._free):
            self._have(logged, free)

    def promise(self, statements: int, growing: int) -> None:
        """The same for a change that is made later. It is withdrawn before it is claimed."""
        self.claim(statements, growing)
        self._promised += statements

    def withdraw(self, statements: int) -> None:
        """What was promised is needed now, or not any more."""
        self._promised -= statements

    def used(self, statements: int) -> None:
        """So many are going to be executed. On the path of every change."""
        self._log -= statements * LOGGED
        self._free -= statements * GROWN

    def _have(self, logged: int, free: int) -> None:
        try:
            self._move()
            self._empty_log()
            self._lengthen_log(max(logged, LOG))
            self._free = self._number("freelist_count")
            if free:
                self._have_free(free)
        except (OSError, sqlite3.OperationalError) as cause:
            raise NoRoom(f"no room for the journal: {cause}") from cause

    def _have_free(self, free: int) -> None:
        """And some for later, where there are."""
        if self._free - free >= GROWTH // 2:
            return
        try:
            self._grow(free + GROWTH)
        except (OSError, sqlite3.OperationalError):
            if self._free < free:
                raise

    def _empty_log(self) -> None:
        """Into the database, which has all pages that the log tells of."""
        _busy, logged, moved = self._execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if logged != moved:
            raise OSError(f"{logged - moved} pages of the log cannot be moved")
        self._log = self._log_length

    def _lengthen_log(self, pages: int) -> None:
        """Of a log that is empty. It never becomes shorter."""
        if pages > self._log_length:
            self._allocate("-wal", _LOG_HEADER + pages * _FRAME)
            self._log = self._log_length = pages

    def _grow(self, free: int) -> None:
        """Have so many free pages, on disk: a value that takes them all, and is taken away. That
        goes through the log, which is empty and longer than the database ever grows at a time."""
        # Its row may need some pages for itself.
        more = free - self._free + GROWN
        self._allocate("", (self._number("page_count") + more) * PAGE)
        self._execute("BEGIN")
        try:
            self._execute("INSERT INTO applied VALUES (-1, 0, zeroblob(?), 0)", (free * _OVERFLOW,))
            self._execute("DELETE FROM applied WHERE sequence = -1")
        except sqlite3.Error:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")
        self._empty_log()
        self._free = self._number("freelist_count")

    def _number(self, pragma: str) -> int:
        value: Any = self._execute(f"PRAGMA {pragma}").fetchone()[0]
        return int(value)
