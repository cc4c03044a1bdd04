"""Who has a file attached, as told by the kernel's list of mappings."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.preload.holders import find_holders, open_elsewhere, windows_of

PAGE = mmap.PAGESIZE


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open file of eight pages, with a name that looks like a line of maps."""
    path = tmp_path / "00:00 1 rw-s 00000000"
    path.write_bytes(b"\0" * 8 * PAGE)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def identity(fd: int) -> tuple[int, int]:
    """Device and inode."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def test_windows_are_told_as_offsets(file: int) -> None:
    """Each window by where it begins and ends in the file, whatever the file's name."""
    device, inode = identity(file)
    assert windows_of(os.getpid(), device, inode) == []
    with mmap.mmap(file, 2 * PAGE), mmap.mmap(file, PAGE, offset=5 * PAGE):
        found = windows_of(os.getpid(), device, inode)
        assert found is not None
        assert sorted(found) == [(0, 2 * PAGE), (5 * PAGE, 6 * PAGE)]
    assert windows_of(os.getpid(), device, inode) == []


def test_children_and_grandchildren_are_found_and_we_are_not(file: int) -> None:
    """A child that inherits a window and an orphan of it; of a range only those who have it."""
    reader, writer = os.pipe()
    window = mmap.mmap(file, 2 * PAGE)
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        holders = find_holders(*identity(file), frozenset({os.getpid()}))
        assert holders.complete
        assert holders.windows == {child: [(0, 2 * PAGE)]}
        assert holders.of((PAGE, 3 * PAGE)) == [child]
        assert holders.of((2 * PAGE, 3 * PAGE)) == []
    finally:
        window.close()
        os.close(writer)
        os.waitpid(child, 0)
        os.close(reader)
    assert find_holders(*identity(file)).windows == {}


def test_strangers_are_not_looked_into(file: int) -> None:
    """Seen from a child, its parent is no part of the run, whatever it has attached."""
    device, inode = identity(file)
    script = (
        "from msharefs.preload.holders import find_holders\n"
        f"holders = find_holders({device}, {inode})\n"
        "print(holders.windows, holders.blind, holders.complete)\n"
    )
    root = str(Path(__file__).parents[2])
    with mmap.mmap(file, PAGE):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "{} [] True\n"


def test_open_descriptors_are_found(file: int) -> None:
    """An open file without a name is found by its descriptor."""
    device, inode = identity(file)
    assert open_elsewhere(device, inode)
    assert not open_elsewhere(device, inode + 1_000_000_007)
