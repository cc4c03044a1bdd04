"""Records of files that are written back: their form, and what their digests say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.files.record import DIGEST, HEAD, PAGE, Owner, Record, differing, judge, runs, size_of
from msharefs.files.recorder import Recorder

OFFSET = 16 * PAGE


@pytest.fixture
def fd() -> Iterator[int]:
    """Memory for a record."""
    fd = os.memfd_create("record")
    yield fd
    os.close(fd)


def new_record(fd: int, pages: int) -> Record:
    """Of so many pages of zeros, from an offset on."""
    return Record.begin(fd, Owner(1001, 1002, [5, 6], OFFSET, 1 << 63), pages * PAGE)


def test_who_it_belongs_to_is_read_again(fd: int) -> None:
    """By another process, which has the memory alone."""
    owner = Owner(1001, 1002, [5, 6], OFFSET, 1 << 63)
    Record.begin(fd, owner, 3 * PAGE).note(OFFSET + PAGE, b"x" * DIGEST)
    assert os.stat(fd).st_size == size_of(3 * PAGE) == HEAD + 3 * DIGEST
    again = Record(fd)
    assert again.owner == owner
    assert again.noted(OFFSET + PAGE, PAGE) == b"x" * DIGEST


def test_what_was_never_noted_is_zeros(fd: int) -> None:
    """Between pages that were noted as well, and it takes no memory."""
    pages = 100_000
    record = new_record(fd, pages)
    zeros = record.digests(memoryview(bytes(PAGE)))
    assert record.noted(OFFSET, pages * PAGE) == zeros * pages
    assert record.next_noted(OFFSET) is None
    record.note(OFFSET + 50_000 * PAGE, b"x" * DIGEST)
    noted = record.noted(OFFSET + 49_999 * PAGE, 3 * PAGE)
    assert noted == zeros + b"x" * DIGEST + zeros
    found = record.next_noted(OFFSET + 7 * PAGE)
    assert found is not None
    assert found % PAGE == 0
    assert 49_000 * PAGE < found - OFFSET <= 50_000 * PAGE
    assert os.stat(fd).st_blocks * 512 <= HEAD + PAGE


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


def test_too_many_groups(fd: int) -> None:
    """Refused, with nothing written."""
    with pytest.raises(ValueError, match="groups are too many"):
        Record.begin(fd, Owner(1, 1, list(range(20_000)), 0, 1), PAGE)
    assert os.stat(fd).st_size == 0


def test_another_record_has_other_digests(fd: int) -> None:
    """Of the same page: the seed is a record's own."""
    page = memoryview(bytes(PAGE))
    first, second = (
        Record.begin(fd, Owner(1, 1, [], 0, seed), PAGE).digests(page) for seed in (1, 2)
    )
    assert first != second


@pytest.mark.parametrize("place", [0, PAGE - 1, 3 * PAGE + 17, 7 * PAGE])
def test_one_byte_is_seen(fd: int, place: int) -> None:
    """And in which page it is."""
    record = new_record(fd, 8)
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
        ("aaaa", "bcae", "aaaa", [0, PAGE, 3 * PAGE], []),
        ("aaa", "bcd", "efg", [0, PAGE, 2 * PAGE], [0, PAGE, 2 * PAGE]),
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


def test_random_pages_are_told_apart(fd: int) -> None:
    """A thousand of them."""
    record = new_record(fd, 1)
    pages = os.urandom(1000 * PAGE)
    found = record.digests(memoryview(pages))
    assert len({found[at : at + DIGEST] for at in range(0, len(found), DIGEST)}) == 1000
