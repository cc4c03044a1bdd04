"""MAP_NORESERVE without overcommit: the memory is its owner's, whatever others touch."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.memory_group import MemoryGroup
from tests.helpers.poke import faults
from tests.helpers.raw import ANONYMOUS, HUGE, PAGE, create_mapping, refused, unmap

MOUNT_OPTIONS = "size=64M,align=4096"
PLANES = ("passthrough", "paged")

CAPACITY = 64 * raw.MIB
TOUCHES = 300_000
NORESERVE = ANONYMOUS | raw.MAP_NORESERVE


def test_memory_is_there_when_the_ioctl_returns(
    place: Path, client: poke.Poke, *, paged: bool
) -> None:
    """C12: in passthrough it is reserved, and the layout says so; P3: paged at first touch."""
    with raw.region(place, 2 * HUGE) as fd:
        create_mapping(fd, 0, HUGE, flags=NORESERVE)
        taken = 0 if paged else HUGE
        layout = raw.layout(fd)
        assert CAPACITY - raw.free_bytes(place) == layout["reserved"] == taken
        assert layout["mappings"][0]["reserve"] is not paged
        address = client.attach(place, 2 * HUGE)
        client.fill(address, HUGE, 1)
        with faults():
            client.get(address + HUGE)
        assert CAPACITY - raw.free_bytes(place) == HUGE


def test_no_more_than_there_is(place: Path, *, paged: bool) -> None:
    """C12: in passthrough what does not fit is ENOMEM, nothing changed; P3: paged is patient."""
    with raw.region(place, 2 * CAPACITY) as fd:
        create_mapping(fd, 0, HUGE)
        if paged:
            create_mapping(fd, HUGE, 2 * CAPACITY - HUGE, flags=NORESERVE)
            return
        with refused(errno.ENOMEM):
            create_mapping(fd, HUGE, CAPACITY, flags=NORESERVE)
        assert raw.mapped_ranges(fd) == [(0, HUGE)]
        create_mapping(fd, HUGE, CAPACITY - HUGE, flags=NORESERVE)


def test_neighbours_who_touch_holes(place: Path, make_poke: MakePoke, *, paged: bool) -> None:
    """C12, P3: who touches holes of his own region, again and again, takes nobody's memory.

    All the while others map with MAP_NORESERVE, and touch what they got in their own time.
    """
    size, holes = 4 * HUGE, (8 if paged else 256) * raw.MIB
    wanted, touched = 10_000 if paged else TOUCHES, 0
    neighbour, owner = make_poke(), make_poke()
    hostile = place.with_name(place.name + "-hostile")
    with raw.region(place, size) as fd, raw.region(hostile, holes):
        address, window = owner.attach(place, size), neighbour.attach(hostile, holes)
        while touched < wanted:
            create_mapping(fd, 0, size, flags=NORESERVE)
            neighbour.post(f"probe {window} {holes} {PAGE} w")
            touched += holes // PAGE
            # The first half during the touches, the rest after them.
            owner.fill(address, size // 2, 1)
            neighbour.answer()
            owner.fill(address + size // 2, size // 2, 2)
            assert owner.holds(address, size // 2, 1)
            assert owner.holds(address + size // 2, size // 2, 2)
            unmap(fd, 0, size)


@pytest.mark.root_only("makes memory groups")
@pytest.mark.parametrize("flags", [ANONYMOUS, NORESERVE], ids=["reserved", "noreserve"])
def test_memory_group_that_pays(
    group: MemoryGroup, place: Path, make_poke: MakePoke, flags: int, *, paged: bool
) -> None:
    """M17: who maps and touches does not pay for memory that the server has reserved.

    He does for what comes with his touch, the copies of the paged plane among it.
    """
    size = CAPACITY // 2
    with make_poke() as client, raw.region(place, size):
        group.add(client.pid)
        client.create_mapping(client.open(place), 0, size, flags=flags)
        client.fill(client.attach(place, size), size, 1)
        assert CAPACITY - raw.free_bytes(place) == size
        assert (group.used() > size // 2) is paged
        own = client.mmap(-1, size, flags=raw.MAP_PRIVATE | raw.MAP_ANONYMOUS)
        client.fill(own, size, 1)
        assert group.used() > size
