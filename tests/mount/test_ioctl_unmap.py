"""UNMAP: every rule, and that what it takes is gone from all processes at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.raw import HUGE, PAGE, create_mapping, opened, refused, unmap

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)

SIZE = 4 * HUGE
TOP = 2**64


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A descriptor of a region that is wholly mapped."""
    with raw.region(place, SIZE, mapped=True) as fd:
        yield fd


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, 0),
        (HUGE, 0),
        (1, PAGE),
        (PAGE - 1, PAGE),
        (SIZE, PAGE),
        (SIZE + PAGE, PAGE),
        (0, SIZE + 1),
        (0, SIZE + PAGE),
        (SIZE - PAGE, PAGE + 1),
        (PAGE, TOP - PAGE),
        (HUGE, TOP - HUGE + PAGE),
        (0, TOP - 1),
        (TOP - PAGE, PAGE),
    ],
)
def test_bad_ranges(place: Path, region: int, offset: int, size: int) -> None:
    """U1: empty, unaligned, beyond the end or wrapping around: EINVAL, nothing changed."""
    before = raw.layout(place)
    with refused(errno.EINVAL):
        unmap(region, offset, size)
    assert raw.layout(place) == before
    assert place.stat().st_blocks == SIZE // 512


def test_unsized_region(place: Path) -> None:
    """I4: before the size is set it is EINVAL."""
    with raw.region(place) as fd, refused(errno.EINVAL):
        unmap(fd, 0, PAGE)


def test_read_only_descriptor(place: Path, region: int) -> None:
    """I3: EACCES, and everything stays mapped; a write-only descriptor may unmap."""
    with opened(place, os.O_RDONLY) as fd, refused(errno.EACCES):
        unmap(fd, 0, PAGE)
    assert raw.mapped_ranges(place) == [(0, SIZE)]
    with opened(place, os.O_WRONLY) as fd:
        unmap(fd, 0, PAGE)
    assert raw.mapped_ranges(place) == [(PAGE, SIZE)]


