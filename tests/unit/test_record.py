"""Records of files that are written back: their form, and what their digests say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msharefs.files.record import DIGEST, HEAD, PAGE, Owner, Record, differing, judge, runs, size_of
from msharefs.files.recorder import Recorder

OFFSET = 16 * PAGE


def new_record(pages: int) -> Record:
    """Of so many pages of zeros, from an offset on."""
    memory = memoryview(bytearray(size_of(pages * PAGE)))
    record = Record.begin(memory, Owner(1001, 1002, [5, 6], OFFSET, 1 << 63))
    record.note(OFFSET, record.digests(memoryview(bytes(pages * PAGE))))
    return record


def test_who_it_belongs_to_is_read_again() -> None:
    """By another process, which has the memory alone."""
    memory = memoryview(bytearray(size_of(3 * PAGE)))
    assert len(memory) == HEAD + 3 * DIGEST
    owner = Owner(1001, 1002, [5, 6], OFFSET, 1 << 63)
    Record.begin(memory, owner).note(OFFSET + PAGE, b"x" * DIGEST)
    again = Record(memory)
    assert again.owner == owner
    assert again.noted(OFFSET + PAGE, PAGE) == b"x" * DIGEST


def test_a_file_that_is_emptied_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has a record as an empty one has."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    real = os.fstat

    def fstat(fd: int) -> os.stat_result:
        seen = real(fd)
        os.truncate(path, 0)
        return seen

    with open(path, "r+b") as file, Recorder(1001, 1002, []) as recorder:
        monkeypatch.setattr(os, "fstat", fstat)
        recorder.begin(file.fileno(), 0, PAGE)
        assert os.stat(recorder.fileno()).st_size == size_of(PAGE)


def test_too_many_groups() -> None:
    """Refused, with nothing written."""
    memory = bytearray(size_of(PAGE))
    with pytest.raises(ValueError, match="groups are too many"):
        Record.begin(memoryview(memory), Owner(1, 1, list(range(20_000)), 0, 1))
    assert not any(memory)


def test_another_record_has_other_digests() -> None:
    """Of the same page: the seed is a record's own."""
    page = memoryview(bytes(PAGE))
    first, second = (
        Record.begin(memoryview(bytearray(size_of(PAGE))), Owner(1, 1, [], 0, seed)).digests(page)
        for seed in (1, 2)
    )
    assert first != second


@pytest.mark.parametrize("place", [0, PAGE - 1, 3 * PAGE + 17, 7 * PAGE])
def test_one_byte_is_seen(place: int) -> None:
    """And in which page it is."""
    record = new_record(8)
    pages = bytearray(8 * PAGE)
    pages[place] = 1
    found = differing(record.noted(OFFSET, 8 * PAGE), record.digests(memoryview(pages)))
    assert found == [place // PAGE * PAGE]


def digests(text: str) -> bytes:
    """Of pages that letters stand for."""
    return b"".join(letter.encode() * DIGEST for letter in text)


@pytest.mark.parametrize(
    ("noted", "region", "file", "written", "both"),
    [
        ("a", "b", "a", [0], []),
        ("a", "b", "c", [0], [0]),
        ("a", "b", "b", [], []),
        ("aaa", "bbb", "abc", [0, 2 * PAGE], [2 * PAGE]),
        ("aaaa", "bcde", "aaaa", [0, PAGE, 2 * PAGE, 3 * PAGE], []),
    ],
)
def test_what_becomes_of_changed_pages(
    noted: str, region: str, file: str, written: list[int], both: list[int]
) -> None:
    """What is in the file already is not written; what both have changed is."""
    assert judge(digests(noted), digests(region), digests(file)) == (written, both)


def test_pages_side_by_side_are_one_run() -> None:
    """However many."""
    assert runs([]) == []
    assert runs([0, PAGE, 3 * PAGE, 5 * PAGE, 6 * PAGE]) == [
        (0, 2 * PAGE),
        (3 * PAGE, PAGE),
        (5 * PAGE, 2 * PAGE),
    ]


def test_random_pages_are_told_apart() -> None:
    """A thousand of them."""
    record = new_record(1)
    pages = os.urandom(1000 * PAGE)
    found = record.digests(memoryview(pages))
    assert len({found[at : at + DIGEST] for at in range(0, len(found), DIGEST)}) == 1000
