"""Room on disk for the journal: had before a change, so that a full disk is a refusal.

The disk is a fake, as full as a test wants it; the bounds of what sqlite writes are tried on files.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from msharefs import abi
from msharefs.core.attributes import AttributeChange
from msharefs.core.errors import NoRoom, OutOfMemory
from msharefs.core.inode import ROOT_INO
from msharefs.core.journal import (
    APPLIED,
    DROP,
    MAPPINGS_A_STATEMENT,
    REMEMBERED_REQUESTS,
    Journal,
    Request,
)
from msharefs.core.layout import MappedFile, Mapping
from msharefs.core.mappable import LONGEST_PATH
from msharefs.core.namespace import RENAME_EXCHANGE
from msharefs.core.records import DROP_NAME, PUT_INODE, PUT_MAPPING, PUT_NAME
from msharefs.core.room import GROWN, LOGGED, SPARE, Room
from msharefs.core.room import PAGE as DATABASE_PAGE
from msharefs.core.tail import SIZE
from msharefs.daemon.storage import TAIL, Files, open_area
from tests.unit.support.disks import AMPLE, FakeDisk
from tests.unit.support.worlds import (
    ALICE,
    ANONYMOUS,
    PAGE,
    READ_WRITE,
    World,
    make_world,
    refused,
)

LONG = b"n" * 250


@pytest.fixture
def world() -> World:
    """A mount with some names."""
    world = make_world(align=PAGE, nr_inodes=100_000)
    region = world.region(b"region", size=8192 * PAGE)
    world.map(region, 0, 8 * PAGE)
    world.map(region, 16 * PAGE, 8 * PAGE)
    world.manager.mkdir(None, ROOT_INO, b"folder", 0o700, ALICE)
    world.manager.link(None, region.ino, ROOT_INO, b"other")
    return world


def fill(world: World) -> int:
    """From now on the disk has nothing more; make names until one is refused. Returns how many
    there were."""
    world.disk.left = 0
    for number in range(10_000):
        before = world.snapshot()
        try:
            world.manager.mkdir(None, ROOT_INO, b"%04d" % number + LONG, 0o700, ALICE)
        except NoRoom:
            assert world.snapshot() == before
            return number
    raise AssertionError("the disk is never full")


def region_of(world: World) -> int:
    """The inode number of the region."""
    return world.manager.names.existing(ROOT_INO, b"region").ino


def anonymous(start: int, size: int) -> abi.CreateMapping:
    """What a CREATE_MAPPING asks for."""
    return abi.CreateMapping(start, size, 0, READ_WRITE, ANONYMOUS)


Operation = Callable[[World, int], object]


def new_name(number: int) -> bytes:
    """One for each number."""
    return b"new%d" % number


GROWING: dict[str, Operation] = {
    "create": lambda w, n: w.manager.create(None, ROOT_INO, new_name(n), 0o600, ALICE),
    "mknod": lambda w, n: w.manager.mknod(None, ROOT_INO, new_name(n), 0o100600, ALICE),
    "mkdir": lambda w, n: w.manager.mkdir(None, ROOT_INO, new_name(n), 0o700, ALICE),
    "link": lambda w, n: w.manager.link(None, region_of(w), ROOT_INO, new_name(n)),
    "map": lambda w, n: w.map(w.tables.regions[region_of(w)], (32 + 2 * n) * PAGE, PAGE),
}
"""What adds something each time, by a number."""


@pytest.mark.parametrize("operation", GROWING.values(), ids=list(GROWING))
def test_what_adds_is_refused_where_the_disk_is_full(world: World, operation: Operation) -> None:
    """ENOSPC, and nothing has changed, in memory neither. With room it is done."""
    fill(world)
    number, before = 0, world.snapshot()
    with refused(errno.ENOSPC):
        for number in range(2000):
            before = world.snapshot()
            operation(world, number)
    assert world.snapshot() == before
    world.disk.left = AMPLE
    operation(world, number)


def test_a_rename_is_refused_where_the_disk_is_full(world: World) -> None:
    """Because the new name may be longer."""
    fill(world)
    before = world.snapshot()
    for flags in (0, RENAME_EXCHANGE):
        with refused(errno.ENOSPC):
            world.manager.rename(None, ROOT_INO, b"other", ROOT_INO, b"folder", flags)
    assert world.snapshot() == before


def test_a_full_disk_can_be_emptied(world: World) -> None:
    """What takes away or overwrites goes on, and what it frees can be used again."""
    count = fill(world)
    manager, region = world.manager, world.tables.regions[region_of(world)]
    manager.setattr(None, region.ino, AttributeChange(mode=0o640))
    world.unmap(region, 2 * PAGE, PAGE)
    world.unmap(region, 16 * PAGE, 8 * PAGE)
    manager.unlink(None, ROOT_INO, b"other")
    folder = manager.names.existing(ROOT_INO, b"folder")
    manager.rmdir(None, ROOT_INO, b"folder")
    world.forget(folder)
    manager.unlink(None, ROOT_INO, b"region")
    world.close(region)
    for number in range(count):
        name = b"%04d" % number + LONG
        directory = manager.names.existing(ROOT_INO, name)
        manager.rmdir(None, ROOT_INO, name)
        world.forget(directory)
    assert len(manager.names) == 2
    assert world.disk.left == 0
    # Inode numbers and cookies take more bytes by now.
    for number in range(count - count // 50):
        manager.mkdir(None, ROOT_INO, b"%04d" % number + LONG, 0o700, ALICE)


def test_others_are_served_while_somebody_fills_the_disk(world: World) -> None:
    """Requests that change nothing, or only themselves."""
    fill(world)
    region = world.tables.regions[region_of(world)]
    for _ in range(1000):
        with refused(errno.ENOSPC):
            world.manager.mkdir(None, ROOT_INO, b"one more", 0o700, ALICE)
        world.manager.open(None, region.ino, os.O_RDWR)
        world.manager.setattr(None, region.ino, AttributeChange(mode=0o600))
        world.manager.release(None, region.ino)


def test_a_burst_of_forgets_on_a_full_disk(world: World) -> None:
    """However many: they are recorded in parts."""
    made = [
        world.manager.mknod(None, ROOT_INO, b"%d" % number, 0o100600, ALICE)
        for number in range(1000)
    ]
    for number in range(1000):
        world.manager.unlink(None, ROOT_INO, b"%d" % number)
    fill(world)
    world.manager.forget([(region.ino, 1) for region in made])
    assert all(world.manager.names.peek(region.ino) is None for region in made)


def test_a_plan_has_its_room_until_it_is_recorded(world: World) -> None:
    """The memory has changed by then, so that the record must not be refused."""
    region = world.tables.regions[region_of(world)]
    other = world.region(b"another", size=16 * PAGE)
    plans = [
        world.plan(region, anonymous(32 * PAGE, PAGE)),
        world.plan(other, anonymous(0, PAGE)),
    ]
    fill(world)
    for plan in plans:
        world.manager.mappings.perform(plan)
    assert len(other.layout) == 1


def test_a_plan_that_comes_to_nothing_gives_its_room_back() -> None:
    """Whether its memory is refused or cannot be had."""
    world = make_world(align=PAGE, capacity=16 * PAGE)
    region = world.region(size=256 * PAGE)
    with refused(errno.ENOMEM):
        world.plan(region, anonymous(0, 17 * PAGE))
    plan = world.plan(region, anonymous(0, PAGE))
    with pytest.raises(OutOfMemory):
        world.manager.mappings.abandon(plan, OSError(errno.ENOMEM, "no memory"))
    assert world.manager.journal._room._promised == 0
    world.map(region, 0, PAGE)
    world.unmap(region, 0, PAGE)
    assert world.manager.journal._room._promised == 0


def test_the_counts_of_handles_need_room_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where their file cannot grow a new region is refused, and leaves no segment."""
    handles = world.tables.handles

    def full(size: int) -> memoryview:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(handles, "_resize", full)
    with refused(errno.ENOSPC):
        for number in range(100_000):
            world.manager.mknod(None, ROOT_INO, b"%d" % number, 0o100600, ALICE)
    before = world.snapshot()
    with refused(errno.ENOSPC):
        world.manager.create(None, ROOT_INO, b"new", 0o600, ALICE)
    assert world.snapshot() == before


