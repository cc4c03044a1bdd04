"""Clients at the same time: one of many wins, slow work holds up nobody, order is kept."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.poke import AT_FDCWD, command
from tests.helpers.raw import ANONYMOUS, HUGE, PAGE, create_mapping, opened, unmap
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=1G,align=4096"
PLANES = ("passthrough", "paged")

RACERS = 12
# Large enough to go to a worker thread, and to take a while.
LARGE = 512 * raw.MIB

Step = Callable[[Path, int], str]


def create(path: Path, fd: int) -> str:
    """O_EXCL."""
    return command("openat", AT_FDCWD, f"{path}-new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)


def mkdir(path: Path, fd: int) -> str:
    """A directory."""
    return command("mkdirat", AT_FDCWD, f"{path}-new", 0o700)


def link(path: Path, fd: int) -> str:
    """A hard link to one name."""
    return command("linkat", AT_FDCWD, path, AT_FDCWD, f"{path}-new", 0)


def rename(path: Path, fd: int) -> str:
    """The only one to take the name away."""
    return command("renameat2", AT_FDCWD, f"{path}-old", AT_FDCWD, f"{path}-new", 0)


def unlink(path: Path, fd: int) -> str:
    """The only one to remove it."""
    return command("unlinkat", AT_FDCWD, f"{path}-old", 0)


def set_size(path: Path, fd: int) -> str:
    """Once and never again."""
    return command("ftruncate", fd, HUGE)


def map_noreplace(path: Path, fd: int) -> str:
    """A range that is free for one."""
    flags = ANONYMOUS | raw.MAP_FIXED_NOREPLACE
    return command("ioctl", fd, raw.CREATE_MAPPING, raw.create_payload(0, PAGE, flags=flags))


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (create, errno.EEXIST),
        (mkdir, errno.EEXIST),
        (link, errno.EEXIST),
        (rename, errno.ENOENT),
        (unlink, errno.ENOENT),
        (set_size, errno.EINVAL),
        (map_noreplace, errno.EEXIST),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_one_of_many_wins(place: Path, make_poke: MakePoke, step: Step, code: int) -> None:
    """N1, S5, C8: of a dozen that do the same at once, one succeeds and all others get the errno."""
    others = [Path(f"{place}-old"), Path(f"{place}-new")]
    racers = [make_poke() for _ in range(RACERS)]
    with raw.region(place, HUGE if step is map_noreplace else None):
        fds = [racer.open(place) for racer in racers]
        for _ in range(5 if step is not set_size else 1):
            if step in {rename, unlink}:
                with opened(others[0], os.O_CREAT | os.O_RDWR):
                    pass
            for racer, fd in zip(racers, fds, strict=True):
                racer.post(step(place, fd))
            outcomes = [outcome_of(racer) for racer in racers]
            assert sorted(outcomes) == [0] + [code] * (RACERS - 1)
            clean(place, others, fds[0], racers[0])


def outcome_of(racer: poke.Poke) -> int:
    """The errno of the posted command, 0 for success."""
    try:
        racer.answer()
    except OSError as error:
        return error.errno or 0
    return 0


def clean(place: Path, others: list[Path], fd: int, racer: poke.Poke) -> None:
    """Undo what the winner did."""
    for path in others:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
    if raw.layout(place)["mappings"]:
        racer.unmap(fd, 0, PAGE)


def test_slow_mapping_holds_up_nobody(mounted: mount.Mount, place: Path, client: poke.Poke) -> None:
    """C10: while half a GiB is being reserved, other clients get their answers."""
    other = place.with_name(place.name + "-other")
    with raw.region(place, LARGE), raw.region(other, HUGE) as fd:
        before = mounted.status()["operations"].get("IOCTL", {"count": 0})["count"]
        payload = raw.create_payload(0, LARGE)
        client.post(command("ioctl", client.open(place), raw.CREATE_MAPPING, payload))
        eventually(lambda: mounted.status()["arena"]["used"] > 0, step=0.0005)
        create_mapping(fd, 0, HUGE)
        seen = raw.layout(place)["mapped"]
        client.answer()
        assert raw.layout(place)["mapped"] == LARGE
        assert mounted.status()["operations"]["IOCTL"]["count"] == before + 2
    # Where the machine is faster than our own request there is nothing to see.
    assert seen in {0, LARGE}


def test_changes_of_a_region_go_in_order(place: Path, make_poke: MakePoke) -> None:
    """C10, U7: large and small changes of one region by several clients, sent one after another."""
    with raw.region(place, LARGE) as fd:
        clients = [make_poke() for _ in range(3)]
        fds = [each.open(place) for each in clients]
        for _ in range(3):
            large = raw.create_payload(0, LARGE)
            clients[0].post(command("ioctl", fds[0], raw.CREATE_MAPPING, large))
            for each, own in zip(clients[1:], fds[1:], strict=True):
                page = raw.unmap_payload(clients.index(each) * PAGE, PAGE)
                each.post(command("ioctl", own, raw.UNMAP, page))
            for each in clients:
                each.answer()
            # The unmaps came before or after the map, each of them as a whole.
            mapped = raw.layout(fd)["mapped"]
            assert (LARGE - mapped) // PAGE in {0, 1, 2}
            assert raw.layout(fd)["reserved"] == mapped == place.stat().st_blocks * 512
            unmap(fd, 0, LARGE)
            assert raw.layout(fd)["mapped"] == 0


def test_unlink_during_a_slow_mapping(mounted: mount.Mount, place: Path, client: poke.Poke) -> None:
    """N10: the name may go while memory is being reserved; nothing is left in the end."""
    for _ in range(5):
        fd = client.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        client.call("ftruncate", fd, LARGE)
        client.post(command("ioctl", fd, raw.CREATE_MAPPING, raw.create_payload(0, LARGE)))
        place.unlink()
        client.answer()
        client.close(fd)
        mounted.wait_until_empty()


def test_two_slow_mappings_for_which_there_is_no_room(
    mounted: mount.Mount, place: Path, make_poke: MakePoke
) -> None:
    """C9: of two that together are too large one gets ENOMEM, and the sums are right."""
    size = 768 * raw.MIB
    other = place.with_name(place.name + "-other")
    with raw.region(place, size) as one, raw.region(other, size) as two:
        clients = [make_poke(), make_poke()]
        for each, path in zip(clients, (place, other), strict=True):
            payload = raw.create_payload(0, size)
            each.post(command("ioctl", each.open(path), raw.CREATE_MAPPING, payload))
        assert sorted(map(outcome_of, clients)) == [0, errno.ENOMEM]
        assert raw.layout(one)["mapped"] + raw.layout(two)["mapped"] == size
        assert raw.GIB - raw.free_bytes(place) == size
        arena = mounted.status()["arena"]
        assert arena["reserved"] == arena["used"] == arena["limit"] == size
