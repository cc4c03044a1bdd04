"""Files with holes in a region: with MAP_NORESERVE, where memory comes at first touch, holes stay holes."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from msharefs import Region
from tests.cli.tool import mshare
from tests.helpers import mount, raw
from tests.helpers.raw import FROM_FILE, HUGE, MIB, PAGE, create_mapping, opened, refused
from tests.helpers.users import ALICE, as_user

PLANES = mount.planes()
MOUNT_OPTIONS = "size=64M,align=4096,overcommit"
CAPACITY = 64 * MIB
SIZE = 1 << 30
"""Of file and region, which is far more than the mount has."""
AT = HUGE + PAGE
"""Where in the region."""
DATA = {0: 1, 100: 3, 5000: HUGE // PAGE + 5, SIZE // PAGE - 3: 1}
"""Runs of pages with data: the first, and how many."""
PAGES = sum(DATA.values())
SPARSE = FROM_FILE | raw.MAP_NORESERVE


def write_sparse(fd: int, runs: dict[int, int]) -> dict[int, bytes]:
    """Make a file with these runs of data. Returns their bytes."""
    os.ftruncate(fd, SIZE - PAGE - 123)
    written = {}
    for page, count in runs.items():
        written[page] = os.urandom(count * PAGE)
        os.pwrite(fd, written[page], page * PAGE)
    return written


def map_sparse(region: int, file: int, *, prot: int = raw.PROT_READ, size: int = SIZE) -> None:
    """The whole of a file."""
    create_mapping(region, AT, size, prot=prot, flags=SPARSE, file=file)


def taken(place: Path) -> int:
    """Bytes of the mount that are in use."""
    return CAPACITY - raw.free_bytes(place)


def has(window: mmap.mmap, written: dict[int, bytes], holes: Sequence[int]) -> bool:
    """Whether these pages are what was written, and zeros."""
    return all(
        window[AT + page * PAGE : AT + page * PAGE + len(data)] == data
        for page, data in written.items()
    ) and all(window[AT + page * PAGE : AT + (page + 1) * PAGE] == bytes(PAGE) for page in holes)


@pytest.fixture(autouse=True)
def empty(mounted: mount.Mount) -> None:
    """What others had is given back."""
    mounted.wait_until_empty()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A new file."""
    with opened(tmp_path / "sparse", os.O_RDWR | os.O_CREAT) as fd:
        yield fd


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A region with room for the file, open."""
    with raw.region(place, AT + SIZE) as fd:
        yield fd


@pytest.mark.parametrize("kind", ["file", "memfd"])
def test_holes_take_no_memory(place: Path, region: int, file: int, kind: str) -> None:
    """C32: what is data is there at once, the rest is zeros; the caller's position stays."""
    fd = os.memfd_create("sparse") if kind == "memfd" else os.dup(file)
    written = write_sparse(fd, DATA)
    os.pwrite(fd, bytes(8 * PAGE), 200 * PAGE)
    os.lseek(fd, 4711, os.SEEK_SET)
    map_sparse(region, fd)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 4711
    os.close(fd)
    assert taken(place) == PAGES * PAGE
    layout = raw.layout(region)
    assert (layout["reserved"], layout["mappings"][0]["reserve"]) == (0, False)
    with mmap.mmap(region, AT + SIZE, prot=mmap.PROT_READ) as window:
        assert has(window, written, [1, 99, 103, 200, 4999, 100_000])


def test_what_is_stored_in_a_hole_goes_back(place: Path, region: int, file: int) -> None:
    """C32, C28: that page alone; what others write into holes meanwhile stays."""
    written = write_sparse(file, DATA)
    map_sparse(region, file, prot=raw.RW)
    before = os.fstat(file).st_blocks
    with mmap.mmap(region, AT + SIZE) as window:
        os.fsync(region)
        assert taken(place) == PAGES * PAGE
        for page in (50, 20_000):
            window[AT + page * PAGE + 5 : AT + page * PAGE + 10] = b"store"
        window[AT + 100 * PAGE : AT + 101 * PAGE] = bytes(PAGE)
        os.pwrite(file, b"others", 51 * PAGE)
        os.pwrite(file, b"others", 70_000 * PAGE)
        os.fsync(region)
        for page in (50, 20_000):
            assert os.pread(file, PAGE, page * PAGE) == b"store".rjust(10, b"\0").ljust(PAGE, b"\0")
        for page in (51, 70_000):
            assert os.pread(file, 6, page * PAGE) == b"others"
        assert os.pread(file, PAGE, 100 * PAGE) == bytes(PAGE)
        assert os.pread(file, 2 * PAGE, 101 * PAGE) == written[100][PAGE:]
        assert os.fstat(file).st_blocks * 512 - before * 512 <= 64 * PAGE
        raw.unmap(region, AT, SIZE)
    assert taken(place) == 0


def test_by_the_library_and_the_command(
    mounted: mount.Mount, place: Path, tmp_path: Path, file: int
) -> None:
    """C32: `reserve=False` and `--no-reserve`."""
    write_sparse(file, DATA)
    with raw.region(place, 2 * SIZE):
        with Region.open(place) as region:
            region.map_file(0, file, reserve=False)
        words = [
            "--file",
            str(tmp_path / "sparse"),
            "--no-reserve",
            str(place),
            str(SIZE),
            str(SIZE),
        ]
        mshare("map", *words).ok()
        assert taken(place) == 2 * PAGES * PAGE


def test_data_that_does_not_fit(place: Path, region: int, file: int) -> None:
    """C32: ENOMEM, and nothing is mapped; what has a place goes on."""
    write_sparse(file, {0: 1, 10: CAPACITY // PAGE})
    with refused(errno.ENOMEM):
        map_sparse(region, file)
    assert raw.mapped_ranges(region) == []
    assert taken(place) == 0
    map_sparse(region, file, size=2 * MIB)
    assert taken(place) == 2 * MIB - 9 * PAGE


@pytest.mark.root_only("becomes another user")
def test_a_file_that_the_caller_cannot_open(place: Path, region: int, file: int) -> None:
    """C32: he was given it. All of it is read, and its zeros take no memory."""
    written = write_sparse(file, {3: 2})
    os.ftruncate(file, 16 * MIB)
    os.fchmod(file, 0o600)
    os.chmod(place, 0o666)

    def map_it() -> None:
        with opened(place) as theirs:
            map_sparse(theirs, file, size=16 * MIB)

    as_user(ALICE, map_it)
    assert taken(place) == 2 * PAGE
    with mmap.mmap(region, AT + SIZE, prot=mmap.PROT_READ) as window:
        assert has(window, written, [])


def test_in_the_place_of_a_mapping(place: Path, region: int, file: int) -> None:
    """C32: there a file is reserved, as what it replaces has to stay until all is read."""
    written = write_sparse(file, {3: 2})
    create_mapping(region, AT + PAGE, PAGE)
    map_sparse(region, file, size=8 * PAGE)
    assert raw.layout(region)["reserved"] == taken(place) == 8 * PAGE
    with mmap.mmap(region, AT + SIZE, prot=mmap.PROT_READ) as window:
        assert has(window, written, [0, 1, 2, 5, 6, 7])