# On files


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where the journal is."""
    return str(tmp_path / "journal")


class Watched(Files):
    """Remembers how long each file was made."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.sizes: dict[str, int] = {}

    def allocate(self, suffix: str, size: int) -> None:
        """Really."""
        super().allocate(suffix, size)
        self.sizes[suffix] = max(size, self.sizes.get(suffix, 0))


@pytest.fixture
def watched(path: str) -> Watched:
    """The files of the journal."""
    return Watched(path)


def opened(path: str, files: Files) -> Journal:
    """As a process that starts does it. No commit may fail."""

    def not_expected() -> None:
        raise AssertionError("a commit failed")

    open_tail = partial(open_area, path + TAIL, SIZE)
    return Journal(path, open_tail, lambda step: None, not_expected, files.allocate)


@pytest.fixture
def journal(path: str, watched: Watched) -> Iterator[Journal]:
    """A new one."""
    journal = opened(path, watched)
    yield journal
    journal.close()


def test_sqlite_stays_within_what_was_had(journal: Journal, path: str, watched: Watched) -> None:
    """Whatever is recorded in whatever order: neither of its files ever becomes longer than it
    was made beforehand."""
    chance = random.Random(1)
    names: list[tuple[int, bytes]] = []
    for unique in range(2, 6_002):
        with journal.change(Request(unique, 9), 3):
            _record_something(journal, names, chance)
        assert os.stat(path + "-wal").st_size <= watched.sizes["-wal"]
        assert os.stat(path).st_size <= max(watched.sizes[""], os.stat(path).st_blocks * 512)
    assert journal._execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    pages = journal._execute("PRAGMA page_count").fetchone()[0]
    assert pages * DATABASE_PAGE <= watched.sizes[""]


