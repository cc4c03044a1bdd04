"""Reading directories, on any directory that keeps to POSIX as Linux does."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

from tests.conformance.names import make
from tests.helpers.raw import opened


def check_empty_directory_lists_nothing(root: Path) -> None:
    """N1: a new directory has no names but "." and ".."."""
    (root / "directory").mkdir()
    assert os.listdir(root / "directory") == []


def check_dots_are_listed(root: Path) -> None:
    """N1: "ls -a" shows "." and ".." with the numbers that stat gives."""
    (root / "directory").mkdir()
    make(root / "directory" / "file")
    output = subprocess.run(
        ["ls", "-a", "-i", "-U", "-1", str(root / "directory")],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout
    listed = {name: int(number) for number, name in (line.split() for line in output.splitlines())}
    assert listed == {
        ".": (root / "directory").stat().st_ino,
        "..": root.stat().st_ino,
        "file": (root / "directory" / "file").stat().st_ino,
    }


def check_entries_have_kind_and_number(root: Path) -> None:
    """N1: d_type and d_ino agree with stat."""
    make(root / "file")
    (root / "directory").mkdir()
    with os.scandir(root) as entries:
        seen = {
            entry.name: (entry.is_dir(follow_symlinks=False), entry.inode()) for entry in entries
        }
    assert seen == {
        "file": (False, (root / "file").stat().st_ino),
        "directory": (True, (root / "directory").stat().st_ino),
    }


def check_thousands_of_names(root: Path) -> None:
    """N1: each of 3,000 names is listed exactly once."""
    names = sorted(f"name-{number:04}-{'x' * (number % 40)}" for number in range(3000))
    with opened(root, os.O_RDONLY) as fd:
        for name in names:
            os.mkdir(name, dir_fd=fd)
    assert sorted(os.listdir(root)) == names
    assert root.stat().st_nlink == 3002
    shutil.rmtree(root / names[0])
    assert sorted(os.listdir(root)) == names[1:]


def check_removing_while_listing(root: Path) -> None:
    """N1: names removed during a listing do not make it skip others."""
    for number in range(800):
        make(root / f"{number}")
    seen: list[str] = []
    with os.scandir(root) as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(entry.path)
    assert sorted(seen, key=int) == [str(number) for number in range(800)]
    assert os.listdir(root) == []


def check_adding_while_listing(root: Path) -> None:
    """N1: names made during a listing come at most once; the old ones all come."""
    old = {f"old{number}" for number in range(500)}
    for name in old:
        make(root / name)
    seen: list[str] = []
    with os.scandir(root) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count < 50:
                make(root / f"new{count}")
    assert old <= set(seen)
    assert len(seen) == len(set(seen))


def check_renaming_while_listing(root: Path) -> None:
    """N16: a walk that renames what it finds meets each name once, and ends; so after rewinding."""
    names = [f"name{number}" for number in range(1500)]
    for name in names:
        make(root / name)
    with opened(root, os.O_RDONLY) as fd:
        for prefix in ("once-", "twice-"):
            seen = []
            with os.scandir(fd) as entries:
                for entry in entries:
                    seen.append(entry.name)
                    os.rename(entry.name, prefix + entry.name, src_dir_fd=fd, dst_dir_fd=fd)
                    assert len(seen) <= len(names)
            assert sorted(seen) == sorted(names)
            names = [prefix + name for name in names]
    assert sorted(os.listdir(root)) == sorted(names)


def check_making_names_for_what_is_listed(root: Path) -> None:
    """N16: so does one that makes a file, a link and a directory for each name that it finds."""
    # Long enough that they do not come in one go.
    old = {f"{number}-{'x' * 80}" for number in range(600)}
    for name in old:
        make(root / name)
    seen: list[str] = []
    with os.scandir(root) as entries:
        for entry in entries:
            seen.append(entry.name)
            make(root / f"file-{entry.name}")
            os.link(entry.path, root / f"link-{entry.name}")
            os.mkdir(root / f"directory-{entry.name}")
            assert len(seen) <= len(old)
    assert set(seen) == old
    assert len(os.listdir(root)) == 4 * len(old)


def check_two_readers_do_not_disturb_each_other(root: Path) -> None:
    """N1: two listings of one directory at the same time each see everything."""
    for number in range(400):
        make(root / str(number))
    with os.scandir(root) as first, os.scandir(root) as second:
        pairs = [(one.name, two.name) for one, two in zip(first, second, strict=True)]
    for side in zip(*pairs, strict=True):
        assert sorted(side, key=int) == [str(number) for number in range(400)]


def check_rewinding(root: Path) -> None:
    """N1: after a seek to 0 the same descriptor sees names made since."""
    make(root / "first")
    with opened(root, os.O_RDONLY) as fd:
        assert os.listdir(fd) == ["first"]
        make(root / "second")
        os.lseek(fd, 0, os.SEEK_SET)
        assert sorted(os.listdir(fd)) == ["first", "second"]


def check_fsync_of_a_directory(root: Path) -> None:
    """N1: succeeds, as programs that care for their names expect."""
    make(root / "file")
    with opened(root, os.O_RDONLY | os.O_DIRECTORY) as fd:
        os.fsync(fd)
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
