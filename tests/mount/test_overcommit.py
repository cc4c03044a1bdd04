"""MAP_NORESERVE where it takes memory at the first touch: the paged plane, and overcommit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.memory_group import MemoryGroup
from tests.helpers.poke import faults
from tests.helpers.raw import ANONYMOUS, HUGE, PAGE, create_mapping, unmap
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=64M,align=4096,overcommit"
PLANES = ("passthrough", "paged")

CAPACITY = 64 * raw.MIB
SIZE = 8 * HUGE
NORESERVE = ANONYMOUS | raw.MAP_NORESERVE


def test_noreserve_takes_memory_at_first_touch(place: Path, client: poke.Poke) -> None:
    """C20, P3: nothing is taken by the ioctl; what is touched shows in df and st_blocks; UNMAP frees."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, SIZE, flags=NORESERVE)
        assert raw.free_bytes(place) == CAPACITY
        assert place.stat().st_blocks == 0
        (mapping,) = raw.layout(fd)["mappings"]
        assert (mapping["reserve"], raw.layout(fd)["reserved"]) == (False, 0)
        address = client.attach(place, SIZE)
        assert client.get(address + HUGE) == b"\0"
        client.put(address + HUGE, b"x")
        used = CAPACITY - raw.free_bytes(place)
        # One touch may bring a whole huge page.
        assert PAGE <= used <= HUGE
        assert place.stat().st_blocks * 512 == used
        unmap(fd, 0, SIZE)
        eventually(lambda: raw.free_bytes(place) == CAPACITY)
        assert place.stat().st_blocks == 0
        with faults():
            client.get(address + HUGE)


def test_noreserve_may_promise_more_than_there_is(place: Path, client: poke.Poke) -> None:
    """C20, P3: larger than the mount is allowed; touching beyond size= is SIGBUS, and no damage."""
    size = 2 * CAPACITY
    with raw.region(place, size) as fd:
        create_mapping(fd, 0, size, flags=NORESERVE)
        address = client.attach(place, size)
        assert set(client.probe(address, CAPACITY, writing=True)) == {"1"}
        beyond = client.probe(address + CAPACITY, CAPACITY, step=HUGE, writing=True)
        assert set(beyond) == {"0"}
        assert raw.free_bytes(place) == 0
        unmap(fd, 0, size)
        eventually(lambda: raw.free_bytes(place) == CAPACITY)


def test_reserved_memory_is_safe_from_noreserve(place: Path, client: poke.Poke) -> None:
    """C20, P3: what was reserved is there when all the rest has been touched away."""
    with raw.region(place, 2 * CAPACITY) as fd:
        create_mapping(fd, 0, HUGE)
        create_mapping(fd, HUGE, CAPACITY, flags=NORESERVE)
        address = client.attach(place, 2 * CAPACITY)
        client.probe(address + HUGE, CAPACITY, step=HUGE, writing=True)
        client.fill(address, HUGE, 1)
        assert client.get(address, HUGE) == b"\1" * HUGE


def test_holes_are_holes_again_after_noreserve(place: Path, client: poke.Poke) -> None:
    """C20, P3: once the last MAP_NORESERVE mapping is gone, a touch of a hole is SIGBUS for sure."""
    other = place.with_name(place.name + "-other")
    with raw.region(place, SIZE) as fd, raw.region(other, SIZE) as second:
        create_mapping(fd, 0, HUGE, flags=NORESERVE)
        create_mapping(second, 0, HUGE)
        address = client.attach(other, SIZE)
        # Best effort while the budget lasts: this may or may not fault.
        client.probe(address + 4 * HUGE, PAGE)
        unmap(fd, 0, SIZE)
        assert set(client.probe(address + HUGE, SIZE - HUGE, step=HUGE)) == {"0"}
        assert client.get(address) == b"\0"
        eventually(lambda: CAPACITY - raw.free_bytes(place) == HUGE)


def test_noreserve_becomes_reserved(place: Path, client: poke.Poke) -> None:
    """C7, C20, P3: mapping the range again without the flag reserves it, as zeros."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, HUGE, flags=NORESERVE)
        address = client.attach(place, SIZE)
        client.put(address, b"gone")
        create_mapping(fd, 0, HUGE)
        assert client.get(address, 4) == bytes(4)
        assert CAPACITY - raw.free_bytes(place) == HUGE
        assert place.stat().st_blocks * 512 == HUGE


@pytest.mark.root_only("makes memory groups")
def test_memory_group_that_pays(group: MemoryGroup, place: Path, make_poke: MakePoke) -> None:
    """M17: who touches a page of MAP_NORESERVE first pays for it."""
    size = CAPACITY // 2
    with make_poke() as client, raw.region(place, size) as fd:
        create_mapping(fd, 0, size, flags=NORESERVE)
        group.add(client.pid)
        client.fill(client.attach(place, size), size, 1)
        assert group.used() > size


def test_touches_of_holes_take_what_nobody_has_touched(
    place: Path, make_poke: MakePoke, *, paged: bool
) -> None:
    """C20: what the note says: in passthrough the owner may get SIGBUS; P3: not so when paged."""
    hostile = place.with_name(place.name + "-hostile")
    neighbour, owner = make_poke(), make_poke()
    with raw.region(place, HUGE) as fd, raw.region(hostile, SIZE):
        create_mapping(fd, 0, HUGE, flags=NORESERVE)
        window = neighbour.attach(hostile, SIZE)
        taken = neighbour.probe(window, SIZE, writing=True).count("1") * PAGE
        address = owner.attach(place, HUGE)
        assert taken == (0 if paged else HUGE)
        if paged:
            owner.fill(address, HUGE, 1)
            return
        with faults():
            owner.get(address)
