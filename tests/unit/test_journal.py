"""The journal by itself: what is written comes back, and what cannot be read is refused."""

from __future__ import annotations

import os
import random
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from msharefs.core import schema as schema_module
from msharefs.core import tail
from msharefs.core.errors import NotFound
from msharefs.core.inode import Automap, Directory, InfoFile
from msharefs.core.journal import FEW, REMEMBERED_REQUESTS, STATEMENTS, Applied, Journal, Request
from msharefs.core.layout import MappedFile, Mapping
from msharefs.core.region import Region
from msharefs.core.schema import SCHEMA_VERSION, DamagedTailError, JournalError, NewerJournalError
from msharefs.daemon.storage import TAIL, Files, open_area
from tests.unit.support.worlds import ALICE, ALIGN, PAGE


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the journal is."""
    return str(tmp_path / "journal")


@pytest.fixture
def journal(path: str) -> Iterator[Journal]:
    """A new one."""
    journal = opened(path)
    yield journal
    journal.close()


def opened(path: str) -> Journal:
    """As a process that starts does it. No change may break off."""
    open_tail = partial(open_area, path + TAIL, tail.SIZE)
    return Journal(path, open_tail, lambda step: None, not_expected, Files(path).allocate)


def not_expected() -> NoReturn:
    """In place of `broken`."""
    raise AssertionError("the tables and the journal may differ")


def again(journal: Journal, path: str) -> Journal:
    """What a process finds that comes after one that was killed."""
    journal.close()
    return opened(path)


def a_region(ino: int = 5) -> Region:
    """A sized region with attributes that differ from each other."""
    region = Region(ino, 0o640, 11, 12, 13, ALICE)
    region.become_sized(ALIGN)
    region.atime_ns, region.mtime_ns, region.ctime_ns = -1, (1 << 63) - 1, 17
    region.nlink, region.registration, region.slot = 3, 99, 7
    region.automap = Automap.GROW
    return region


def test_a_new_journal_is_empty(journal: Journal) -> None:
    """No inodes, no names, no mappings, no requests."""
    assert not [*journal.inodes(), *journal.names(), *journal.mappings()]
    assert journal.applied(2) is None


def test_inodes_come_back(journal: Journal, path: str) -> None:
    """Every attribute of every kind."""
    directory = Directory(4, 1, stat.S_IFDIR | 0o750, 21, 22, 23)
    unsized = Region(6, 0o600, 0, 0, 0, ALICE)
    for inode in (a_region(), directory, InfoFile(b"1\n", 0, 0, 5), unsized):
        journal.save(inode)
    journal.commit(None, 0)
    journal = again(journal, path)
    info, folder, region, without_size = journal.inodes()
    journal.close()
    attributes = (stat.S_IFREG | 0o640, 11, 12, 3, -1, (1 << 63) - 1, 17)
    creator = (ALICE.pid, ALICE.uid, ALICE.gid)
    assert region == (5, "R", *attributes, 0, ALIGN, 99, 7, *creator, 3)
    assert info[:2] == (2, "I")
    assert folder[:10] == (4, "D", stat.S_IFDIR | 0o750, 21, 22, 2, 23, 23, 23, 1)
    assert (*without_size[:2], without_size[10]) == (6, "R", -1)


def test_names_come_back_in_order(journal: Journal, path: str) -> None:
    """Any bytes, with their places in a listing."""
    directory = Directory(4, 1, stat.S_IFDIR, 0, 0, 0)
    for ino, name in enumerate((b"z", b"\xff\x00\n", b"a"), 10):
        directory.put(name, ino)
        journal.put_name(directory, name)
    directory.drop(b"z")
    journal.drop_name(4, b"z")
    journal.commit(None, 0)
    journal = again(journal, path)
    found = list(journal.names())
    journal.close()
    assert found == [(4, b"\xff\x00\n", 11, 4), (4, b"a", 12, 5)]


def test_mappings_come_back(journal: Journal, path: str) -> None:
    """Those that were replaced by what became of them."""
    whole = Mapping(0, 8 * PAGE, 7, reserve=False, huge=True)
    parts = [Mapping(0, PAGE, 7, reserve=False, huge=True), Mapping(2 * PAGE, 8 * PAGE, 1)]
    far = Mapping((1 << 62), (1 << 62) + PAGE, 3)
    journal.replace_mappings(5, [], [whole, far])
    journal.replace_mappings(5, [whole], parts)
    journal.replace_mappings(6, [], [whole])
    journal.commit(None, 0)
    journal = again(journal, path)
    found = list(journal.mappings())
    journal.close()
    assert found == [(5, parts[0]), (5, parts[1]), (5, far), (6, whole)]


def test_a_journal_of_schema_2_is_read(journal: Journal, path: str) -> None:
    """Which knew no files: its mappings have none, and new ones may."""
    plain = Mapping(0, PAGE, 3, reserve=False, huge=True)
    journal.close()
    os.unlink(path + TAIL)
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE mapping DROP COLUMN file")
    db.execute("ALTER TABLE inode DROP COLUMN automap")
    db.execute("INSERT INTO mapping VALUES (5, 0, ?, 3, 0, 1)", (PAGE,))
    db.execute("PRAGMA user_version = 2")
    db.commit()
    db.close()
    journal = opened(path)
    of_file = Mapping(PAGE, 2 * PAGE, 1, file=MappedFile(1, 2, 3, 4, "/tmp/file"))
    journal.replace_mappings(5, [], [of_file])
    journal.commit(None, 0)
    journal = again(journal, path)
    found = list(journal.mappings())
    journal.close()
    assert found == [(5, plain), (5, of_file)]


@pytest.mark.parametrize("count", [1, FEW, FEW + 1, 20])
def test_a_dropped_inode_takes_its_mappings(journal: Journal, count: int) -> None:
    """And no other's, however many."""
    mapped = [Mapping(2 * n * PAGE, (2 * n + 1) * PAGE, 3) for n in range(count)]
    for ino in (5, 6):
        journal.save(a_region(ino))
        journal.replace_mappings(ino, [], mapped)
    journal.drop(5, mapped)
    journal.commit(None, 0)
    assert [row[0] for row in journal.inodes()] == [6]
    assert [ino for ino, _mapping in journal.mappings()] == [6] * count


