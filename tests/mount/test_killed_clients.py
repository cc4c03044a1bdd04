"""Clients that are killed in the middle of something leave a mount that is right and tidy."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.poke import AT_FDCWD, command
from tests.helpers.raw import HUGE, PAGE
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=256M,align=4096"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)

CAPACITY = 256 * raw.MIB
SIZE = 16 * HUGE
ROUNDS = 12
CREATE = os.O_CREAT | os.O_RDWR
# A descriptor number far above what the client has, so that the loop knows what it will get.
FD = 3

Steps = Callable[[Path], list[str]]


def creating(place: Path) -> list[str]:
    """Create, size and unlink a region."""
    return [
        command("openat", AT_FDCWD, place / "new", CREATE, 0o600),
        command("ftruncate", FD, SIZE),
        command("unlinkat", AT_FDCWD, place / "new", 0),
        command("close", FD),
    ]


def mapping(place: Path) -> list[str]:
    """Map and unmap, small and large."""
    return [
        command("openat", AT_FDCWD, place / "region", os.O_RDWR, 0),
        command("ioctl", FD, raw.CREATE_MAPPING, raw.create_payload(0, SIZE)),
        command("ioctl", FD, raw.UNMAP, raw.unmap_payload(PAGE, SIZE // 2)),
        command("ioctl", FD, raw.CREATE_MAPPING, raw.create_payload(HUGE, 3 * PAGE)),
        command("ioctl", FD, raw.UNMAP, raw.unmap_payload(0, SIZE)),
        command("close", FD),
    ]


def renaming(place: Path) -> list[str]:
    """Make directories and files, rename and remove them."""
    return [
        command("mkdirat", AT_FDCWD, place / "d", 0o700),
        command("openat", AT_FDCWD, place / "d" / "f", CREATE, 0o600),
        command("close", FD),
        command("renameat2", AT_FDCWD, place / "d" / "f", AT_FDCWD, place / "g", 0),
        command("renameat2", AT_FDCWD, place / "g", AT_FDCWD, place / "d", 2),
        command("unlinkat", AT_FDCWD, place / "g", 0x200),
        command("unlinkat", AT_FDCWD, place / "d", 0),
    ]


def linking(place: Path) -> list[str]:
    """Make and remove hard links."""
    return [
        command("linkat", AT_FDCWD, place / "region", AT_FDCWD, place / "link", 0),
        command("unlinkat", AT_FDCWD, place / "link", 0),
    ]


def opening(place: Path) -> list[str]:
    """Open and close, and look at the layout."""
    return [
        command("openat", AT_FDCWD, place / "region", os.O_RDWR, 0),
        command("fgetxattr", FD, "user.msharefs.layout", bytes(4096), 4096),
        command("close", FD),
    ]


def attaching(place: Path) -> list[str]:
    """Attach without ever detaching."""
    return [
        command("openat", AT_FDCWD, place / "region", os.O_RDWR, 0),
        command("mmap", 0, SIZE, raw.RW, raw.MAP_SHARED, FD, 0),
        command("close", FD),
    ]


def reserving(place: Path) -> list[str]:
    """Map much at a time, so that the kill falls into a reservation."""
    return [
        command("openat", AT_FDCWD, place / "large", CREATE, 0o600),
        command("ftruncate", FD, CAPACITY),
        command("ioctl", FD, raw.CREATE_MAPPING, raw.create_payload(0, CAPACITY - SIZE)),
        command("ioctl", FD, raw.UNMAP, raw.unmap_payload(0, CAPACITY)),
        command("close", FD),
    ]


@pytest.mark.parametrize(
    "steps",
    [creating, mapping, renaming, linking, opening, attaching, reserving],
    ids=lambda steps: steps.__name__,
)
def test_kill_in_the_middle(
    mounted: mount.Mount, place: Path, make_poke: MakePoke, steps: Steps
) -> None:
    """N10, M11: wherever SIGKILL falls, names, layouts, handles and df agree afterwards."""
    place.mkdir()
    chance = random.Random(steps.__name__)
    with raw.region(place / "region", SIZE) as fd:
        for _ in range(ROUNDS):
            victims = [make_poke() for _ in range(2)]
            for victim in victims:
                victim.forever(*steps(place))
            # Any moment will do; this only spreads the kills over the loop.
            time.sleep(chance.uniform(0.0, 0.03))
            for victim in victims:
                victim.kill()
            check_consistent(mounted, place)
        assert raw.layout(fd)["size"] == SIZE
    remove_all(place)
    mounted.wait_until_empty()
    eventually(lambda: raw.used_inodes(mounted.path) == 2, what="inodes are left")
    assert raw.free_bytes(mounted.path) == CAPACITY


def check_consistent(mounted: mount.Mount, place: Path) -> None:
    """After all clients are gone: only our own handle, and every sum is right."""
    eventually(lambda: mounted.status()["open_handles"] == 1, what="handles of killed clients")
    reserved = 0
    for path in place.rglob("*"):
        seen = path.stat()
        if path.is_dir():
            assert seen.st_nlink == 2
            continue
        layout = raw.layout(path)
        assert layout["size"] == seen.st_size
        assert layout["reserved"] == seen.st_blocks * 512
        assert layout["reserved"] == sum(m["size"] for m in layout["mappings"])
        reserved += layout["reserved"] // seen.st_nlink

    def settled() -> bool:
        arena = mounted.status()["arena"]
        return bool(arena["reserved"] == arena["used"] == reserved)

    eventually(settled, what=f"df and layouts agree on {reserved}")
    assert CAPACITY - raw.free_bytes(place) == reserved


def remove_all(place: Path) -> None:
    """Take away what the killed clients left half done."""
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    place.rmdir()


def test_kill_while_attached_and_writing(
    mounted: mount.Mount, place: Path, make_poke: MakePoke
) -> None:
    """M11: a writer that is killed leaves its bytes and disturbs no other."""
    with raw.region(place, HUGE, mapped=True):
        other = make_poke()
        address = other.attach(place, HUGE)
        for byte in range(1, 6):
            victim = make_poke()
            window = victim.attach(place, HUGE)
            victim.put(window, bytes([byte]))
            victim.forever(f"fill {window + PAGE} {HUGE - PAGE} {byte}")
            eventually(lambda wanted=bytes([byte]): other.get(address + PAGE) == wanted)  # type: ignore[misc]
            victim.kill()
            assert other.get(address) == bytes([byte])
        other.put(address, b"last")
        assert other.get(address, 4) == b"last"


def test_kill_with_an_unlinked_region(
    mounted: mount.Mount, place: Path, make_poke: MakePoke
) -> None:
    """N10: the last process that has a nameless region attached is killed: memory is free."""
    victim = make_poke()
    fd = victim.open(place, CREATE | os.O_EXCL)
    victim.call("ftruncate", fd, SIZE)
    victim.create_mapping(fd, 0, SIZE)
    victim.put(victim.window(fd, SIZE), b"x")
    victim.call("unlinkat", AT_FDCWD, place, 0)
    assert CAPACITY - raw.free_bytes(mounted.path) == SIZE
    victim.kill()
    eventually(lambda: raw.free_bytes(mounted.path) == CAPACITY)
    mounted.wait_until_empty()


def test_stopped_client_holds_up_nobody(
    mounted: mount.Mount, place: Path, make_poke: MakePoke
) -> None:
    """M5: UNMAP and a new mapping do not wait for a process that has the region and is stopped."""
    with raw.region(place, SIZE, mapped=True) as fd:
        stopped = make_poke()
        address = stopped.attach(place, SIZE)
        stopped.fill(address, SIZE, 1)
        os.kill(stopped.pid, 19)
        try:
            # Were it waited for, these would never return, and the watchdog would abort the mount.
            raw.unmap(fd, 0, SIZE)
            raw.create_mapping(fd, 0, PAGE)
        finally:
            os.kill(stopped.pid, 18)
        assert stopped.get(address) == b"\0"
        with poke.faults():
            stopped.get(address + PAGE)
