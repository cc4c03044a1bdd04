"""A helper that writes, over files and memory of this process: what is stored, noted and counted."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.files import comparison
from msharefs.files.comparison import BATCH, counted
from msharefs.files.record import PAGE, Owner, Record
from msharefs.files.writer import Writer
from msharefs.linux import syscalls

PAGES = 600
"""More than two batches."""
SIZE = PAGES * PAGE
SHORT = SIZE - PAGE - 1000
"""Bytes of the file."""


class Desk:
    """A file, the memory of a region that has it, and its record."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = bytearray(os.urandom(SHORT))
        path.write_bytes(self.data)
        self.file = os.open(path, os.O_RDWR)
        self.segment = os.memfd_create("segment")
        os.ftruncate(self.segment, SIZE + PAGE)
        self.memory = mmap.mmap(self.segment, SIZE + PAGE)
        self.memory[PAGE : PAGE + SHORT] = bytes(self.data)
        self.noted = os.memfd_create("record")
        self.record = Record.begin(self.noted, Owner(0, 0, [], 0, 7), SIZE)
        self.record.note(0, self.record.digests(memoryview(self.memory)[PAGE:]))

    def write(self) -> tuple[int, int, int, int]:
        """All of it. Returns what was written, on both sides, unwritten, and why."""
        work = Writer(self.file, self.record, self.segment)
        for _ in work.write(PAGE, 0, SIZE):
            pass
        tally = work.tally
        return tally.written, tally.both, tally.unwritten, tally.error

    def count(self) -> int:
        """What was changed of all."""

        def length() -> int:
            return os.fstat(self.file).st_size

        return sum(counted(self.segment, self.record, PAGE, 0, SIZE, length))

    def change(self, page: int, text: bytes, at: int = 0) -> None:
        """In the region; the file is to have it, as far as it goes."""
        place = page * PAGE + at
        self.memory[PAGE + place : PAGE + place + len(text)] = text
        text = text[: max(0, len(self.data) - place)]
        self.data[place : place + len(text)] = text


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """In step."""
    desk = Desk(tmp_path / "file")
    yield desk
    os.close(desk.file)
    os.close(desk.segment)
    os.close(desk.noted)


def test_nothing_is_written_that_was_not_changed(desk: Desk) -> None:
    """Not even what others have changed in the file."""
    os.pwrite(desk.file, b"others", 5 * PAGE)
    assert desk.write() == (0, 0, 0, 0)
    assert os.pread(desk.file, 6, 5 * PAGE) == b"others"


