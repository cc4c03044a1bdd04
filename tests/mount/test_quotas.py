"""What one user may have of a mount: refused beyond it, shown by df, changed while it is in use."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import mount, raw
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.raw import MIB, PAGE, create_mapping, opened, refused
from tests.helpers.users import ALICE, BOB, as_user
from tests.helpers.waiting import eventually

PLANES = mount.planes()
MOUNT_OPTIONS = "size=64M,align=4096,user_size=4M,user_inodes=3,user_mappings=2"

pytestmark = pytest.mark.root_only("only root's mount is shared by several users")


@pytest.fixture
def names(mounted: mount.Mount, place: Path) -> Path:
    """A directory of root's in which everybody may make names."""
    place.mkdir()
    place.chmod(0o1777)
    return place


def share(mounted: mount.Mount, uid: int) -> dict[str, int]:
    """What the mount says that a user has."""
    users: dict[str, dict[str, int]] = mounted.status()["users"]
    return users.get(str(uid), {"size": 0, "inodes": 0, "mappings": 0, "files": 0})


def removed(mounted: mount.Mount, *paths: Path) -> None:
    """Take them away and wait until the mount has forgotten them."""
    for path in paths:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    eventually(lambda: mounted.status()["users"].keys() == {"0"})


def test_memory(mounted: mount.Mount, names: Path) -> None:
    """Q1: EDQUOT beyond user_size=, to the page, whichever region it is; root has no limit."""

    def fill() -> None:
        with opened(names / "a", os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, 8 * MIB)
            create_mapping(fd, 0, 4 * MIB)
            with refused(errno.EDQUOT):
                create_mapping(fd, 4 * MIB, PAGE)
            with refused(errno.EDQUOT):
                create_mapping(fd, 4 * MIB, PAGE, flags=raw.ANONYMOUS | raw.MAP_NORESERVE)
            assert raw.layout(fd)["mapped"] == 4 * MIB
            create_mapping(fd, 0, 4 * MIB)
            raw.unmap(fd, 0, PAGE)
            create_mapping(fd, 4 * MIB, PAGE)

    as_user(ALICE, fill)
    assert share(mounted, ALICE) == {"size": 4 * MIB, "inodes": 1, "mappings": 2, "files": 0}
    with raw.region(names / "root", 16 * MIB) as fd:
        create_mapping(fd, 0, 16 * MIB)
    removed(mounted, names / "a", names)


def test_names(mounted: mount.Mount, names: Path) -> None:
    """Q2: EDQUOT beyond user_inodes= for regions, directories and further names; others have theirs."""

    def use_up() -> None:
        os.mkdir(names / "d")
        os.mknod(names / "r")
        os.link(names / "r", names / "r2")
        steps: list[Callable[[], object]] = [
            lambda: os.mkdir(names / "x"),
            lambda: os.mknod(names / "x"),
            lambda: os.link(names / "r", names / "x"),
            lambda: os.open(names / "x", os.O_CREAT | os.O_RDWR),
        ]
        for step in steps:
            with refused(errno.EDQUOT):
                step()
        os.rename(names / "r2", names / "r3")
        os.unlink(names / "r3")
        os.mknod(names / "x")

    as_user(ALICE, use_up)
    as_user(BOB, lambda: os.mkdir(names / "bob"))
    removed(mounted, *(names / name for name in ("d", "r", "x", "bob")), names)


def test_mappings(mounted: mount.Mount, names: Path) -> None:
    """Q3: EDQUOT beyond user_mappings= in all regions of a user, for an UNMAP that splits, too."""

    def use_up() -> None:
        flags = os.O_CREAT | os.O_RDWR
        with opened(names / "a", flags) as one, opened(names / "b", flags) as two:
            for fd in (one, two):
                os.ftruncate(fd, MIB)
                create_mapping(fd, 0, 4 * PAGE)
            with refused(errno.EDQUOT):
                create_mapping(two, 8 * PAGE, PAGE)
            with refused(errno.EDQUOT):
                raw.unmap(one, PAGE, PAGE)
            raw.unmap(one, 0, PAGE)
            raw.unmap(two, 0, 4 * PAGE)
            raw.unmap(one, 2 * PAGE, PAGE)

    as_user(ALICE, use_up)
    assert share(mounted, ALICE)["mappings"] == 2
    removed(mounted, names / "a", names / "b", names)


def test_whose_it_is(mounted: mount.Mount, names: Path) -> None:
    """Q4: the owner's, whoever maps, links or has it open; chown by root gives it to another, who may
    have too much then and gets no more."""
    shared = names / "shared"

    def make() -> None:
        with opened(shared, os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, 16 * MIB)
        os.chmod(shared, 0o666)

    def map_it() -> None:
        with opened(shared, os.O_RDWR) as fd:
            create_mapping(fd, 0, 4 * MIB)
            with refused(errno.EDQUOT):
                create_mapping(fd, 4 * MIB, PAGE)

    as_user(ALICE, make)
    as_user(BOB, map_it)
    assert share(mounted, BOB) == {"size": 0, "inodes": 0, "mappings": 0, "files": 0}
    os.chown(shared, 0, 0)
    with opened(shared, os.O_RDWR) as fd:
        create_mapping(fd, 0, 6 * MIB)
    os.chown(shared, BOB, -1)
    assert share(mounted, ALICE) == {"size": 0, "inodes": 0, "mappings": 0, "files": 0}
    assert share(mounted, BOB) == {"size": 6 * MIB, "inodes": 1, "mappings": 1, "files": 0}
    with opened(shared, os.O_RDWR) as fd:
        with refused(errno.EDQUOT):
            create_mapping(fd, 6 * MIB, PAGE)
        raw.unmap(fd, 0, 3 * MIB)
        create_mapping(fd, 0, MIB)
    removed(mounted, shared, names)


