"""A mount with very many regions is served again, by the next server and by the next mount."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.linux import syscalls
from tests.helpers import mount, raw
from tests.helpers.raw import HUGE, PAGE, opened
from tests.helpers.waiting import eventually
from tests.survival.kept import Kept, in_one_file

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("requires_fuse")]

COUNT = 40_000
OPTIONS = f"size=64M,align=4096,nr_inodes={2 * COUNT}"


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A mount of its own, in which a page of the only region is mapped; then its supervisor was
    killed, the many others were made, and it was mounted again."""
    place = Kept(OPTIONS)
    with opened(place.path / "first", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, HUGE)
        raw.create_mapping(fd, 0, PAGE)
    place.kill_supervisor()
    inflate(place.journal, b"many-%d", COUNT)
    place.mount_again(OPTIONS)
    yield place
    place.discard()


def inflate(journal: Path, pattern: bytes, count: int) -> None:
    """Many regions more, made in the journal of a mount that is not served: each like the one
    region that is there, but without a size and with names of their own."""
    in_one_file(journal)
    db = sqlite3.connect(journal)
    (row,) = db.execute("SELECT * FROM inode WHERE kind = 'R'")
    first, slot = 1_000_000, 10

    def rows() -> Iterator[tuple[object, ...]]:
        for number in range(count):
            attributes = row[2:10]
            yield (first + number, "R", *attributes, -1, 0, slot + number, *row[13:])

    places = ",".join("?" * len(row))
    db.executemany(f"INSERT INTO inode VALUES ({places})", rows())
    names = ((pattern % number, first + number, first + number) for number in range(count))
    db.executemany("INSERT INTO name VALUES (1, ?, ?, ?)", names)
    db.commit()
    db.close()


def check(kept: Kept) -> None:
    """All are there, and one of the many is a region like any other."""
    assert mount.read_status(kept.path)["regions"] == COUNT + 1
    assert len(os.listdir(kept.path)) == COUNT + 2
    assert raw.mapped_ranges(kept.path / "first") == [(0, PAGE)]
    with opened(kept.path / f"many-{COUNT - 1}") as fd:
        assert os.fstat(fd).st_nlink == 1


def test_regions_by_the_ten_thousands(kept: Kept) -> None:
    """M15, M16: after the death of the supervisor, and then of the server, every name and every
    mapping is there; new regions and old ones can be used and removed."""
    check(kept)
    os.kill(mount.read_status(kept.path)["pids"]["server"], signal.SIGKILL)
    check(kept)
    with opened(kept.path / "many-7") as fd:
        os.ftruncate(fd, HUGE)
        raw.create_mapping(fd, PAGE, PAGE)
    assert raw.mapped_ranges(kept.path / "many-7") == [(PAGE, 2 * PAGE)]
    os.unlink(kept.path / "many-7")
    with opened(kept.path / "many-7", os.O_CREAT | os.O_EXCL | os.O_RDWR):
        # The kernel tells of the removed one in its own time.
        eventually(lambda: raw.used_inodes(kept.path) == COUNT + 3, what="an inode is left")
    kept.unmount_and_check()


@pytest.mark.root_only("only root may remount")
def test_the_kernel_lets_go_of_all_at_once(kept: Kept) -> None:
    """A remount, as memory pressure does, makes the kernel forget each inode that it had heard of. They
    are too many for one message of a socket pair, and come all together where the server is slow."""
    check(kept)
    server = mount.read_status(kept.path)["pids"]["server"]
    os.kill(server, signal.SIGSTOP)
    try:
        # mount(8) would ask the mount for attributes first.
        syscalls.mount("none", str(kept.path), None, syscalls.MS_REMOUNT)
    finally:
        os.kill(server, signal.SIGCONT)
    check(kept)
    assert mount.read_status(kept.path)["pids"]["server"] == server
    # What the kernel had forgotten goes with its name.
    for number in range(20):
        os.unlink(kept.path / f"many-{number}")
    eventually(lambda: raw.used_inodes(kept.path) == COUNT + 3 - 20)
    kept.unmount_and_check()
