"""The journal: a mount's state in sqlite3, so that it outlives the process that serves it.

Owns the change: one an operation, which also remembers which request it
answers, so that one that the kernel sends again is not applied twice. A change is durable when it is in the
tail (tail.py); changes are moved from there into sqlite many at once, one transaction for all. A
process that is killed after the transaction and before the tail is empty leaves changes in both:
each row is put or taken away whatever was there before, so that to move them again changes nothing.

It survives the death of a process, not of the machine, whose memory goes with it:
synchronous=OFF, and no fsync anywhere.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from msharefs.core import records
from msharefs.core.errors import NoRoom, RefusedError
from msharefs.core.inode import AUTOMAPS, Caller, Directory, Inode
from msharefs.core.layout import MappedFile, Mapping, files_in
from msharefs.core.records import Kind, Values
from msharefs.core.region import Region, State
from msharefs.core.room import Allocate, Room
from msharefs.core.schema import DamagedTailError, open_database, why_not
from msharefs.core.tail import Tail, TailError

REMEMBERED_REQUESTS = 64
"""More than can be applied and not yet answered at any moment."""
FEW = 3
"""So many mappings are taken away one by one, so that what maps and unmaps the same range again and
again is one row for sqlite; more by the range."""
STATEMENTS, DROP = 10, 1 + FEW
"""Of a change at most, and of what goes with it at most: a rename over another name has eleven."""
MAPPINGS_A_STATEMENT = 256
"""Of mappings that are taken away by the range so many count as a statement of their own; of
those of files, whose records are longer, each does."""
APPLIED = 4
"""All requests that are remembered count as so many statements: their rows are short and lie side by side."""

_EARLIEST, _LATEST = -(1 << 63), (1 << 63) - 1
"""Nanoseconds since 1970 that are a number for sqlite."""
_FORGET_OLD = "DELETE FROM applied WHERE sequence <= (SELECT max(sequence) FROM applied) - ?"


class Request(NamedTuple):
    """Which request of the kernel is being answered."""

    unique: int
    opcode: int


class Applied(NamedTuple):
    """A request that was applied: what it was, and the inode number in its answer."""

    opcode: int
    result: int


class Journal:
    """An open journal. What writes is part of a transaction: see `change`."""

    def __init__(
        self,
        path: str,
        open_tail: Callable[[], memoryview],
        failpoint: Callable[[str], None],
        broken: Callable[[], None],
        allocate: Allocate,
    ) -> None:
        """Open or make it; `open_tail` gives the memory for its tail (tail.py). `failpoint` is called
        at each step, for tests that end the process there; `broken` that the tables and the
        journal may differ, after which the process has to start again from the journal;
        `allocate` has room on disk for its files. Raises DamagedJournalError or DamagedTailError where it
        is torn or foreign, NewerJournalError, or JournalError where it cannot be read or made now."""
        self.failpoint = failpoint
        self.broken = broken
        # What sqlite does not have: what comes first, in order; then the last row of each key.
        self._ordered: list[tuple[Kind, Values]] = []
        self._rows: dict[Values, tuple[Kind, Values]] = {}
        self._applied: deque[Values] = deque(maxlen=REMEMBERED_REQUESTS)
        # The change that is being made, and how many statements it counts as beyond one each.
        self._change: list[tuple[Kind, Values]] = []
        self._more = 0
        try:
            self._db = open_database(path)
        except sqlite3.Error as error:
            raise why_not(path, error) from error
        self._execute = self._db.execute
        try:
            self._tail = Tail(open_tail(), self._number())
            self._take_up()
            self._sequence = self._last_sequence()
        except sqlite3.Error as error:
            self._db.close()
            raise why_not(path, error) from error
        except (TailError, KeyError, ValueError, struct.error) as error:
            self._db.close()
            raise DamagedTailError(f"the last changes of {path} cannot be read: {error}") from error
        self._room = Room(self._execute, allocate, self.move)

    @property
    def pending(self) -> bool:
        """Whether anything was written since the last commit."""
        return bool(self._change)

    def change(
        self, request: Request | None, result: int = 0, *, statements: int = STATEMENTS
    ) -> Transaction:
        """A context in which the tables change and the change is recorded, for `request`, or
        for none that the kernel would send again. `result` is the inode number in its answer.
        Raises NoRoom where there may not be room for so many `statements`.

        At its end all is durable. A RefusedError before the first record means that nothing
        was changed, any other exception that the tables and the journal may differ (`broken`).
        """
        self._room.claim(statements, statements)
        return Transaction(self, request, result)

    def rewrite(
        self, request: Request | None, result: int = 0, *, statements: int = STATEMENTS
    ) -> Transaction:
        """The same for a change that takes away or overwrites, which a full disk allows."""
        self._room.claim(statements, 0)
        return Transaction(self, request, result)

    def promise(self, statements: int, *, growing: int) -> None:
        """Room for a change that comes later, of which so many statements may add something. Raises
        NoRoom. `withdraw` it, or make the change (`promised`)."""
        self._room.promise(statements, growing)

    def withdraw(self, statements: int) -> None:
        """The change does not come."""
        self._room.withdraw(statements)

    def promised(self, request: Request | None, result: int, statements: int) -> Transaction:
        """The change for which room was promised. What it records has been done, so that there
        is no way back."""
        self._room.withdraw(statements)
        try:
            return self.rewrite(request, result, statements=statements)
        except NoRoom:
            self.broken()
            raise

    def commit(self, request: Request | None, result: int) -> None:
        """Make all that was written durable, together with the fact that it answers
        `request`. Room was claimed for it."""
        if request is not None:
            self._sequence += 1
            self._write(
                records.PUT_APPLIED, (self._sequence, request.unique, request.opcode, result)
            )
        change, self._change = self._change, []
        record = _encoded(change)
        recorded = self._append(record)
        if not recorded:
            # Else a later process would take what is in the tail for newer than this.
            self.move()
            recorded = self._append(record)
        self._room.used(self._keep(change) + self._more)
        self._more = 0
        if not recorded:
            self._transact()

    def move(self) -> None:
        """Have sqlite take what is in the tail. Raises sqlite3.Error."""
        if self._rows or self._ordered or self._applied:
            self._transact()

    def applied(self, unique: int) -> Applied | None:
        """What a request did, if it was applied."""
        row = self._read("SELECT opcode, result FROM applied WHERE request = ?", unique).fetchone()
        return None if row is None else Applied(*row)

    def forget_connection(self, *, more: int = 0) -> None:
        """The one whose requests were remembered, and that knew segments, is gone. In a change
        that writes nothing else, and that counts as so many `more` statements."""
        self._more += more
        self._write(records.FORGET_APPLIED, ())
        self._write(records.FORGET_REGISTRATIONS, ())

    def save(self, inode: Inode) -> None:
        """Write an inode as it is now, in place of what was known of it."""
        kind, parent, size, registration, slot = "I", 0, 0, 0, 0
        creator = Caller(0, 0, 0)
        if isinstance(inode, Directory):
            kind, parent, size = "D", inode.parent, inode.end
        elif isinstance(inode, Region):
            kind, size = "R", inode.size if inode.state is State.SIZED else -1
            registration, slot, creator = inode.registration, inode.slot, inode.creator
        self._write(
            records.PUT_INODE,
            (
                inode.ino,
                kind,
                inode.mode,
                inode.uid,
                inode.gid,
                inode.nlink,
                *_stored_times(inode),
                parent,
                size,
                registration,
                slot,
                creator.pid,
                creator.uid,
                creator.gid,
                AUTOMAPS.index(inode.automap),
            ),
        )

    def drop(self, ino: int, mappings: Sequence[Mapping] = ()) -> None:
        """Remove an inode and its mappings, which are all that it has."""
        self._write(records.DROP_INODE, (ino,))
        self._drop_mappings(ino, mappings)

    def put_name(self, directory: Directory, name: bytes) -> None:
        """Write a name as it is in the directory now."""
        entry = directory.entry(name)
        self._write(records.PUT_NAME, (directory.ino, name, entry.ino, entry.cookie))

    def drop_name(self, parent: int, name: bytes) -> None:
        """A name is gone; what it meant is not touched."""
        self._write(records.DROP_NAME, (parent, name))

    def replace_mappings(self, ino: int, old: list[Mapping], new: Iterable[Mapping]) -> None:
        """Write what became of some mappings of a region, which lie side by side."""
        self._drop_mappings(ino, old)
        for m in new:
            file = m.file and _file_text(m.file)
            self._write(records.PUT_MAPPING, (ino, m.start, m.end, m.prot, m.reserve, m.huge, file))

    # Rows are plain tuples, because there may be millions.

    def inodes(self) -> Iterator[tuple[Any, ...]]:
        """All inodes by number, with the columns in the order of the schema."""
        return self._read("SELECT * FROM inode ORDER BY ino")

    def names(self) -> Iterator[tuple[int, bytes, int, int]]:
        """All names, each directory's in the order of its listing: the directory, the name,
        the inode that it means and its cookie."""
        return self._read("SELECT * FROM name ORDER BY parent, cookie")

    def mappings(self) -> Iterator[tuple[int, Mapping]]:
        """All mappings in order, with their region's number."""
        rows = self._read("SELECT * FROM mapping ORDER BY ino, start")
        for ino, start, end, prot, reserve, huge, text in rows:
            file = None if text is None else _file_from(text)
            yield ino, Mapping(start, end, prot, reserve != 0, huge != 0, file)

    def close(self) -> None:
        """Let go of the file. What is in the tail stays there."""
        self._db.close()

    def _write(self, kind: Kind, values: Values) -> None:
        """A refused request writes nothing, so a change begins with its first record."""
        self._change.append((kind, values))

    def _drop_mappings(self, ino: int, mappings: Sequence[Mapping]) -> None:
        if len(mappings) > FEW:
            self._write(records.DROP_MAPPINGS, (ino, mappings[0].start, mappings[-1].start))
            self._more += len(mappings) // MAPPINGS_A_STATEMENT + files_in(mappings)
            return
        for m in mappings:
            self._write(records.DROP_MAPPINGS, (ino, m.start, m.start))

    def _append(self, record: bytes | None) -> bool:
        return record is not None and self._tail.append(record)

    def _keep(self, change: Iterable[tuple[Kind, Values]]) -> int:
        """For sqlite. Returns how many statements that is more."""
        rows, ordered = self._rows, self._ordered
        before = len(rows) + len(ordered) + (APPLIED if self._applied else 0)
        for kind, values in change:
            if kind is records.PUT_APPLIED:
                self._applied.append(values)
            elif (key := kind.key(values)) is not None:
                rows[key] = kind, values
            else:
                ordered.extend(rows.values())
                rows.clear()
                ordered.append((kind, values))
        return len(rows) + len(ordered) + (APPLIED if self._applied else 0) - before

    def _take_up(self) -> None:
        """What an earlier process left in the tail."""
        for record in self._tail.records():
            self._keep(records.decode(record))
        self.move()

    def _transact(self) -> None:
        """All that sqlite does not have, in one transaction; then nothing is in the tail. At any
        moment between the two it is in both. Raises sqlite3.Error, with nothing moved."""
        by_kind = defaultdict(list)
        for kind, values in self._rows.values():
            by_kind[kind.sql].append(values)
        self.failpoint("before move")
        self._execute("BEGIN")
        try:
            for kind, values in self._ordered:
                self._execute(kind.sql, values)
            for sql, rows in by_kind.items():
                self._db.executemany(sql, rows)
            self._db.executemany(records.PUT_APPLIED.sql, self._applied)
            self._execute(_FORGET_OLD, (REMEMBERED_REQUESTS,))
            self._execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._execute("ROLLBACK")
            raise
        self.failpoint("moved")
        self._tail.clear()
        self._ordered.clear()
        self._rows.clear()
        self._applied.clear()

    def _read(self, statement: str, *values: object) -> sqlite3.Cursor:
        """What sqlite has, and that is all but for a change that is being made."""
        if not self.pending:
            self.move()
        return self._execute(statement, values)

    def _number(self) -> int:
        """Which journal it is."""
        return int(self._execute("PRAGMA application_id").fetchone()[0])

    def _last_sequence(self) -> int:
        row = self._execute("SELECT max(sequence) FROM applied").fetchone()
        return int(row[0] or 0)