def test_what_was_not_committed_is_gone(journal: Journal, path: str) -> None:
    """The process died within a transaction: nothing of it is there, all before is."""
    journal.save(a_region(5))
    journal.commit(Request(10, 35), 5)
    journal.save(a_region(6))
    journal.drop(5)
    journal = again(journal, path)
    inodes = [row[0] for row in journal.inodes()]
    applied = journal.applied(10)
    journal.close()
    assert (inodes, applied) == ([5], Applied(35, 5))


class Broken(Exception):
    """What the journal's `broken` raises in these tests."""


def test_a_change_is_durable_at_its_end(journal: Journal, path: str) -> None:
    """And not before, with the request that it answers; a change for no request, too."""
    with journal.change(Request(10, 35), 5):
        journal.save(a_region(5))
        assert journal.applied(10) is None
    with journal.change(None):
        journal.save(a_region(6))
    journal = again(journal, path)
    inodes = [row[0] for row in journal.inodes()]
    applied = journal.applied(10)
    journal.close()
    assert (inodes, applied) == ([5, 6], Applied(35, 5))


def test_a_refused_change_leaves_nothing(journal: Journal) -> None:
    """The request is not applied, and the next change is its own."""
    with pytest.raises(NotFound), journal.change(Request(10, 9), 5):
        raise NotFound("no such name")
    with journal.change(None):
        journal.save(a_region(6))
    assert journal.applied(10) is None


def test_a_change_that_changes_nothing_is_remembered(journal: Journal) -> None:
    """As rename(2) of a name onto itself."""
    with journal.change(Request(10, 9), 5):
        pass
    assert journal.applied(10) == Applied(9, 5)


