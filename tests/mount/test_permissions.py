"""Other users: what the modes forbid stays forbidden, whatever way they take.

What is ordinary about modes is checked by tests/conformance; here is what a region adds,
and that the daemon's own things cannot be reached.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.raw import HUGE, PAGE, create_mapping, opened, refused
from tests.helpers.users import ALICE, BOB, NOBODY, as_user

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)


@pytest.mark.root_only("becomes another user")
def test_user_makes_and_uses_a_region(place: Path, make_poke: MakePoke) -> None:
    """N12: any user can make, size, map, attach and remove a region of his own."""
    client = make_poke(uid=ALICE)
    fd = client.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
    client.call("ftruncate", fd, HUGE)
    client.create_mapping(fd, 0, HUGE)
    address = client.window(fd, HUGE)
    client.put(address, b"mine")
    assert client.get(address, 4) == b"mine"
    client.unmap(fd, 0, PAGE)
    seen = place.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (ALICE, ALICE, 0o640)
    assert raw.layout(place)["creator"]["uid"] == ALICE
    client.call("unlinkat", poke.AT_FDCWD, place, 0)
    assert not place.exists()


@pytest.mark.root_only("becomes another user")
@pytest.mark.parametrize(
    ("mode", "reads", "writes"),
    [
        (0o600, False, False),
        (0o604, True, False),
        (0o602, False, True),
        (0o606, True, True),
        (0o660, False, False),
    ],
)
def test_region_of_another_user(
    place: Path, make_poke: MakePoke, mode: int, *, reads: bool, writes: bool
) -> None:
    """N12: attach, map and look as the bits for others say, and no further."""
    with raw.region(place, HUGE, mapped=True) as fd:
        os.fchmod(fd, mode)
        client = make_poke(uid=BOB)
        attempts: list[tuple[bool, Callable[[], object]]] = [
            (reads, lambda: client.attach(place, HUGE, writable=False)),
            (reads and writes, lambda: client.attach(place, HUGE)),
            (writes, lambda: client.unmap(client.open(place, os.O_WRONLY), 0, PAGE)),
            (writes, lambda: client.create_mapping(client.open(place, os.O_WRONLY), 0, PAGE)),
            (reads, lambda: as_user(BOB, lambda: raw.layout(place))),
        ]
        for allowed, attempt in attempts:
            if allowed:
                attempt()
            else:
                with refused(errno.EACCES):
                    attempt()


@pytest.mark.root_only("becomes another user")
def test_reader_cannot_take_memory_away(place: Path, make_poke: MakePoke) -> None:
    """I3, N12: who may only read gets EACCES for map and unmap, and the contents stay."""
    with raw.region(place, HUGE, mapped=True) as fd:
        os.fchmod(fd, 0o644)
        owner = make_poke()
        owner.put(owner.attach(place, HUGE), b"kept")
        reader = make_poke(uid=BOB)
        descriptor = reader.open(place, os.O_RDONLY)
        with refused(errno.EACCES):
            reader.unmap(descriptor, 0, HUGE)
        with refused(errno.EACCES):
            reader.create_mapping(descriptor, 0, HUGE)
        address = reader.window(descriptor, HUGE, prot=raw.PROT_READ)
        assert reader.get(address, 4) == b"kept"
        with refused(errno.EACCES):
            reader.call("mprotect", address, HUGE, raw.RW)


@pytest.mark.by_mmap("nothing is attached, and tests/direct/test_access.py has the same of memory")
@pytest.mark.root_only("becomes another user")
def test_reader_cannot_open_his_descriptor_anew_for_writing(
    place: Path, make_poke: MakePoke
) -> None:
    """N12: /proc/self/fd/N is no way around the mode: the file is the region, not its segment."""
    with raw.region(place, HUGE, mapped=True) as fd:
        os.fchmod(fd, 0o644)
        reader = make_poke(uid=BOB)
        descriptor = reader.open(place, os.O_RDONLY)
        with refused(errno.EACCES):
            reader.open(f"/proc/self/fd/{descriptor}", os.O_RDWR)
        again = reader.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
        with refused(errno.EINVAL):
            reader.call("read", again, bytes(8), 8)


@pytest.mark.root_only("becomes another user")
def test_group_shares_a_region(place: Path) -> None:
    """N12: a supplementary group opens the region to its members."""
    group = 61099
    with raw.region(place, HUGE, mapped=True) as fd:
        os.fchown(fd, ALICE, group)
        os.fchmod(fd, 0o660)

        def work() -> None:
            with opened(place) as own:
                create_mapping(own, 0, PAGE)

        as_user(BOB, work, groups=(group,))
        with refused(errno.EACCES):
            as_user(BOB, work)
        assert raw.layout(fd)["counters"]["maps"] == 2


@pytest.mark.root_only("becomes another user")
def test_rights_are_asked_at_open(place: Path, make_poke: MakePoke) -> None:
    """N12: a chmod does not take away what is open or attached; the next open feels it."""
    with raw.region(place, HUGE, mapped=True) as fd:
        os.fchmod(fd, 0o666)
        client = make_poke(uid=BOB)
        descriptor = client.open(place)
        address = client.window(descriptor, HUGE)
        os.fchmod(fd, 0o600)
        with refused(errno.EACCES):
            client.open(place)
        client.put(address, b"x")
        client.unmap(descriptor, PAGE, PAGE)


@pytest.mark.root_only("becomes another user")
def test_nobody_removes_anothers_region(place: Path) -> None:
    """A8, N12: in the root directory, which is sticky, only the owner removes and renames."""
    with raw.region(place):
        os.chown(place, ALICE, ALICE)
        with refused(errno.EPERM):
            as_user(BOB, lambda: os.unlink(place))
        with refused(errno.EPERM):
            as_user(BOB, lambda: os.rename(place, f"{place}-stolen"))
        as_user(ALICE, lambda: os.rename(place, f"{place}-moved"))
        as_user(ALICE, lambda: os.unlink(f"{place}-moved"))


@pytest.mark.root_only("becomes another user")
def test_nobody_sizes_anothers_region(place: Path) -> None:
    """N12: truncate(2) needs the right to write; the region stays unsized."""
    with raw.region(place) as fd:
        os.fchmod(fd, 0o644)
        with refused(errno.EACCES):
            as_user(BOB, lambda: os.truncate(place, HUGE))
        assert os.fstat(fd).st_size == 0


@pytest.mark.root_only("becomes another user")
def test_directory_that_others_cannot_enter(place: Path, make_poke: MakePoke) -> None:
    """N12: what is in a private directory cannot be reached, whatever its own mode."""
    place.mkdir(mode=0o700)
    with raw.region(place / "r", HUGE, mapped=True) as fd:
        os.fchmod(fd, 0o666)
        with refused(errno.EACCES):
            make_poke(uid=BOB).open(place / "r")
    place.rmdir()


@pytest.mark.root_only("becomes another user")
def test_memory_is_never_handed_on(mounted: mount.Mount, make_poke: MakePoke) -> None:
    """N12: what one user wrote is not found by the next one who gets the memory."""
    whole = 64 * raw.MIB
    secret, mine = mounted.path / "secret", mounted.path / "mine"
    mounted.wait_until_empty()
    with raw.region(secret, whole, mapped=True):
        client = make_poke()
        client.fill(client.attach(secret, whole), whole, 0xAA)
        client.kill()
    mounted.wait_until_empty()
    other = make_poke(uid=BOB)
    fd = other.open(mine, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    other.call("ftruncate", fd, whole)
    other.create_mapping(fd, 0, whole)
    address = other.window(fd, whole)
    assert other.holds(address, whole, 0)
    mine.unlink()


@pytest.mark.root_only("becomes another user")
def test_status_can_be_read_by_everybody(mounted: mount.Mount) -> None:
    """N12: it says nothing about single regions, and tools run as any user."""
    text = as_user(NOBODY, lambda: os.getxattr(mounted.path, "user.msharefs.status"))
    assert json.loads(text)["arena"]["size"] == 64 * raw.MIB


@pytest.mark.root_only("becomes another user")
def test_state_directory_is_closed(mounted: mount.Mount, place: Path) -> None:
    """N12: mode 0700 and root's; nobody else lists it or looks below."""
    assert mounted.state is not None
    seen = mounted.state.stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid) == (0o700, 0)
    state = mounted.state
    arena = mount.arena_of(mounted.server_pid)
    with raw.region(place, HUGE, mapped=True):
        assert len(os.listdir(arena)) > 0
        attempts: list[Callable[[], object]] = [
            lambda: os.listdir(state),
            lambda: os.listdir(arena),
            lambda: os.listdir(state / "shm"),
            lambda: os.stat(state / "shm"),
            lambda: os.open(state / "config.json", os.O_RDONLY),
        ]
        for attempt in attempts:
            with refused(errno.EACCES):
                as_user(NOBODY, attempt)


