"""A server's files: opened, set aside where they cannot be read, and the seam for crashes."""

from __future__ import annotations

import gc
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from msharefs.core.journal import Journal, Request
from msharefs.core.schema import SCHEMA_VERSION, JournalError, NewerJournalError
from msharefs.daemon.storage import (
    Files,
    StateError,
    new_area,
    open_area,
    open_handles,
    open_journal,
    write_file,
)


def opened(path: str) -> Journal:
    """As a server does it."""
    return open_journal(path, lambda step: None, lambda: None)


def test_a_journal_is_opened_again(tmp_path: Path) -> None:
    """What was in it is there."""
    path = str(tmp_path / "journal")
    journal = opened(path)
    journal.commit(Request(10, 9), 3)
    journal.close()
    journal = opened(path)
    assert journal.applied(10) is not None
    journal.close()


def test_a_journal_that_cannot_be_read_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is; a new one is begun, and the loss is logged."""
    path = tmp_path / "journal"
    path.write_bytes(b"torn " * 1000)
    journal = opened(str(path))
    assert list(journal.inodes()) == []
    journal.close()
    (aside,) = tmp_path.glob("journal.bad-*")
    assert aside.read_bytes() == b"torn " * 1000
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "its regions are lost" in caplog.text


def test_a_journal_that_cannot_be_opened_now_is_left_alone(tmp_path: Path) -> None:
    """Nothing is known to be wrong with it: where descriptors or the disk are used up, a later
    server will read it."""
    path = tmp_path / "journal"
    path.mkdir()
    with pytest.raises(JournalError, match="unable to open"):
        opened(str(path))
    assert os.listdir(tmp_path) == ["journal"]


def test_a_journal_of_other_tables_is_set_aside(tmp_path: Path) -> None:
    """Its version is one of ours, but what is in it is not."""
    path = tmp_path / "journal"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        db.execute("CREATE TABLE other (x)")
    opened(str(path)).close()
    assert list(tmp_path.glob("journal.bad-*"))


def test_a_file_that_cannot_be_had_is_a_sentence(tmp_path: Path) -> None:
    """With its path and the system's reason."""
    path = str(tmp_path / "missing" / "file")
    sentence = f"{path} cannot be written: No such file or directory"
    for attempt in (
        lambda: open_area(path, 4096),
        lambda: open_handles(path),
        lambda: write_file(path, b""),
    ):
        with pytest.raises(StateError) as caught:
            attempt()
        assert str(caught.value) == sentence


def test_the_files_of_a_journal_are_made_longer_only(tmp_path: Path) -> None:
    """Really on disk, and what is in them stays."""
    path = tmp_path / "journal"
    path.write_bytes(b"x" * 10)
    log = tmp_path / "journal-wal"
    log.touch()
    files = Files(str(path))
    files.allocate("", 100_000)
    files.allocate("", 10)
    assert path.stat().st_size == 100_000
    assert path.stat().st_blocks * 512 >= 100_000
    assert path.read_bytes()[:12] == b"x" * 10 + b"\0\0"
    # Its descriptors are had with the first room.
    log.unlink()
    files.allocate("-wal", 10)
    assert not log.exists()


def test_a_new_journal_is_not_disturbed_by_the_old_one(tmp_path: Path) -> None:
    """sqlite3 removes a write-ahead log by its name when its file is closed: that must not
    be the log of the journal that has the name now."""
    path = tmp_path / "journal"
    path.write_bytes(b"torn " * 1000)
    (tmp_path / "journal-wal").write_bytes(b"log " * 1000)
    journal = opened(str(path))
    gc.collect()
    journal.commit(Request(10, 9), 3)
    log = (tmp_path / "journal-wal").read_bytes()
    assert log.count(b"log ") < 10
    assert len(log) > 1000
    journal.close()


def test_a_newer_journal_is_left_alone(tmp_path: Path) -> None:
    """It is not damaged: whoever installs the newer version again has it back."""
    path = str(tmp_path / "journal")
    opened(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(NewerJournalError):
        opened(path)
    assert sorted(os.listdir(tmp_path)) == before


def test_handle_counts_are_in_a_file(tmp_path: Path) -> None:
    """Of its owner alone; it grows, and what was in it stays."""
    path = tmp_path / "handles"
    counts = open_handles(str(path))
    slots = [counts.new_slot() for _ in range(5000)]
    for slot in slots:
        counts.set(slot, slot + 1, 2)
    assert path.stat().st_mode & 0o777 == 0o600
    later = open_handles(str(path))
    assert [count for count, _, _ in later.counts()[: len(slots)]] == [slot + 1 for slot in slots]


def test_an_area_outlives_the_process_and_not_the_connection(tmp_path: Path) -> None:
    """What is in it means other requests on another connection."""
    path = str(tmp_path / "area")
    new_area(path, 8)[:3] = b"old"
    assert bytes(open_area(path, 8)) == b"old" + bytes(5)
    assert bytes(new_area(path, 8)) == bytes(8)
    assert bytes(open_area(path, 8)) == bytes(8)
    assert (tmp_path / "area").stat().st_mode & 0o777 == 0o600
