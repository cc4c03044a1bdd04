"""A large reservation ends with the process that asked for it, and all is as before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.poke import command
from tests.helpers.raw import MIB
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=1G,align=4096,huge=never"

LARGE = 768 * MIB
SOON = LARGE // 2
"""Of it a worker has got so much at most when it is interrupted."""


def begun(mounted: mount.Mount, client: poke.Poke, fd: int) -> bool:
    """Whether a reservation of the client's is in the middle, and its server stopped."""
    payload = raw.create_payload(0, LARGE)
    server = mounted.server_pid
    client.post(command("ioctl", fd, raw.CREATE_MAPPING, payload))
    eventually(lambda: mounted.status()["arena"]["used"] > 0, step=0.0002)
    os.kill(server, signal.SIGSTOP)
    return used(mounted, server) < SOON


def used(mounted: mount.Mount, server: int) -> int:
    """Bytes in its segments, seen without asking it."""
    arena = mount.arena_of(server)
    return sum(path.stat().st_blocks * 512 for path in arena.iterdir() if path.name != "ballast")


def interrupted_by(
    mounted: mount.Mount, client: poke.Poke, fd: int, send: Callable[[], None]
) -> None:
    """Reserve, and send the signal while it goes on; again where the machine was too fast."""
    for _ in range(20):
        server = mounted.server_pid
        early = begun(mounted, client, fd)
        if early:
            send()
        os.kill(server, signal.SIGCONT)
        if early:
            return
        client.answer()
        client.unmap(fd, 0, LARGE)
    raise AssertionError("no reservation was ever in the middle")


def check_as_before(mounted: mount.Mount, place: Path) -> None:
    """Nothing is mapped, in use or set aside."""
    eventually(lambda: mounted.status()["arena"]["used"] == 0)
    assert raw.layout(place)["mapped"] == 0
    arena = mounted.status()["arena"]
    assert arena["reserved"] == arena["limit"] == 0
    assert raw.free_bytes(place) == raw.GIB


@pytest.mark.root_only("looks into the arena of a server that is stopped")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_who_is_killed_is_gone(
    mounted: mount.Mount, place: Path, make_poke: MakePoke, number: signal.Signals
) -> None:
    """C27: the process does not wait for its memory, and nobody has it."""
    client = make_poke()
    with raw.region(place, LARGE):
        fd = client.open(place)
        interrupted_by(mounted, client, fd, lambda: os.kill(client.pid, number))
        client.kill()
        check_as_before(mounted, place)


@pytest.mark.root_only("looks into the arena of a server that is stopped")
def test_a_signal_that_ends_nothing(mounted: mount.Mount, place: Path, client: poke.Poke) -> None:
    """C27: a timer's or a child's does not keep a program from its memory."""
    with raw.region(place, LARGE):
        fd = client.open(place)
        interrupted_by(mounted, client, fd, lambda: os.kill(client.pid, signal.SIGWINCH))
        client.answer()
        assert raw.layout(place)["mapped"] == LARGE
        client.unmap(fd, 0, LARGE)