def test_segments_cannot_be_found_in_the_machines_shared_memory(place: Path) -> None:
    """N12: a region of root's adds no name to /dev/shm, where every user could see it; a user's
    has one that nobody can guess, and that is his alone."""
    before = set(os.listdir("/dev/shm"))
    with raw.region(place, HUGE, mapped=True):
        fresh = set(os.listdir("/dev/shm")) - before
        if mount.PRIVILEGED:
            assert not fresh
            return
        (name,) = fresh
        assert re.fullmatch(r"msharefs-[0-9a-f]{32}-\d+", name)
        seen = os.stat(f"/dev/shm/{name}")
        assert (stat.S_IMODE(seen.st_mode), seen.st_uid) == (0o600, os.geteuid())


@pytest.mark.root_only("becomes another user")
def test_daemon_cannot_be_looked_into(mounted: mount.Mount, place: Path) -> None:
    """N12: its descriptors, memory and namespaces under /proc are closed to others."""
    with raw.region(place, HUGE, mapped=True):
        for pid in set(mounted.status()["pids"].values()):
            for name in ("fd", "root/dev/shm", "map_files"):
                with refused(errno.EACCES):
                    as_user(NOBODY, lambda path=f"/proc/{pid}/{name}": os.listdir(path))  # type: ignore[misc]
            with refused(errno.EACCES):
                as_user(NOBODY, lambda path=f"/proc/{pid}/mem": os.open(path, os.O_RDONLY))  # type: ignore[misc]


@pytest.mark.root_only("becomes another user")
def test_client_cannot_reach_the_segment_behind_its_memory(
    place: Path, make_poke: MakePoke
) -> None:
    """N12: /proc/PID/map_files, which names what is mapped, opens nothing for an ordinary user."""
    with raw.region(place, HUGE, mapped=True) as fd:
        os.fchmod(fd, 0o666)
        client = make_poke(uid=BOB)
        address = client.attach(place, HUGE)
        client.get(address)
        with refused(errno.EPERM, errno.EACCES):
            client.open(f"/proc/self/map_files/{address:x}-{address + HUGE:x}")