class Transaction:
    """A context for one change and its record. Plain, because it is on every hot path."""

    __slots__ = ("_journal", "_request", "_result")

    def __init__(self, journal: Journal, request: Request | None, result: int) -> None:
        self._journal = journal
        self._request = request
        self._result = result

    def __enter__(self) -> None:
        assert not self._journal.pending, "one change at a time"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._commit()
        elif self._journal.pending or not isinstance(error, RefusedError):
            self._journal.broken()

    def _commit(self) -> None:
        if self._request is None and not self._journal.pending:
            return
        self._journal.failpoint("before commit")
        try:
            self._journal.commit(self._request, self._result)
        except Exception:
            self._journal.broken()
            raise
        self._journal.failpoint("after commit")


def _encoded(change: list[tuple[Kind, Values]]) -> bytes | None:
    """A change as a record of the tail; None where that has no form for it."""
    try:
        return b"".join([kind.encode(values) for kind, values in change])
    except struct.error:
        return None


def time_from(stored: int | bytes) -> int:
    """Nanoseconds since 1970 from a column of `inode`."""
    if isinstance(stored, int):
        return stored
    return int.from_bytes(stored, "little", signed=True)


def _stored_times(inode: Inode) -> Iterable[int | bytes]:
    """Any times that utimensat(2) takes: 64 bits of seconds."""
    times = (inode.atime_ns, inode.mtime_ns, inode.ctime_ns)
    if min(times) >= _EARLIEST and max(times) <= _LATEST:
        return times
    return [
        t if _EARLIEST <= t <= _LATEST else t.to_bytes(16, "little", signed=True) for t in times
    ]


def _file_text(file: MappedFile) -> str:
    """The path may hold bytes that are no text: JSON has them as escapes."""
    return json.dumps(file)


def _file_from(text: str) -> MappedFile:
    return MappedFile(*json.loads(text))
