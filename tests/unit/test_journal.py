"""The journal by itself: what is written comes back, and what cannot be read is refused."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from msharefs.core.errors import NotFound
from msharefs.core.inode import Directory, InfoFile
from msharefs.core.journal import (
    REMEMBERED_REQUESTS,
    SCHEMA_VERSION,
    Applied,
    Journal,
    JournalError,
    NewerJournalError,
    Request,
)
from msharefs.core.layout import Mapping
from msharefs.core.region import Region
from msharefs.daemon.storage import Files
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
    return Journal(path, lambda step: None, not_expected, Files(path).allocate)


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
    assert region == (5, "R", *attributes, 0, ALIGN, 99, 7, *creator)
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


def test_a_dropped_inode_takes_its_mappings(journal: Journal) -> None:
    """And no other's."""
    for ino in (5, 6):
        journal.save(a_region(ino))
        journal.replace_mappings(ino, [], [Mapping(0, PAGE, 3)])
    journal.drop(5)
    journal.commit(None, 0)
    assert [row[0] for row in journal.inodes()] == [6]
    assert [ino for ino, _mapping in journal.mappings()] == [6]


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