@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE + 1, 2 * PAGE - 1])
def test_size_is_rounded_up(place: Path, region: int, size: int) -> None:
    """U2: to the page."""
    unmap(region, PAGE, size)
    end = PAGE + -(-size // PAGE) * PAGE
    assert raw.mapped_ranges(place) == [(0, PAGE), (end, SIZE)]


def test_nothing_there(place: Path) -> None:
    """U3: a range with nothing in it gives 0, in an empty region, a hole, and twice the same."""
    with raw.region(place, SIZE) as fd:
        unmap(fd, 0, SIZE)
        create_mapping(fd, 0, HUGE)
        unmap(fd, 2 * HUGE, HUGE)
        unmap(fd, PAGE, PAGE)
        unmap(fd, PAGE, PAGE)
        assert raw.mapped_ranges(fd) == [(0, PAGE), (2 * PAGE, HUGE)]


@pytest.mark.parametrize(
    ("offset", "size", "left"),
    [
        (0, PAGE, [(PAGE, SIZE)]),
        (SIZE - PAGE, PAGE, [(0, SIZE - PAGE)]),
        (3 * PAGE, PAGE, [(0, 3 * PAGE), (4 * PAGE, SIZE)]),
        (HUGE, HUGE, [(0, HUGE), (2 * HUGE, SIZE)]),
        (HUGE - PAGE, HUGE + 2 * PAGE, [(0, HUGE - PAGE), (2 * HUGE + PAGE, SIZE)]),
        (0, SIZE, []),
    ],
    ids=["begin", "end", "page", "huge", "across", "all"],
)
def test_part_of_a_mapping(
    place: Path,
    region: int,
    client: poke.Poke,
    offset: int,
    size: int,
    left: list[tuple[int, int]],
) -> None:
    """U4: the mapping is cut or split; what stays keeps its contents, what goes is freed."""
    address = client.attach(place, SIZE)
    client.fill(address, SIZE, 6)
    free = raw.free_bytes(place)
    unmap(region, offset, size)
    assert raw.mapped_ranges(place) == left
    assert raw.free_bytes(place) - free == size
    assert place.stat().st_blocks == (SIZE - size) // 512
    for start, end in left:
        assert client.get(address + start, end - start) == b"\6" * (end - start)
    hole = client.probe(address + offset, size)
    assert set(hole) == {"0"}


def test_several_mappings(place: Path) -> None:
    """U5: all mappings in the range go, whole or in part, and the holes between do no harm."""
    with raw.region(place, SIZE) as fd:
        for page in range(0, 20, 2):
            create_mapping(fd, page * PAGE, PAGE, prot=raw.PROT_READ if page % 4 else raw.RW)
        create_mapping(fd, 30 * PAGE, 10 * PAGE)
        unmap(fd, 3 * PAGE, 32 * PAGE)
        assert raw.mapped_ranges(fd) == [(0, PAGE), (2 * PAGE, 3 * PAGE), (35 * PAGE, 40 * PAGE)]
        assert place.stat().st_blocks == 7 * PAGE // 512


def test_gone_from_all_processes(place: Path, region: int, make_poke: MakePoke) -> None:
    """U7: reads and writes in every attached process fault at once, through every window."""
    clients = [make_poke() for _ in range(4)]
    windows = [
        (each, address)
        for each in clients
        for address in (each.attach(place, SIZE), each.attach(place, SIZE))
    ]
    for each, address in windows:
        each.fill(address, SIZE, 1)
    unmap(region, HUGE, HUGE)
    for writing in (False, True):
        for each, address in windows:
            assert each.probe(address, SIZE, step=HUGE, writing=writing) == "1011"


def test_gone_also_where_never_touched(place: Path, region: int, client: poke.Poke) -> None:
    """U7: a process that had attached but not touched the range cannot touch it after."""
    address = client.attach(place, SIZE)
    unmap(region, 0, SIZE)
    assert set(client.probe(address, SIZE)) == {"0"}
    assert set(client.probe(address, SIZE, writing=True)) == {"0"}
    assert place.stat().st_blocks == 0


def test_mapped_again_starts_as_zeros(place: Path, region: int, client: poke.Poke) -> None:
    """U7: the old bytes never come back, neither for old nor for new attachments."""
    address = client.attach(place, SIZE)
    for byte in (1, 2):
        client.fill(address, SIZE, byte)
        unmap(region, HUGE, HUGE)
        create_mapping(region, HUGE, HUGE)
        assert client.holds(address + HUGE, HUGE, 0)
        assert client.get(client.attach(place, SIZE) + HUGE, HUGE) == bytes(HUGE)
        assert client.get(address + HUGE - 1) == bytes([byte])


def test_gone_under_a_locked_mapping(place: Path, region: int, client: poke.Poke) -> None:
    """U7: mlock in a client does not keep the memory."""
    address = client.attach(place, SIZE)
    client.call("mlock", address, SIZE)
    free = raw.free_bytes(place)
    unmap(region, HUGE + PAGE, HUGE)
    assert raw.free_bytes(place) - free == HUGE
    assert set(client.probe(address + HUGE + PAGE, HUGE)) == {"0"}


def test_single_pages_of_a_huge_page(place: Path, client: poke.Poke) -> None:
    """U7: every second page of a 2 MiB page can be taken; the others keep their contents."""
    with raw.region(place, HUGE, mapped=True) as fd:
        address = client.attach(place, HUGE)
        client.fill(address, HUGE, 4)
        for page in range(1, HUGE // PAGE, 2):
            unmap(fd, page * PAGE, PAGE)
        assert client.probe(address, HUGE) == "10" * (HUGE // PAGE // 2)
        assert client.get(address + 2 * PAGE, PAGE) == b"\4" * PAGE
        assert place.stat().st_blocks == HUGE // 2 // 512


def test_part_of_a_mapping_of_huge_pages(place: Path, client: poke.Poke) -> None:
    """U4: MAP_HUGETLB or not, a page can be taken; the rest keeps its contents."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, 2 * HUGE, flags=raw.ANONYMOUS | raw.MAP_HUGETLB)
        address = client.attach(place, SIZE)
        client.fill(address, 2 * HUGE, 4)
        free = raw.free_bytes(place)
        unmap(fd, HUGE - PAGE, 2 * PAGE)
        assert raw.free_bytes(place) - free == 2 * PAGE
        assert client.probe(address + HUGE - 2 * PAGE, 4 * PAGE) == "1001"
        assert client.holds(address, HUGE - PAGE, 4)
        assert client.holds(address + HUGE + PAGE, HUGE - PAGE, 4)


def test_client_may_unmap_what_another_mapped(
    place: Path, region: int, make_poke: MakePoke
) -> None:
    """U7: whoever may write may unmap; the others see it."""
    one, two = make_poke(), make_poke()
    address = one.attach(place, SIZE)
    two.unmap(two.open(place), 0, HUGE)
    assert one.probe(address, SIZE, step=HUGE) == "0111"