@pytest.mark.parametrize("error", [NotFound("too late"), KeyError("bug")])
def test_a_change_that_breaks_off_is_broken(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Something was recorded, and so something was changed that is not undone."""

    def broken() -> None:
        raise Broken

    monkeypatch.setattr(journal, "broken", broken)

    def change() -> None:
        with journal.change(Request(10, 9), 5):
            journal.save(a_region(5))
            raise error

    with pytest.raises(Broken):
        change()


def test_an_exception_that_is_no_refusal_is_broken(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tables may have changed before the first record."""

    def broken() -> None:
        raise Broken

    monkeypatch.setattr(journal, "broken", broken)
    with pytest.raises(Broken), journal.change(Request(10, 9), 5):
        raise KeyError("bug")


def test_requests_are_remembered(journal: Journal, path: str) -> None:
    """What each was, and the inode number in its answer."""
    for unique in (10, 12, (1 << 63) - 2):
        journal.commit(Request(unique, 9), unique % 100)
    journal = again(journal, path)
    found = [journal.applied(unique) for unique in (10, 12, (1 << 63) - 2, 14)]
    journal.close()
    assert found == [Applied(9, 10), Applied(9, 12), Applied(9, 6), None]


def test_old_requests_make_room(journal: Journal, path: str) -> None:
    """The last ones are kept, and not many more, whatever restarts come in between."""
    last = 5 * REMEMBERED_REQUESTS + 7
    for unique in range(1, last + 1):
        journal.commit(Request(unique, 9), unique)
        if unique % 50 == 0:
            journal = again(journal, path)
    known = [unique for unique in range(1, last + 1) if journal.applied(unique)]
    journal.close()
    assert known == list(range(known[0], last + 1))
    assert REMEMBERED_REQUESTS <= len(known) <= 2 * REMEMBERED_REQUESTS


def test_a_slow_request_is_remembered_as_long_as_others(journal: Journal, path: str) -> None:
    """It has a small number and is applied late; a restart must not make it the oldest."""
    for unique in [*range(100, 300), 4, 300, 6]:
        journal.commit(Request(unique, 39), unique)
    journal = again(journal, path)
    for unique in range(400, 400 + REMEMBERED_REQUESTS - 3):
        journal.commit(Request(unique, 9), unique)
    known = [unique for unique in (4, 6, 300) if journal.applied(unique)]
    journal.close()
    assert known == [4, 6, 300]


def test_another_connection_is_forgotten(journal: Journal) -> None:
    """The numbers of requests begin anew, and it knows no segment."""
    journal.save(a_region(5))
    journal.commit(Request(10, 9), 3)
    with journal.change(None):
        journal.forget_connection()
    assert journal.applied(10) is None
    assert [row[11] for row in journal.inodes()] == [0]


# Between the tail and sqlite


class Killed(BaseException):
    """The process is dead. No `except Exception` may catch it."""


class Dying:
    """A failpoint that ends the process at one step, after some that are let pass."""

    def __init__(self) -> None:
        self.left = -1

    def __call__(self, step: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed(step)


def rows(journal: Journal) -> object:
    """All that it tells, in the order in which it tells it."""
    return (list(journal.inodes()), list(journal.names()), list(journal.mappings()))


def far_away(ino: int) -> Region:
    """One with a time that the tail has no form for."""
    region = a_region(ino)
    region.mtime_ns = 1 << 70
    return region


@pytest.mark.parametrize("step", ["before move", "moved"])
def test_a_process_that_is_killed_while_it_moves_changes(
    journal: Journal, path: str, step: str
) -> None:
    """They are in the tail, or in both: once in what comes back."""

    def killed(at: str) -> None:
        if at == step:
            raise Killed

    directory = Directory(1, 1, 0o755, 0, 0, 0)
    with journal.change(Request(10, 9), 5):
        directory.put(b"first", 5)
        journal.put_name(directory, b"first")
        journal.save(a_region(5))
        journal.replace_mappings(5, [], [Mapping(0, PAGE, 3), Mapping(2 * PAGE, 3 * PAGE, 3)])
    with journal.change(Request(12, 9), 6):
        journal.save(a_region(6))
        journal.drop_name(1, b"first")
        journal.replace_mappings(5, [Mapping(0, PAGE, 3)], [])
        journal.drop(5, [Mapping(2 * PAGE, 3 * PAGE, 3)])
    journal.failpoint = killed
    with pytest.raises(Killed):
        journal.move()
    journal = again(journal, path)
    assert rows(journal) == ([journal_row(6)], [], [])
    assert (journal.applied(10), journal.applied(12)) == (Applied(9, 5), Applied(9, 6))
    journal.close()


def journal_row(ino: int) -> tuple[object, ...]:
    """What is told of `a_region`."""
    return (ino, "R", 0o100640, 11, 12, 3, -1, (1 << 63) - 1, 17, 0, ALIGN, 99, 7, *CREATOR, 3)


CREATOR = (ALICE.pid, ALICE.uid, ALICE.gid)


@pytest.mark.parametrize("kind", ["unusual", "long", "ordinary"])
def test_an_older_change_never_overtakes(path: str, kind: str) -> None:
    """One that the tail has no form or no room for goes to sqlite, and what is in the tail has to be
    there before; a process may be killed at any step of that."""
    for kill in range(1, 10):
        for file in Path(path).parent.iterdir():
            file.unlink()
        journal, dying = opened(path), Dying()
        with journal.change(None):
            journal.save(Directory(6, 1, 0o755, 0, 0, 0))
        journal.failpoint = dying
        dying.left = kill
        statements = 2000 if kind == "long" else STATEMENTS
        with suppress(Killed), journal.change(Request(10, 9), 6, statements=statements):
            journal.save(far_away(6) if kind == "unusual" else a_region(6))
            if kind == "long":
                wide = [Mapping(n * PAGE, (n + 1) * PAGE, 3) for n in range(2000)]
                journal.replace_mappings(6, [], wide)
        journal = again(journal, path)
        ((_ino, letter, *_),) = journal.inodes()
        applied = journal.applied(10)
        count = len(list(journal.mappings()))
        journal.close()
        assert letter == ("R" if applied else "D")
        assert count == (2000 if applied and kind == "long" else 0)


Write = Callable[[Journal], None]


class Changes:
    """Changes by chance, each to be made in as many journals as one likes."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._directory = Directory(1, 1, 0o755, 0, 0, 0)
        self._mapped: dict[int, list[Mapping]] = {}

    def next(self) -> list[Write]:
        """What one writes."""
        kinds = (self._save, self._drop, self._name, self._map)
        number = self._chance.randrange(1, 4)
        return [self._chance.choice(kinds)(self._chance.randrange(2, 12)) for _ in range(number)]

    def _save(self, ino: int) -> Write:
        unusual = self._chance.random() < 0.1
        return lambda journal: journal.save(far_away(ino) if unusual else a_region(ino))

    def _drop(self, ino: int) -> Write:
        mapped = self._mapped.pop(ino, [])
        return lambda journal: journal.drop(ino, mapped)

    def _name(self, ino: int) -> Write:
        name = b"%d" % self._chance.randrange(20)
        if self._chance.random() < 0.5:
            return lambda journal: journal.drop_name(1, name)
        if self._directory.find(name) is None:
            self._directory.put(name, ino)
        return lambda journal: journal.put_name(self._directory, name)

    def _map(self, ino: int) -> Write:
        old = self._mapped.get(ino, [])
        starts = sorted(self._chance.sample(range(8), self._chance.randrange(1, 7)))
        new = [Mapping(start * PAGE, (start + 1) * PAGE, 3) for start in starts]
        self._mapped[ino] = new
        return lambda journal: journal.replace_mappings(ino, old, new)


def make(journal: Journal, unique: int, writes: list[Write]) -> None:
    """A change, for a request."""
    with journal.change(Request(unique, 9), unique):
        for write in writes:
            write(journal)


def test_whatever_is_changed_and_whenever_it_is_killed(path: str) -> None:
    """What comes back is what a journal has that is never killed."""
    chance = random.Random(1)
    changes, dying = Changes(chance), Dying()
    reference, journal = opened(f"{path}-reference"), opened(path)
    for unique in range(2, 800):
        writes = changes.next()
        make(reference, unique, writes)
        journal.failpoint = dying
        dying.left = chance.randrange(6)
        try:
            make(journal, unique, writes)
        except Killed:
            journal = again(journal, path)
            if journal.applied(unique) is None:
                make(journal, unique, writes)
    dying.left = -1
    assert rows(journal) == rows(reference)
    assert [journal.applied(unique) for unique in (750, 799)] == [Applied(9, 750), Applied(9, 799)]
    journal.close()
    reference.close()


def test_a_tail_that_cannot_be_read_is_refused(journal: Journal, path: str) -> None:
    """Torn, of another journal, or with what is no record in it."""
    with journal.change(None):
        journal.save(a_region(5))
    journal.close()
    whole = Path(path + TAIL).read_bytes()
    foreign = memoryview(bytearray(tail.SIZE))
    number = int.from_bytes(whole[8:16], "little")
    tail.Tail(foreign, number).append(b"Dear diary")
    for content in (b"Dear diary, ", whole[:30] + b"x", bytes(foreign), whole[:8] + b"\1" * 8):
        Path(path + TAIL).write_bytes(content.ljust(tail.SIZE, b"\0"))
        with pytest.raises(DamagedTailError, match="last changes"):
            opened(path)
    Path(path + TAIL).write_bytes(whole)
    journal = opened(path)
    assert [row[0] for row in journal.inodes()] == [5]
    journal.close()


def test_a_later_version_takes_up_the_tail(
    journal: Journal, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its schema is another, but it is the same journal."""
    journal.move()
    with journal.change(None):
        journal.save(a_region(5))
    journal.close()
    monkeypatch.setattr(schema_module, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    monkeypatch.setitem(schema_module._STEPS, SCHEMA_VERSION, "")
    journal = opened(path)
    assert [row[0] for row in journal.inodes()] == [5]
    journal.close()


# What cannot be read


def write(path: str, content: bytes) -> None:
    """A file of another's making."""
    Path(path).write_bytes(content)


def refusal(path: str) -> str:
    """Why it is not opened; the file is as it was."""
    before = Path(path).read_bytes()
    with pytest.raises(JournalError) as caught:
        opened(path)
    assert Path(path).read_bytes() == before
    assert path in str(caught.value)
    return type(caught.value).__name__


def test_a_foreign_file_is_refused(path: str) -> None:
    """Text, or bytes of no meaning."""
    write(path, b"this is no database\n" * 100)
    assert refusal(path) == "DamagedJournalError"


def test_a_foreign_database_is_refused(path: str) -> None:
    """Another program's, with tables of its own."""
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE inode (x)")
    db.commit()
    db.close()
    assert refusal(path) == "DamagedJournalError"


def test_an_empty_file_is_refused(path: str) -> None:
    """It was there, so something was lost."""
    write(path, b"")
    assert refusal(path) == "DamagedJournalError"


def test_a_newer_journal_is_refused(journal: Journal, path: str) -> None:
    """With its own exception: it is not damaged, and the sentence names both ways out."""
    journal.close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    assert refusal(path) == "NewerJournalError"
    with pytest.raises(NewerJournalError, match=r"later version.*fresh"):
        opened(path)


def filled(path: str) -> None:
    """A journal of some pages, all of it in the main file."""
    journal = opened(path)
    for ino in range(5, 305):
        journal.save(a_region(ino))
        journal.replace_mappings(ino, [], [Mapping(0, PAGE, 3)])
    journal.commit(None, 0)
    journal.close()


def test_a_torn_journal_is_refused(path: str) -> None:
    """A page in the middle holds something else."""
    filled(path)
    content = bytearray(Path(path).read_bytes())
    middle = len(content) // 2 // 1024 * 1024
    content[middle : middle + 1024] = b"\xa5" * 1024
    write(path, bytes(content))
    assert refusal(path) == "DamagedJournalError"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_short_journal_is_refused(path: str, part: float) -> None:
    """Its end is missing."""
    filled(path)
    content = Path(path).read_bytes()
    write(path, content[: int(len(content) * part) // 1024 * 1024])
    assert refusal(path) == "DamagedJournalError"


def test_a_journal_in_no_directory(path: str) -> None:
    """It can neither be read nor made."""
    with pytest.raises(JournalError):
        opened(path + "/there/is/none")
