"""Nothing leaks: descriptors, segments, memory and inodes after many cycles of everything."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.rename import EXCHANGE, rename2
from tests.helpers import mount, poke, raw
from tests.helpers.raw import ANONYMOUS, HUGE, PAGE, create_mapping, opened, refused, unmap
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=64M,align=4096,overcommit"

CYCLES = 300


def resident_kib(pid: int) -> int:
    """VmRSS of a process without the shared memory in it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError(f"no RssAnon for {pid}")


def descriptors(mounted: mount.Mount) -> int:
    """How many descriptors both processes of the daemon have open, once the standby server is
    there: the supervisor holds one to it, and more while it starts it."""
    pids = mounted.status()["pids"]
    eventually(lambda: mount.standby_of(pids["supervisor"]), what="a standby server")
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids.values())


def segments(mounted: mount.Mount) -> set[str]:
    """The names in the private arena, or of ours in the machine's /dev/shm."""
    if not mount.PRIVILEGED:
        return mount.shared_memory_names()
    return set(os.listdir(mount.arena_of(mounted.server_pid)))


def create_and_remove(path: Path) -> None:
    """The life of an unsized region."""
    with raw.region(path):
        pass


def whole_life(path: Path) -> None:
    """The life of a region with everything in it."""
    with raw.region(path, 4 * HUGE) as fd:
        create_mapping(fd, 0, HUGE)
        create_mapping(fd, PAGE, PAGE, flags=ANONYMOUS | raw.MAP_NORESERVE)
        create_mapping(fd, 2 * HUGE, HUGE, flags=ANONYMOUS | raw.MAP_HUGETLB)
        unmap(fd, PAGE, HUGE)


def open_and_close(path: Path) -> None:
    """Handles of each kind."""
    with raw.region(path, HUGE):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_PATH):
            with opened(path, flags):
                pass


def refusals(path: Path) -> None:
    """What fails at each step."""
    with raw.region(path) as fd:
        with refused(errno.EEXIST):
            os.mkdir(path)
        with refused(errno.EINVAL):
            os.ftruncate(fd, 1)
        with refused(errno.EINVAL):
            create_mapping(fd, 0, PAGE)
        os.ftruncate(fd, 128 * raw.MIB)
        with refused(errno.ENOMEM):
            create_mapping(fd, 0, 128 * raw.MIB)
        with refused(errno.EINVAL), opened(path, os.O_RDWR | os.O_TRUNC):
            pass
        with refused(errno.EINVAL):
            os.read(fd, 1)
        with refused(errno.ENODATA):
            os.getxattr(path, "user.other")


def names(path: Path) -> None:
    """Directories, links and renames."""
    path.mkdir()
    with raw.region(path / "a"), raw.region(path / "b"):
        os.link(path / "a", path / "c")
        rename2(path / "a", path / "b", EXCHANGE)
        os.rename(path / "c", path / "d")
        os.listdir(path)
        os.unlink(path / "d")
    path.rmdir()


def unlink_while_open(path: Path) -> None:
    """A region that loses its name before its handle."""
    with raw.region(path, HUGE, mapped=True):
        os.unlink(path)


def missing_names(path: Path) -> None:
    """Look-ups of names that are not there."""
    for number in range(10):
        assert not Path(f"{path}-{number}-{os.urandom(4).hex()}").exists()


@pytest.mark.parametrize(
    "cycle",
    [
        create_and_remove,
        whole_life,
        open_and_close,
        refusals,
        names,
        unlink_while_open,
        missing_names,
    ],
    ids=lambda cycle: cycle.__name__,
)
def test_cycles_leave_nothing(
    mounted: mount.Mount, place: Path, cycle: Callable[[Path], None]
) -> None:
    """N10: after hundreds of rounds descriptors, names, inodes and memory are what they were."""
    for _ in range(30):
        cycle(place)
    mounted.wait_until_empty()
    # libfuse makes its pipe with the first request that it sees, and statfs goes to it.
    inodes = eventually(lambda: raw.used_inodes(mounted.path))
    before = descriptors(mounted), segments(mounted)
    rss = resident_kib(mounted.server_pid)
    for _ in range(CYCLES):
        cycle(place)
    mounted.wait_until_empty()
    assert (descriptors(mounted), segments(mounted)) == before
    eventually(lambda: raw.used_inodes(mounted.path) <= inodes, what="inodes")
    # An allocator's own slack, no matter how many cycles.
    assert resident_kib(mounted.server_pid) - rss < 4096
    assert mounted.status()["open_handles"] == 0


def test_attaching_leaves_nothing(mounted: mount.Mount, place: Path, client: poke.Poke) -> None:
    """N10: hundreds of attach and detach by a client, region after region."""
    mounted.wait_until_empty()
    before = descriptors(mounted), segments(mounted)
    for _ in range(CYCLES):
        with raw.region(place, HUGE, mapped=True):
            address = client.attach(place, HUGE)
            client.put(address, b"x")
        client.munmap(address, HUGE)
    mounted.wait_until_empty()
    assert (descriptors(mounted), segments(mounted)) == before


def test_many_regions_at_once(mounted: mount.Mount, place: Path) -> None:
    """N10: two thousand regions, sized and mapped, and all gone again."""
    mounted.wait_until_empty()
    before = descriptors(mounted), segments(mounted)
    place.mkdir()
    for number in range(2000):
        with opened(place / str(number), os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, raw.GIB)
            create_mapping(fd, number * PAGE, PAGE)
    assert mounted.status()["regions"] == 2000
    assert mounted.status()["arena"]["reserved"] == 2000 * PAGE
    for number in range(2000):
        os.unlink(place / str(number))
    place.rmdir()
    mounted.wait_until_empty()
    assert (descriptors(mounted), segments(mounted)) == before