def test_pages_that_were_changed(desk: Desk) -> None:
    """Single ones, at both ends of batches and in the last page; once."""
    pages = [0, 1, BATCH // PAGE - 1, BATCH // PAGE, 300, PAGES - 2]
    for page in pages:
        desk.change(page, b"changed", 10)
    assert desk.write() == (len(pages) * PAGE, 0, 0, 0)
    assert desk.path.read_bytes() == desk.data
    assert desk.write() == (0, 0, 0, 0)


def test_what_was_changed_is_counted(desk: Desk) -> None:
    """As it would be written, without it: not what others have changed in the file, nor what is behind its end."""
    os.pwrite(desk.file, b"others", 5 * PAGE)
    assert desk.count() == 0
    for page in (0, BATCH // PAGE, PAGES - 2, PAGES - 1):
        desk.change(page, b"changed", 10)
    before = desk.path.read_bytes()
    assert desk.count() == 3 * PAGE
    assert desk.path.read_bytes() == before
    assert desk.write() == (3 * PAGE, 0, 0, 0)
    assert desk.count() == 0
    os.truncate(desk.path, 0)
    desk.change(1, b"changed")
    assert desk.count() == 0


def test_what_is_behind_the_end(desk: Desk) -> None:
    """Goes nowhere, and is no change of the last page; it is written once the file reaches there."""
    desk.change(PAGES - 1, b"behind")
    desk.change(PAGES - 2, b"x" * 200, PAGE - 200)
    assert desk.write() == (0, 0, 0, 0)
    assert desk.path.read_bytes() == desk.data
    os.truncate(desk.path, SIZE)
    written, both, *rest = desk.write()
    assert (written, both, rest) == (2 * PAGE, 0, [0, 0])
    assert desk.path.read_bytes() == bytes(desk.memory[PAGE:])


def test_both_sides(desk: Desk) -> None:
    """The region's page goes over what others wrote, and is counted."""
    os.pwrite(desk.file, b"others", 5 * PAGE)
    desk.change(5, b"region")
    desk.change(6, b"region")
    assert desk.write() == (2 * PAGE, PAGE, 0, 0)
    assert desk.path.read_bytes() == desk.data


@pytest.mark.parametrize("size", [3 * PAGE + 100, BATCH - 1, BATCH + 1])
def test_a_file_that_is_cut_in_a_page_that_nobody_changed(desk: Desk, size: int) -> None:
    """By somebody who writes it anew: the page stays as it is in the file, and when that grows again."""
    os.truncate(desk.path, size)
    os.pwrite(desk.file, b"anew", size // PAGE * PAGE)
    anew = desk.path.read_bytes()
    assert desk.write() == (0, 0, 0, 0)
    assert desk.path.read_bytes() == anew
    os.truncate(desk.path, SHORT)
    assert desk.write() == (0, 0, 0, 0)
    assert desk.path.read_bytes() == anew.ljust(SHORT, b"\0")


def test_a_file_that_is_cut_in_a_page_that_is_changed(desk: Desk) -> None:
    """The region's page goes there, as far as the file goes, and is counted."""
    desk.change(3, b"region")
    os.truncate(desk.path, 3 * PAGE + 100)
    assert desk.write() == (PAGE, PAGE, 0, 0)
    assert desk.path.read_bytes() == desk.data[: 3 * PAGE + 100]
    assert desk.write() == (0, 0, 0, 0)


def test_what_others_append_meanwhile(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the look at the file's length: it is theirs, though it lies in a page that is written."""
    desk.change(PAGES - 2, b"region")
    real = desk.record.digests

    def digests(pages: memoryview) -> bytes:
        # The last batch.
        if len(pages) < BATCH:
            os.pwrite(desk.file, b"appended", SHORT)
        return real(pages)

    monkeypatch.setattr(desk.record, "digests", digests)
    assert desk.write()[2:] == (0, 0)
    assert desk.path.read_bytes() == desk.data + b"appended"
    assert desk.write() == (0, 0, 0, 0)


def test_a_file_that_grows_between_two_batches(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the region has behind the end that it had goes there, as it would if it had grown before."""
    before = BATCH + PAGE + 5
    os.truncate(desk.path, before)
    for page in (1, before // PAGE):
        desk.change(page, b"region", 100)
    real = desk.record.note

    def note(offset: int, digests: bytes) -> None:
        if offset < BATCH:
            os.truncate(desk.path, before + PAGE)
        real(offset, digests)

    monkeypatch.setattr(desk.record, "note", note)
    assert desk.write()[2:] == (0, 0)
    assert os.pread(desk.file, 6, before // PAGE * PAGE + 100) == b"region"


def test_all_of_it(desk: Desk) -> None:
    """In runs as long as batches."""
    desk.change(0, os.urandom(SIZE))
    written, both, unwritten, error = desk.write()
    assert (written, both, unwritten, error) == (SIZE - PAGE, 0, 0, 0)
    assert desk.path.read_bytes() == desk.data


@pytest.mark.parametrize("size", [0, 1, PAGE, 300 * PAGE + 5])
def test_a_file_that_became_shorter(desk: Desk, size: int) -> None:
    """It stays so; what has no place is neither written nor wrong."""
    desk.change(0, b"x" * SHORT)
    os.truncate(desk.path, size)
    written, _both, unwritten, error = desk.write()
    assert (written, unwritten, error) == (-(-size // PAGE) * PAGE, 0, 0)
    assert desk.path.read_bytes() == b"x" * size


def test_a_file_that_is_cut_while_a_page_is_stored(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the look at its length: the kernel does not store beyond its end."""
    desk.change(0, b"x" * SHORT)
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd not in (desk.file, desk.segment):
            os.truncate(desk.path, 3 * PAGE + 5)
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    written, _both, unwritten, error = desk.write()
    assert (written, unwritten, error) == (4 * PAGE, 0, 0)
    assert desk.path.read_bytes() == b"x" * (3 * PAGE + 5)


def test_a_file_that_is_short_at_each_try_and_long_after_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No error: what was behind its end when it was cut is not in the file, and is written by the next sync."""
    desk.change(0, b"x" * SHORT)
    real_read, real_size = os.preadv, Writer._size

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd not in (desk.file, desk.segment):
            os.truncate(desk.path, 3 * PAGE + 5)
        return real_read(fd, buffers, offset)

    def size(work: Writer) -> int:
        os.truncate(desk.path, SHORT)
        return real_size(work)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        patch.setattr(Writer, "_size", size)
        written, _both, unwritten, error = desk.write()
    assert (written, unwritten, error) == (4 * PAGE, 0, 0)
    os.truncate(desk.path, SHORT)
    written, _both, unwritten, error = desk.write()
    assert (written, unwritten, error) == (SIZE - 5 * PAGE, 0, 0)
    assert desk.path.read_bytes()[4 * PAGE :] == b"x" * (SHORT - 4 * PAGE)


def test_a_file_that_is_cut_where_room_cannot_be_asked_for(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And made longer again: as on ext2, which has no fallocate(2), the next try stores the page."""
    desk.change(0, b"x" * SHORT)
    real, cuts = os.preadv, [4 * PAGE]

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd in (desk.file, desk.segment) or not cuts:
            return real(fd, buffers, offset)
        os.truncate(desk.path, cuts.pop())
        try:
            return real(fd, buffers, offset)
        finally:
            os.truncate(desk.path, SHORT)

    def have_room(fd: int, start: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(syscalls, "have_room", have_room)
    written, _both, unwritten, error = desk.write()
    assert (written, unwritten, error) == (SIZE - PAGE, 0, 0)
    assert desk.path.read_bytes() == b"x" * SHORT


def test_a_kill_between_the_store_and_the_note(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next helper finds the page in the file, and only notes it."""
    desk.change(5, b"region")

    def note(offset: int, digests: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(desk.record, "note", note)
        with pytest.raises(KeyboardInterrupt):
            desk.write()
    assert desk.path.read_bytes() == desk.data
    assert desk.write() == (0, 0, 0, 0)
    os.pwrite(desk.file, b"others", 5 * PAGE)
    assert desk.write() == (0, 0, 0, 0)
    assert os.pread(desk.file, 6, 5 * PAGE) == b"others"


def test_some_pages_have_no_room(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says when it is asked for room is the reason; the others are written, and what is
    missing is tried again the next time."""
    for page in range(4, 8):
        desk.change(page, b"region")
    full = {5, 7}
    real_read, real_room = os.preadv, syscalls.have_room

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd in (desk.file, desk.segment):
            return real_read(fd, buffers, offset)
        done = 0
        (view,) = buffers
        for place in range(0, len(view), PAGE):
            if (offset + place) // PAGE in full:
                break
            done += real_read(fd, [view[place : place + PAGE]], offset + place)
        return done

    def have_room(fd: int, start: int, size: int) -> None:
        if start // PAGE in full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_room(fd, start, size)

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", preadv)
        patched.setattr(syscalls, "have_room", have_room)
        assert desk.write() == (2 * PAGE, 0, 2 * PAGE, errno.ENOSPC)
    for page, there in ((4, True), (5, False), (6, True), (7, False)):
        assert (os.pread(desk.file, 6, page * PAGE) == b"region") is there
    assert desk.write() == (2 * PAGE, 0, 0, 0)
    assert desk.path.read_bytes() == desk.data


def test_a_sealed_file(desk: Desk) -> None:
    """Nothing of it, and the reason is mmap's."""
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(sealed, desk.data)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    os.dup2(sealed, desk.file, inheritable=False)
    os.close(sealed)
    desk.change(3, b"region")
    assert desk.write() == (0, 0, PAGE, errno.EPERM)


def test_a_file_that_cannot_be_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO, and what is not known is not written over."""
    desk.change(3, b"region")
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd == desk.file:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    assert desk.write() == (0, 0, PAGE, errno.EIO)


def test_a_part_of_a_region(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what lies beside it, also where it is looked at in several windows."""
    monkeypatch.setattr(comparison, "WINDOW", 3 * PAGE)
    before = desk.path.read_bytes()
    desk.change(0, os.urandom(SHORT))
    work = Writer(desk.file, desk.record, desk.segment)
    for _ in work.write(PAGE + 5 * PAGE, 5 * PAGE, 8 * PAGE):
        pass
    assert work.tally.written == 8 * PAGE
    part = slice(5 * PAGE, 13 * PAGE)
    expected = bytearray(before)
    expected[part] = desk.data[part]
    assert desk.path.read_bytes() == expected
    assert desk.write()[0] == SIZE - PAGE - 8 * PAGE


def test_a_file_that_is_read_in_small_pieces(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in step is not taken for changed by others."""
    for page in (3, 4, PAGES - 2):
        desk.change(page, b"region")
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd == desk.file:
            buffers = [buffers[0][:1000]]
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    assert desk.write() == (3 * PAGE, 0, 0, 0)
    assert desk.path.read_bytes() == desk.data


@pytest.mark.parametrize("asked", [errno.ENOSPC, errno.EOPNOTSUPP])
def test_a_page_of_both_that_has_no_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    """It is not written over, nor counted so. Where room cannot be asked for the reason is EIO."""
    os.pwrite(desk.file, b"others", 5 * PAGE)
    desk.change(5, b"region")
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        if fd not in (desk.file, desk.segment):
            raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
        return real(fd, buffers, offset)

    def have_room(fd: int, start: int, size: int) -> None:
        raise OSError(asked, os.strerror(asked))

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        patch.setattr(syscalls, "have_room", have_room)
        why = errno.ENOSPC if asked == errno.ENOSPC else errno.EIO
        assert desk.write() == (0, 0, PAGE, why)
    assert os.pread(desk.file, 6, 5 * PAGE) == b"others"
    assert desk.write() == (PAGE, PAGE, 0, 0)
