"""Memory that came in small pages is put into huge ones in the background, and what that leaves alone.

Small pages are had by mappings of less than 2 MiB side by side, which is also what free memory in
small pieces gives.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from tests.cli.tool import mshare
from tests.helpers import mount, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.memory_group import MemoryGroup
from tests.helpers.poke import Poke, faults, smaps
from tests.helpers.raw import HUGE, MIB, PAGE, refused
from tests.helpers.waiting import eventually

pytestmark = [
    pytest.mark.mount,
    pytest.mark.root_only("mmap(2) of a file maps the memory itself on root's mounts alone"),
]
PLANES = ("passthrough",)
SIZE = 32 * MIB
PATIENCE = 40.0


def map_small(fd: int, size: int = SIZE) -> None:
    """Memory for all of it, in small pages."""
    for start in range(0, size, MIB):
        raw.create_mapping(fd, start, MIB)


def collapsed(path: Path) -> int:
    """The bytes that the layout says are in huge pages."""
    return raw.collapsed(path)


def wait_until_collapsed(path: Path, size: int = SIZE) -> None:
    """The work in the background ends."""
    eventually(lambda: collapsed(path) == size, timeout=PATIENCE, what="all in huge pages")


def page_tables(pid: int) -> int:
    """Bytes of page tables of a process (VmPTE)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmPTE:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmPTE")


def test_what_is_there_stays(place: Path, client: Poke) -> None:
    """And is mapped by huge entries after the next touch."""
    with raw.region(place, SIZE) as fd:
        address = client.attach(place, SIZE)
        map_small(fd)
        client.fill(address, SIZE, 7)
        wait_until_collapsed(place)
        assert client.holds(address, SIZE, 7)
        assert smaps(client.pid, address, SIZE)["ShmemPmdMapped"] == SIZE // 1024
        assert raw.layout(place)["reserved"] == SIZE


def test_page_tables_of_who_touched_it_before_fall(place: Path, client: Poke) -> None:
    """A process that had an entry for each small page has given back nearly a page for each 2 MiB."""
    size = 64 * MIB
    with raw.region(place, size) as fd:
        address = client.attach(place, size)
        bare = page_tables(client.pid)
        map_small(fd, size)
        client.probe(address, size, step=PAGE)
        wait_until_collapsed(place, size)
        assert page_tables(client.pid) - bare < size // HUGE * PAGE // 4
        assert place.stat().st_blocks * 512 == size


def test_an_unmap_meanwhile_is_exact(place: Path, client: Poke) -> None:
    """However far it is: what was unmapped faults and has no memory, then and afterwards."""
    with raw.region(place, SIZE) as fd:
        address = client.attach(place, SIZE)
        map_small(fd)
        client.fill(address, SIZE, 9)
        for start in range(0, SIZE, 4 * MIB):
            raw.unmap(fd, start + PAGE, PAGE)
            with faults():
                client.get(address + start + PAGE)
        wait_until_collapsed(place, SIZE // 2)
        there = client.probe(address, SIZE, step=PAGE)
        holes = [page for page, is_there in enumerate(there) if is_there == "0"]
        assert holes == [start // PAGE + 1 for start in range(0, SIZE, 4 * MIB)]
        assert place.stat().st_blocks * 512 == SIZE - len(holes) * PAGE
        assert client.holds(address + 2 * MIB, 2 * MIB, 9)


def test_other_requests_are_served_meanwhile(place: Path) -> None:
    """Of the same region, too: none of them waits for the whole."""
    with raw.region(place, 2 * SIZE) as fd:
        map_small(fd)
        rounds = 0
        while collapsed(place) < SIZE:
            raw.create_mapping(fd, SIZE + PAGE, PAGE)
            raw.unmap(fd, SIZE + PAGE, PAGE)
            rounds += 1
        assert rounds > 1


def test_a_killed_server_leaves_it_to_the_next(place: Path, mounted: mount.Mount) -> None:
    """In the middle of the work: nothing is lost, and the next one does the rest."""
    with raw.region(place, SIZE) as fd:
        map_small(fd)
        eventually(lambda: collapsed(place) > 0, timeout=PATIENCE)
        mounted.expect_log("the server ended with -9")
        os.kill(mounted.server_pid, signal.SIGKILL)
        wait_until_collapsed(place)
        raw.unmap(fd, 0, SIZE)
        assert collapsed(place) == 0


def test_unmounting_does_not_wait_for_it(make_mount: MakeMount) -> None:
    """However much of the work is undone; nothing is left behind."""
    mounted = make_mount("size=512M")
    with raw.opened(mounted.path / "region", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 256 * MIB)
        map_small(fd, 256 * MIB)
    assert mount.unmount(mounted.path).returncode == 0
    assert mounted.process.wait(mount.STOP_SECONDS) == 0


def test_huge_never_stays_never(make_mount: MakeMount, client: Poke) -> None:
    """Only what asked for huge pages with MAP_HUGETLB has them."""
    mounted = make_mount("size=64M,huge=never,data=passthrough")
    small, asked = mounted.path / "small", mounted.path / "asked"
    with raw.region(small, 4 * HUGE, mapped=True), raw.region(asked, HUGE) as fd:
        raw.create_mapping(fd, 0, HUGE, flags=raw.ANONYMOUS | raw.MAP_HUGETLB)
        wait_until_collapsed(asked, HUGE)
        address = client.attach(small, 4 * HUGE)
        client.fill(address, 4 * HUGE, 1)
        assert collapsed(small) == 0
        assert smaps(client.pid, address, 4 * HUGE)["ShmemPmdMapped"] == 0
    client.kill()


def test_the_paged_plane_does_not_begin(make_mount: MakeMount) -> None:
    """Programs would have small pages all the same, and the status says so."""
    mounted = make_mount("size=64M,data=paged")
    with raw.region(mounted.path / "region", 2 * HUGE, mapped=True):
        assert collapsed(mounted.path / "region") == 0
        assert "page cache" in mounted.status()["huge_pages"]["obstacle"]


def test_it_makes_way_where_memory_is_short(group: MemoryGroup, make_mount: MakeMount) -> None:
    """Regions are served as before, the status says what is missing, and once there is memory
    again the rest is done."""
    mounted = make_mount("size=1G,data=passthrough")
    eventually(lambda: len(mount.processes_of(mounted.marker)) == 3, what="a standby")
    for pid in mount.processes_of(mounted.marker):
        group.add(pid)
    group.limit(150 * MIB)
    path = mounted.path / "region"
    with raw.region(path, 512 * MIB) as fd:
        mapped = 0
        with refused(errno.ENOMEM):
            for mapped in range(0, 512 * MIB, MIB):
                raw.create_mapping(fd, mapped, MIB)
        # Its huge page is taken apart, and for a new one there is no room.
        raw.unmap(fd, 0, MIB)
        raw.create_mapping(fd, 0, MIB)
        eventually(lambda: mounted.status()["huge_pages"]["obstacle"], timeout=PATIENCE)
        assert "ENOMEM" in mounted.status()["huge_pages"]["obstacle"]
        assert "blocks of 2 MiB" in mshare("stat", path).ok().out
        assert "blocks of 2 MiB" in mshare("status", mounted.path).ok().out
        group.limit(600 * MIB)
        wait_until_collapsed(path, mapped // HUGE * HUGE)
        assert mounted.status()["huge_pages"]["obstacle"] is None
    assert mounted.status()["restarts"] == 0
