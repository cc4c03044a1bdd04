"""Calls that make all pages of a mapping present, over holes: they end, and the holes stay."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.helpers.poke import Poke, faults
from tests.helpers.raw import HUGE, PAGE
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=64M,data=paged"

MCL_CURRENT, MCL_FUTURE = 1, 2
MADV_POPULATE_READ, MADV_POPULATE_WRITE = 22, 23
PAGES = HUGE // PAGE
PART = PAGES // 4


def populate(client: Poke, fd: int) -> int:
    """MAP_POPULATE."""
    return client.mmap(fd, HUGE, flags=raw.MAP_SHARED | raw.MAP_POPULATE)


def lock_later(client: Poke, fd: int) -> int:
    """mlockall before the mmap."""
    client.call("mlockall", MCL_FUTURE)
    return client.mmap(fd, HUGE)


def lock_all(client: Poke, fd: int) -> int:
    """mlockall after it."""
    address = client.mmap(fd, HUGE)
    client.call("mlockall", MCL_CURRENT)
    return address


def lock(client: Poke, fd: int) -> int:
    """mlock."""
    address = client.mmap(fd, HUGE)
    client.call("mlock", address, HUGE)
    return address


def advise(client: Poke, fd: int) -> int:
    """madvise, which can fail, and does."""
    address = client.mmap(fd, HUGE)
    for advice in (MADV_POPULATE_READ, MADV_POPULATE_WRITE):
        with raw.refused(errno.EFAULT):
            client.call("madvise", address, HUGE, advice)
    return address


def shown(pattern: str) -> str:
    """What a probe of each page tells, for "1" (mapped) and "0" (a hole) of a quarter each."""
    return "".join(letter * PART for letter in pattern)


@pytest.mark.parametrize("pattern", ["0000", "1010", "0101"])
@pytest.mark.parametrize(
    "way",
    [
        populate,
        lock_later,
        pytest.param(
            lock_all, marks=pytest.mark.root_only("the client is larger than RLIMIT_MEMLOCK")
        ),
        lock,
        advise,
    ],
)
def test_the_call_ends_and_the_holes_stay(
    mounted: Mount, place: Path, client: Poke, way: Callable[[Poke, int], int], pattern: str
) -> None:
    """P6: nobody asks any more when it has ended, and a touch of a hole is SIGBUS again."""
    with raw.region(place, HUGE) as fd:
        for part, letter in enumerate(pattern):
            if letter == "1":
                raw.create_mapping(fd, part * PART * PAGE, PART * PAGE)
        address = way(client, client.open(place))
        at_once = client.probe(address, HUGE)
        last_pages = {match.end() - 1 for match in re.finditer("0+", shown(pattern))}
        for page, wanted in enumerate(shown(pattern)):
            assert at_once[page] == wanted or page in last_pages, page
        eventually(lambda: client.probe(address, HUGE) == shown(pattern))
        asked = mounted.status()["operations"]["READ"]["count"]
        assert mounted.status()["operations"]["READ"]["count"] == asked


def test_what_is_mapped_over_a_populated_hole_is_zeros(place: Path, client: Poke) -> None:
    """P6: also where somebody wrote into the hole while zeros were lent in it."""
    with raw.region(place, HUGE) as fd:
        address = populate(client, client.open(place))
        for page in range(PAGES - 1, -1, -1):
            try:
                client.put(address + page * PAGE, b"gone")
            except poke.Fault:
                break
        raw.create_mapping(fd, 0, HUGE)
        assert client.holds(address, HUGE, 0)


def test_one_page_touched_again_and_again_stays_a_hole(place: Path, client: Poke) -> None:
    """P6: also for who catches SIGBUS and goes back."""
    with raw.region(place, HUGE):
        address = client.attach(place, HUGE)
        for _ in range(50):
            with faults():
                client.get(address)


def test_memory_that_there_is_none_of(make_mount: MakeMount) -> None:
    """P6: MAP_NORESERVE of more than the mount has: the call ends, and what was had is there."""
    path = make_mount("size=1M,data=paged").path / "r"
    with raw.region(path, HUGE) as fd:
        raw.create_mapping(fd, 0, HUGE, flags=raw.ANONYMOUS | raw.MAP_NORESERVE)
        with poke.compiled() as program, Poke(program) as client:
            address = populate(client, client.open(path))
            eventually(lambda: client.probe(address, HUGE) == shown("1100"))