def test_unlinked_it_counts_until_it_goes(
    mounted: mount.Mount, names: Path, make_poke: MakePoke
) -> None:
    """Q4: with the last descriptor of it there is room again, at once."""
    client = make_poke(uid=ALICE)
    fds = [client.open(names / name, os.O_CREAT | os.O_RDWR) for name in "ab"]
    for fd in fds:
        client.call("ftruncate", fd, 4 * MIB)
    client.create_mapping(fds[0], 0, 4 * MIB)
    client.call("unlinkat", -100, names / "a", 0)
    with refused(errno.EDQUOT):
        client.create_mapping(fds[1], 0, 4 * MIB)
    client.close(fds[0])
    client.create_mapping(fds[1], 0, 4 * MIB)
    client.kill()
    removed(mounted, names / "b", names)


def test_attached_it_counts_after_the_last_close(
    mounted: mount.Mount, names: Path, make_poke: MakePoke
) -> None:
    """Q4: an attachment alone keeps what is unlinked and closed, over the death of a server, too; and so the
    share of it."""
    client = make_poke(uid=ALICE)
    fds = [client.open(names / name, os.O_CREAT | os.O_RDWR) for name in "ab"]
    for fd in fds:
        client.call("ftruncate", fd, 4 * MIB)
    client.create_mapping(fds[0], 0, 4 * MIB)
    there = client.mmap(fds[0], 4 * MIB)
    client.put(there, b"kept")
    client.close(fds[0])
    client.call("unlinkat", -100, names / "a", 0)
    with refused(errno.EDQUOT):
        client.create_mapping(fds[1], 0, 4 * MIB)
    mounted.expect_log("the server ended with -9")
    os.kill(mounted.server_pid, signal.SIGKILL)
    with refused(errno.EDQUOT):
        client.create_mapping(fds[1], 0, 4 * MIB)
    assert share(mounted, ALICE)["size"] == 4 * MIB
    client.munmap(there, 4 * MIB)
    client.create_mapping(fds[1], 0, 4 * MIB)
    client.kill()
    removed(mounted, names / "b", names)


def test_df(mounted: mount.Mount, names: Path) -> None:
    """Q5: available is what who asks may have; the size and what is free are the mount's."""

    def told() -> tuple[int, int, int]:
        seen = os.statvfs(names)
        return seen.f_blocks * PAGE, seen.f_bfree * PAGE, seen.f_bavail * PAGE

    assert as_user(ALICE, told) == (64 * MIB, 64 * MIB, 4 * MIB)
    with raw.region(names / "r", 8 * MIB) as fd:
        create_mapping(fd, 0, MIB)
        os.fchown(fd, ALICE, -1)
        assert as_user(ALICE, told) == (64 * MIB, 63 * MIB, 3 * MIB)
        assert as_user(BOB, told) == (64 * MIB, 63 * MIB, 4 * MIB)
        assert told() == (64 * MIB, 63 * MIB, 63 * MIB)
    removed(mounted, names)


def settings(path: Path, *words: str) -> None:
    """mshare set."""
    command = [sys.executable, "-m", "msharefs.cli.main", "set", str(path), *words]
    subprocess.run(
        command,
        env=mount.environment(mount.new_marker()),
        check=True,
        timeout=30,
        stdout=subprocess.DEVNULL,
    )


def test_changed_while_it_is_in_use(make_mount: MakeMount, make_poke: MakePoke) -> None:
    """Q6: by mshare set; what somebody has stays, and the next server knows limits and sums. The
    mount's max_mappings_total= is ENOSPC, and cannot be less than there are."""
    fresh = make_mount("size=64M,align=4096")
    client = make_poke(uid=ALICE)
    fd = client.open(fresh.path / "a", os.O_CREAT | os.O_RDWR)
    client.call("ftruncate", fd, 16 * MIB)
    client.create_mapping(fd, 0, 8 * MIB)
    settings(fresh.path, "user_size=2M", "user_inodes=1")
    with refused(errno.EDQUOT):
        client.create_mapping(fd, 8 * MIB, PAGE)
    before: dict[str, Any] = fresh.status()
    fresh.expect_log("the server ended with -9")
    os.kill(fresh.server_pid, signal.SIGKILL)
    after = fresh.status()
    assert after["restarts"] == 1
    for key in ("users", "user_limits", "mappings_limit"):
        assert after[key] == before[key]
    with refused(errno.EDQUOT):
        client.create_mapping(fd, 8 * MIB, PAGE)
    with refused(errno.EDQUOT):
        client.open(fresh.path / "b", os.O_CREAT | os.O_RDWR)
    settings(fresh.path, "user_size=off", "user_inodes=off", "max_mappings_total=1")
    with refused(errno.ENOSPC):
        client.create_mapping(fd, 12 * MIB, PAGE)
    settings(fresh.path, "max_mappings_total=2")
    client.create_mapping(fd, 12 * MIB, PAGE)
    with pytest.raises(subprocess.CalledProcessError):
        settings(fresh.path, "max_mappings_total=1")
