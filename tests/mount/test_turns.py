"""A user's turn comes, however many requests of somebody else's wait in front of his."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import mount, poke
from tests.helpers.fixtures import MakePoke
from tests.helpers.poke import AT_FDCWD, command
from tests.helpers.users import ALICE, BOB
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=16M"
PLANES = mount.planes()

pytestmark = pytest.mark.root_only("only root's mount is shared by several users")

FLOOD = 16


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing for a while."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def made(mounted: mount.Mount) -> int:
    """Directories that the server of now has made."""
    return int(mounted.status()["operations"].get("MKDIR", {"count": 0})["count"])


def in_a_call(process: poke.Poke) -> bool:
    """Whether it sleeps in fchmod: its request is in the kernel's queue."""
    state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    call = Path(f"/proc/{process.pid}/syscall").read_text().split()[0]
    return state in "SD" and call == str(FCHMOD)


REMOVEDIR = 0x200
"""AT_REMOVEDIR of unlinkat(2)."""
FCHMOD = {"x86_64": 91, "aarch64": 52}[os.uname().machine]


def test_many_processes_of_one_user_are_one_turn(
    mounted: mount.Mount, place: Path, make_poke: MakePoke
) -> None:
    """Sixteen of Alice's requests wait when Bob's comes: he is served after the first of them at the
    latest. When each was served is its ctime, and no question of how fast the machine is."""
    names = [place.with_name(f"{place.name}-{number}") for number in range(FLOOD + 1)]
    clients = [*(make_poke(uid=ALICE) for _ in range(FLOOD)), make_poke(uid=BOB)]
    fds = [
        client.open(name, os.O_CREAT | os.O_RDWR)
        for client, name in zip(clients, names, strict=True)
    ]
    with stopped(mounted.server_pid):
        for client, fd in zip(clients, fds, strict=True):
            client.post(command("fchmod", fd, 0o640))
            eventually(partial(in_a_call, client))
    for client in clients:
        client.answer()
    order = sorted(range(FLOOD + 1), key=lambda number: names[number].stat().st_ctime_ns)
    assert order.index(FLOOD) <= 1
    # And Alice's are served in the order in which they came.
    assert [number for number in order if number != FLOOD] == [*range(FLOOD)]
    for name in names:
        name.unlink()


def test_what_waits_for_its_turn_outlives_the_server(
    mounted: mount.Mount, place: Path, make_poke: MakePoke
) -> None:
    """A server that is killed between two of them leaves the others to the next one; each is
    served once."""
    clients = [make_poke(uid=ALICE if number % 2 else BOB) for number in range(FLOOD)]
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    server = mounted.server_pid
    mounted.expect_log("the server ended with -9")
    for number, client in enumerate(clients):
        client.forever(
            command("mkdirat", AT_FDCWD, place / str(number), 0o700),
            command("unlinkat", AT_FDCWD, place / str(number), REMOVEDIR),
        )
    eventually(lambda: made(mounted) > 100)
    os.kill(server, signal.SIGKILL)
    eventually(lambda: mounted.status()["restarts"] > 0)
    eventually(lambda: made(mounted) > 100)
    # EEXIST or ENOENT for one that was served twice.
    operations = mounted.status()["operations"]
    assert operations["MKDIR"]["errors"] == operations["RMDIR"]["errors"] == 0
    for client in clients:
        client.kill()
    for left in place.iterdir():
        left.rmdir()
    place.rmdir()
