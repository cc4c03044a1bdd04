"""A mount that is full: each operation says so by its errno, and nothing has changed.

Full of memory (size=), of inodes (nr_inodes=) and of mappings (max_mappings=).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.raw import ANONYMOUS, HUGE, PAGE, create_mapping, opened, refused, unmap
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=16M,align=4096,overcommit"
PLANES = ("passthrough", "paged")

CAPACITY = 16 * raw.MIB
SIZE = 2 * CAPACITY


def picture(path: Path) -> tuple[Any, ...]:
    """All that must not change: layout, blocks, df, df -i and the names beside it."""
    numbers = os.statvfs(path)
    return (
        raw.layout(path),
        path.stat().st_blocks,
        numbers.f_bfree,
        numbers.f_ffree,
        sorted(os.listdir(path.parent)),
    )


@contextmanager
def out_of_memory(path: Path) -> Iterator[None]:
    """The block gets ENOMEM, and the picture of this region stays."""
    before = picture(path)
    with refused(errno.ENOMEM):
        yield
    assert picture(path) == before


@pytest.fixture
def full(place: Path) -> Iterator[int]:
    """A region in a mount of which 64 KiB are free. Mapped: all but 16 pages from 0 on."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, CAPACITY - 16 * PAGE)
        yield fd


@pytest.fixture
def contents(place: Path, full: int, client: poke.Poke) -> Iterator[poke.Poke]:
    """A client that has filled the region; at the end the bytes must still be there."""
    address = client.attach(place, SIZE)
    client.fill(address, CAPACITY - 16 * PAGE, 0x77)
    yield client
    assert client.holds(address, CAPACITY - 16 * PAGE, 0x77)


def test_last_page_can_be_mapped(place: Path, full: int) -> None:
    """C9: exactly what is free can be mapped, to the page; df is 0 then."""
    with out_of_memory(place):
        create_mapping(full, CAPACITY, 17 * PAGE)
    create_mapping(full, CAPACITY, 16 * PAGE)
    assert raw.free_bytes(place) == 0
    with out_of_memory(place):
        create_mapping(full, CAPACITY + HUGE, PAGE)


@pytest.mark.usefixtures("contents")
class TestNothingChanges:
    """C9: ENOMEM from each form of CREATE_MAPPING; layout, df and contents as before."""

    def test_new_mapping(self, place: Path, full: int) -> None:
        """C9: in a hole."""
        with out_of_memory(place):
            create_mapping(full, CAPACITY, HUGE)

    def test_whole_region(self, place: Path, full: int) -> None:
        """C9: over everything; the old contents are not lost."""
        with out_of_memory(place):
            create_mapping(full, 0, SIZE)

    def test_overlap(self, place: Path, full: int) -> None:
        """C7, C9: half over old memory and half new: the old half keeps its bytes."""
        with out_of_memory(place):
            create_mapping(full, CAPACITY - HUGE, 2 * HUGE)

    def test_noreplace(self, place: Path, full: int) -> None:
        """C8, C9: with MAP_FIXED_NOREPLACE in a hole."""
        with out_of_memory(place):
            create_mapping(full, CAPACITY, HUGE, flags=ANONYMOUS | raw.MAP_FIXED_NOREPLACE)

    def test_populate(self, place: Path, full: int) -> None:
        """C9, C11: with MAP_POPULATE."""
        with out_of_memory(place):
            create_mapping(full, CAPACITY, HUGE, flags=ANONYMOUS | raw.MAP_POPULATE)

    def test_huge_pages(self, place: Path, full: int) -> None:
        """C9, C13: a huge page for which there is no memory."""
        with out_of_memory(place):
            create_mapping(full, CAPACITY, PAGE, flags=ANONYMOUS | raw.MAP_HUGETLB)

    def test_noreserve_made_reserved(self, place: Path, full: int) -> None:
        """C9, C12: reserving what was promised without reserve."""
        create_mapping(full, CAPACITY, HUGE, flags=ANONYMOUS | raw.MAP_NORESERVE)
        with out_of_memory(place):
            create_mapping(full, CAPACITY, HUGE)

    @pytest.mark.usefixtures("full")
    def test_other_region(self, place: Path) -> None:
        """C9: another region finds no memory either; names and sizes cost none."""
        other = place.with_name(place.name + "-other")
        with raw.region(other, SIZE) as fd:
            with out_of_memory(other):
                create_mapping(fd, 0, HUGE)
            create_mapping(fd, 0, 16 * PAGE)

    def test_many_refusals(self, place: Path, full: int, mounted: mount.Mount) -> None:
        """C9: a thousand refusals in a row cost nothing: no memory, no descriptor, no budget."""
        descriptors = len(os.listdir(f"/proc/{mounted.server_pid}/fd"))
        with out_of_memory(place):
            for _ in range(999):
                with refused(errno.ENOMEM):
                    create_mapping(full, CAPACITY, HUGE)
            create_mapping(full, CAPACITY, HUGE)
        assert len(os.listdir(f"/proc/{mounted.server_pid}/fd")) == descriptors
        create_mapping(full, CAPACITY, 16 * PAGE)


def test_replacing_needs_no_more(place: Path, full: int) -> None:
    """C7: a full mount still replaces and splits what is mapped."""
    create_mapping(full, CAPACITY, 16 * PAGE)
    create_mapping(full, HUGE + PAGE, HUGE)
    create_mapping(full, 0, CAPACITY - 16 * PAGE)
    assert raw.free_bytes(place) == 0