def test_sqlite_stays_within_its_log_when_nothing_is_added(
    journal: Journal, path: str, watched: Watched
) -> None:
    """Then only the log is used up, here by the longest names, put back in another's place."""
    chance = random.Random(1)
    names = [chance.randbytes(255) for _ in range(1000)]
    for name in names:
        with journal.change(None):
            journal._write(PUT_NAME, (1, name, 1, 1))
    for number in range(2000):
        with journal.rewrite(None):
            for place in chance.sample(range(1000), 4):
                journal._write(DROP_NAME, (1, names[place]))
                names[place] = chance.randbytes(255)
                journal._write(PUT_NAME, (1, names[place], number, 1))
        assert os.stat(path + "-wal").st_size <= watched.sizes["-wal"]


def test_what_is_remembered_of_requests_needs_few_pages(journal: Journal) -> None:
    """All of them together count as a few statements, also while old ones go."""
    for first in range(1, 10_000, 1000):
        for unique in range(first, first + REMEMBERED_REQUESTS + 10):
            with journal.change(Request((1 << 62) + unique, 9), 1 << 60):
                pass
        journal._execute("PRAGMA wal_checkpoint(PASSIVE)")
        journal.move()
        _busy, logged, _moved = journal._execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        assert 0 < logged <= APPLIED * LOGGED


