"""What the paged data plane promises beyond the rules of every mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.mount import Mount
from tests.helpers.raw import ANONYMOUS, HUGE, MAP_NORESERVE, PAGE

MOUNT_OPTIONS = "size=64M,data=paged"

pytestmark = pytest.mark.usefixtures("requires_fuse")


def test_this_mount_is_paged(mounted: Mount) -> None:
    """The status says which data plane serves, and that it was asked for."""
    assert mounted.status()["data_plane"]["name"] == "paged"


def test_unmapped_pages_are_dropped_before_the_ioctl_returns(
    place: Path, client: poke.Poke
) -> None:
    """P2: pages that a process has touched, read or written, are gone when UNMAP returns."""
    with raw.region(place, HUGE, mapped=True) as fd:
        address = client.attach(place, HUGE)
        client.put(address, b"dirty")
        assert client.get(address + PAGE) == b"\0"
        raw.unmap(fd, 0, 2 * PAGE)
        for touched in (address, address + PAGE):
            with poke.faults():
                client.get(touched)
        assert client.get(address + 2 * PAGE) == b"\0"


def test_replaced_pages_read_as_zeros_when_the_ioctl_returns(
    place: Path, client: poke.Poke
) -> None:
    """P2: what was written before CREATE_MAPPING replaces it is zeros in every process after."""
    with raw.region(place, HUGE, mapped=True) as fd:
        address = client.attach(place, HUGE)
        client.put(address, b"old")
        raw.create_mapping(fd, 0, HUGE)
        assert client.get(address, 3) == b"\0\0\0"


def test_holes_stay_holes_beside_an_untouched_budget(place: Path, client: poke.Poke) -> None:
    """P3: memory that MAP_NORESERVE mappings have not used yet does not fill holes."""
    with raw.region(place, 2 * HUGE) as fd:
        raw.create_mapping(fd, 0, HUGE, flags=ANONYMOUS | MAP_NORESERVE)
        address = client.attach(place, 2 * HUGE)
        with poke.faults():
            client.get(address + HUGE)
        client.put(address, b"x")
        # Read-ahead asks for some pages more.
        assert PAGE <= os.fstat(fd).st_blocks * 512 <= HUGE
        with poke.faults():
            client.put(address + HUGE, b"x")