def test_unmap_makes_room(place: Path, full: int) -> None:
    """C9, U7: memory that UNMAP frees can be mapped at once, elsewhere."""
    create_mapping(full, CAPACITY, 16 * PAGE)
    for page in range(0, 64, 2):
        unmap(full, page * PAGE, PAGE)
        create_mapping(full, CAPACITY + HUGE + page * PAGE, PAGE)
        assert raw.free_bytes(place) == 0
    with out_of_memory(place):
        create_mapping(full, 0, PAGE)


def test_holes_of_a_full_mount(place: Path, full: int, client: poke.Poke) -> None:
    """M6: holes are SIGBUS, and what is mapped can be touched, when nothing is free."""
    create_mapping(full, CAPACITY, 16 * PAGE)
    address = client.attach(place, SIZE)
    seen = client.probe(address, SIZE, writing=True)
    mapped = CAPACITY // PAGE - 16
    assert seen == "1" * mapped + "0" * 16 + "1" * 16 + "0" * (len(seen) - mapped - 32)


def test_names_and_sizes_need_no_memory(place: Path, full: int) -> None:
    """C9: regions can be made, sized, linked and renamed in a mount without free memory."""
    create_mapping(full, CAPACITY, 16 * PAGE)
    for number in range(20):
        other = place.with_name(f"{place.name}-{number}")
        with raw.region(other, 512 * raw.GIB):
            os.rename(other, f"{other}-renamed")
            os.unlink(f"{other}-renamed")


def test_unlinked_region_keeps_its_memory_while_open(place: Path, full: int) -> None:
    """C9, N10: what an unlinked but open region holds cannot be mapped by another."""
    os.unlink(place)
    with raw.region(place, SIZE) as fd:
        with out_of_memory(place):
            create_mapping(fd, 0, HUGE)
        unmap(full, 0, HUGE)
        create_mapping(fd, 0, HUGE)


def test_no_inodes_left(make_mount: MakeMount) -> None:
    """N13: with nr_inodes used up create, mkdir, mknod and link are ENOSPC; renames go on."""
    mounted = make_mount("size=16M,nr_inodes=6")
    root = mounted.path
    (root / "directory").mkdir()
    for name in ("a", "b"):
        os.close(os.open(root / name, os.O_CREAT | os.O_RDWR))
    os.link(root / "a", root / "link")
    assert os.statvfs(root).f_ffree == 0
    before = sorted(os.listdir(root)), root.stat().st_nlink
    with refused(errno.ENOSPC), opened(root / "c", os.O_CREAT | os.O_RDWR):
        pass
    with refused(errno.ENOSPC):
        os.mkdir(root / "c")
    with refused(errno.ENOSPC):
        os.mknod(root / "c")
    with refused(errno.ENOSPC):
        os.link(root / "a", root / "c")
    assert (sorted(os.listdir(root)), root.stat().st_nlink) == before
    os.rename(root / "b", root / "directory" / "b")
    os.unlink(root / "link")
    assert os.statvfs(root).f_ffree == 1
    os.link(root / "a", root / "link")
    os.unlink(root / "directory" / "b")
    eventually(lambda: os.statvfs(root).f_ffree == 1, what="the inode of a removed region")
    (root / "c").mkdir()


def test_too_many_mappings(make_mount: MakeMount) -> None:
    """C9: max_mappings= counts the mappings of one region; one more is ENOMEM, nothing changed."""
    mounted = make_mount("size=16M,max_mappings=10")
    path = mounted.path / "r"
    with raw.region(path, 4 * HUGE) as fd:
        for number in range(10):
            create_mapping(fd, 2 * number * PAGE, PAGE)
        with out_of_memory(path):
            create_mapping(fd, 2 * 10 * PAGE, PAGE)
        # Replacing one, or all by one, is no more than there were.
        create_mapping(fd, 2 * PAGE, PAGE, prot=raw.PROT_READ)
        create_mapping(fd, 0, 30 * PAGE)
        assert raw.layout(fd)["mapping_count"] == 1


def test_splits_count_as_mappings(make_mount: MakeMount) -> None:
    """C9, U6: a map or unmap that would split one mapping too many is ENOMEM, nothing changed."""
    mounted = make_mount("size=16M,max_mappings=3")
    path = mounted.path / "r"
    with raw.region(path, 4 * HUGE) as fd:
        create_mapping(fd, 0, HUGE)
        create_mapping(fd, PAGE, PAGE, prot=raw.PROT_READ)
        assert raw.layout(fd)["mapping_count"] == 3
        with out_of_memory(path):
            create_mapping(fd, 10 * PAGE, PAGE, prot=raw.PROT_READ)
        with out_of_memory(path):
            unmap(fd, 10 * PAGE, PAGE)
        unmap(fd, PAGE, PAGE)
        unmap(fd, 0, PAGE)
        assert raw.mapped_ranges(fd) == [(2 * PAGE, HUGE)]


def test_limit_is_each_regions_own(make_mount: MakeMount) -> None:
    """C9: two regions may have max_mappings= each."""
    mounted = make_mount("size=16M,max_mappings=4")
    for name in ("a", "b"):
        with opened(mounted.path / name, os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, HUGE)
            for number in range(4):
                create_mapping(fd, 2 * number * PAGE, PAGE)
    assert mounted.status()["mappings"] == 8


def test_memory_that_others_use(make_mount: MakeMount, make_poke: MakePoke) -> None:
    """C9: two mounts have their own limits; a full one does not take from the other."""
    one, two = make_mount("size=8M"), make_mount("size=8M")
    with raw.region(one.path / "r", 8 * raw.MIB, mapped=True):
        assert raw.free_bytes(one.path) == 0
        with raw.region(two.path / "r", 8 * raw.MIB, mapped=True):
            client = make_poke()
            address = client.attach(two.path / "r", 8 * raw.MIB)
            client.fill(address, 8 * raw.MIB, 1)
            client.kill()