def test_what_takes_away_much_has_room_for_it(path: str) -> None:
    """65,000 mappings in one change: they are counted beforehand."""
    journal = opened(path, Files(path))
    for first in range(0, 65_000, 1000):
        with journal.change(None, statements=1000):
            for start in range(first, first + 1000):
                journal._write(PUT_MAPPING, (5, start, 1 << 40, 3, True, False, None))
    journal.close()
    watched = Watched(path)
    journal = opened(path, watched)
    with journal.rewrite(None, statements=DROP + 65_000 // MAPPINGS_A_STATEMENT):
        journal.drop(5, [Mapping(start, 1 << 40, 3) for start in range(65_000)])
    assert os.stat(path + "-wal").st_size <= watched.sizes["-wal"]
    journal.close()


def test_what_takes_away_many_files_has_room_for_it(path: str) -> None:
    """Their records are the longest that there are of mappings."""
    file = MappedFile(1 << 40, 1 << 60, 1 << 62, 1 << 31, "\udcff" * LONGEST_PATH)
    journal = opened(path, Files(path))
    for first in range(0, 2000, 100):
        with journal.change(None, statements=100):
            mappings = [Mapping(n, n + 1, 3, file=file) for n in range(first, first + 100)]
            journal.replace_mappings(5, [], mappings)
    journal.close()
    watched = Watched(path)
    journal = opened(path, watched)
    with journal.rewrite(None, statements=DROP + 2000):
        journal.drop(5, [Mapping(n, n + 1, 3) for n in range(2000)])
    assert os.stat(path + "-wal").st_size <= watched.sizes["-wal"]
    journal.close()


def _record_something(
    journal: Journal, names: list[tuple[int, bytes]], chance: random.Random
) -> None:
    """Five statements, as the longest of the ordinary changes have."""
    write = journal._write
    for _ in range(3):
        if names and chance.random() < 0.3:
            place = chance.randrange(len(names))
            write(DROP_NAME, names[place])
            names[place] = names[-1]
            names.pop()
        else:
            name = (chance.randrange(1, 4), chance.randbytes(chance.choice([2, 30, 255])))
            names.append(name)
            write(PUT_NAME, (*name, chance.randrange(1 << 30), 1))
    ino, start = chance.randrange(1000), chance.randrange(1 << 40)
    times = [chance.randrange(1 << 62) for _ in range(3)]
    size = chance.randrange(1 << 62)
    write(PUT_INODE, (ino, "R", 33188, 0, 0, 1, *times, 0, size, ino, ino, 1, 2, 3, 3))
    path = "/" + "\udcff" * chance.choice([0, 20, LONGEST_PATH - 1])
    file = MappedFile(1 << 40, 1 << 60, 1 << 62, 1 << 31, path) if chance.random() < 0.5 else None
    mapping = Mapping(start, start + 1, 3, file=file)
    # In place of another that begins there.
    journal.replace_mappings(ino, [mapping], [mapping])


def test_a_log_that_cannot_be_emptied_is_no_room(path: str) -> None:
    """The change is refused; the log holds what it holds, and later it can be."""
    db = sqlite3.connect(path, isolation_level=None)
    answers = iter([(0, 10, 4), (0, 10, 10)])
    disk = FakeDisk()

    class Answer:
        def __init__(self, row: tuple[int, ...]) -> None:
            self._row = row

        def fetchone(self) -> tuple[int, ...]:
            return self._row

    def execute(statement: str) -> object:
        if "checkpoint" in statement:
            return Answer(next(answers))
        return db.execute(statement)

    room = Room(execute, disk.allocate, lambda: None)  # type: ignore[arg-type]
    with pytest.raises(NoRoom, match="6 pages of the log"):
        room.claim(5, 0)
    room.claim(5, 0)
    db.close()


def free_pages(world: World) -> int:
    """Of the database, which has them on disk."""
    count: int = world.manager.journal._execute("PRAGMA freelist_count").fetchone()[0]
    return count


def test_some_free_pages_are_left_for_what_takes_away(world: World) -> None:
    """Trees of pages are put in balance."""
    fill(world)
    assert free_pages(world) >= SPARE


def test_what_was_promised_is_nobody_elses(world: World) -> None:
    """Others are refused before they use it."""
    for _ in range(20):
        world.manager.journal.promise(6, growing=6)
    fill(world)
    assert free_pages(world) >= SPARE + 20 * 6 * GROWN


def test_a_full_disk_says_so(world: World) -> None:
    """The sentence has the system's reason."""
    fill(world)
    with pytest.raises(NoRoom, match="No space left on device"):
        world.manager.mkdir(None, ROOT_INO, b"new", 0o700, ALICE)
