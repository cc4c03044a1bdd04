"""Time stamps, on any directory that keeps to POSIX as Linux does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conformance.names import make
from tests.helpers.raw import opened

OLD = 1_000_000_000 * 10**9 + 123_456_789
# The kernel stamps with a clock that may be a tick behind.
TICK = 20_000_000


@contextmanager
def stamps(path: Path, *expected: str) -> Iterator[None]:
    """Of mtime and ctime of `path`, those named become now in the block, the others stay."""
    os.utime(path, ns=(OLD, OLD))
    before = path.stat()
    start = time.time_ns() - TICK
    yield
    after = path.stat()
    end = time.time_ns() + TICK
    assert ("mtime" in expected) == (after.st_mtime_ns != before.st_mtime_ns)
    for name in ("st_mtime_ns", "st_ctime_ns"):
        if name[3:-3] in expected:
            assert start <= getattr(after, name) <= end, name
    if "ctime" not in expected:
        assert after.st_ctime_ns == before.st_ctime_ns


def check_new_file_has_the_time_of_its_making(root: Path) -> None:
    """N1, N2: all three stamps of a new file and directory are now."""
    start = time.time_ns() - TICK
    make(root / "file")
    (root / "directory").mkdir()
    end = time.time_ns() + TICK
    for path in (root / "file", root / "directory"):
        seen = path.stat()
        for stamp in (seen.st_atime_ns, seen.st_mtime_ns, seen.st_ctime_ns):
            assert start <= stamp <= end


def check_directory_is_stamped_by_its_names(root: Path) -> None:
    """N1, N2: create, mkdir, link, rename, unlink and rmdir set the parent's mtime and ctime."""
    directory = root / "parent"
    directory.mkdir()
    file = directory / "file"
    with stamps(directory, "mtime", "ctime"):
        make(file)
    with stamps(directory, "mtime", "ctime"):
        os.link(file, directory / "link")
    with stamps(directory, "mtime", "ctime"):
        os.rename(file, directory / "renamed")
    with stamps(directory, "mtime", "ctime"):
        os.unlink(directory / "link")
    with stamps(directory, "mtime", "ctime"):
        os.mkdir(directory / "below")
    with stamps(directory, "mtime", "ctime"):
        os.rmdir(directory / "below")


def check_rename_stamps_both_directories(root: Path) -> None:
    """N1, N2: a move between directories stamps both."""
    for name in ("from", "to"):
        (root / name).mkdir()
    make(root / "from" / "file")
    with stamps(root / "from", "mtime", "ctime"), stamps(root / "to", "mtime", "ctime"):
        os.rename(root / "from" / "file", root / "to" / "file")


def check_file_is_stamped_by_its_attributes(root: Path) -> None:
    """N1, N2: chmod, chown, link and unlink of another name set ctime and leave mtime."""
    file = make(root / "file")
    with stamps(file, "ctime"):
        file.chmod(0o600)
    with stamps(file, "ctime"):
        os.chown(file, os.geteuid(), os.getegid())
    with stamps(file, "ctime"):
        os.link(file, root / "link")
    with stamps(file, "ctime"):
        os.unlink(root / "link")


def check_truncating_stamps_an_empty_file(root: Path) -> None:
    """N1, N2: O_TRUNC and ftruncate to 0 set mtime and ctime, though nothing goes away."""
    file = make(root / "file")
    with stamps(file, "mtime", "ctime"), opened(file, os.O_WRONLY | os.O_TRUNC):
        pass
    with opened(file, os.O_WRONLY) as fd, stamps(file, "mtime", "ctime"):
        os.ftruncate(fd, 0)


def check_looking_changes_no_stamp(root: Path) -> None:
    """N1, N2: stat, open and listing leave mtime and ctime alone."""
    file = make(root / "file")
    with stamps(file), opened(file) as fd:
        os.fstat(fd)
    with stamps(root):
        os.listdir(root)


def check_utimes_to_the_nanosecond(root: Path) -> None:
    """N1: both stamps are kept to the nanosecond, before 1970 and after 2106 too."""
    file = make(root / "file")
    for stamp in (0, 1, OLD, 5_000_000_000 * 10**9 + 999_999_999, -86_400 * 10**9 + 1):
        os.utime(file, ns=(stamp, stamp + 1))
        seen = file.stat()
        assert (seen.st_atime_ns, seen.st_mtime_ns) == (stamp, stamp + 1)


def check_utimes_of_any_year(root: Path) -> None:
    """N17: stamps are kept exactly, before 1677 and after 2262 too, for files and directories."""
    file = make(root / "file")
    (root / "directory").mkdir()
    farthest = 1 << 62
    for seconds in (9223372036, 9223372037, 10**12, farthest, -9223372037, -(10**12), -farthest):
        stamp = seconds * 10**9 + 999_999_999
        for path in (file, root / "directory"):
            os.utime(path, ns=(stamp - 1, stamp))
            seen = path.stat()
            assert (seen.st_atime_ns, seen.st_mtime_ns) == (stamp - 1, stamp)
        with os.scandir(root) as entries:
            assert {entry.stat().st_mtime_ns for entry in entries} == {stamp}


def check_utimes_of_a_descriptor_and_a_directory(root: Path) -> None:
    """N1: works through a descriptor and on directories; stat and fstat agree."""
    (root / "directory").mkdir()
    make(root / "file")
    for path in (root / "directory", root / "file"):
        with opened(path, os.O_RDONLY) as fd:
            os.utime(fd, ns=(OLD, OLD + 7))
            assert path.stat().st_mtime_ns == os.fstat(fd).st_mtime_ns == OLD + 7


def check_utimes_now(root: Path) -> None:
    """N1: without times both become now, and ctime always does."""
    file = make(root / "file")
    start = time.time_ns() - TICK
    os.utime(file, ns=(OLD, OLD))
    assert start <= file.stat().st_ctime_ns
    os.utime(file)
    seen = file.stat()
    assert start <= seen.st_atime_ns
    assert start <= seen.st_mtime_ns <= time.time_ns() + TICK
