"""What a killed supervisor leaves behind, and the next mount on that place takes up."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.background import Background
from tests.helpers.fixtures import MakePoke
from tests.helpers.raw import HUGE, refused
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("requires_fuse")


@pytest.fixture
def killed(make_poke: MakePoke) -> Iterator[tuple[Background, poke.Poke, int]]:
    """A mount whose supervisor was killed, and a client that has a region of it attached."""
    background, client = Background(), make_poke()
    assert background.start("-o", "size=16M").returncode == 0
    path = background.path / "kept"
    with raw.opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as fd:
        os.ftruncate(fd, 2 * HUGE)
        raw.create_mapping(fd, HUGE, HUGE)
    address = client.attach(path, 2 * HUGE) + HUGE
    client.put(address, b"before")
    if mount.is_paged(background.path):
        # What was not written back yet goes with the daemon.
        client.call("msync", address, HUGE, raw.MS_SYNC)
    os.kill(background.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not mount.processes_of(background.marker), what="a server is left")
    yield background, client, address
    client.kill()
    background.discard()


def test_attached_memory_and_regions_outlive_the_supervisor(
    killed: tuple[Background, poke.Poke, int],
) -> None:
    """M16: attached memory goes on, requests fail, and the next mount has the regions.

    On the paged plane the pages of a process are copies that nobody asks for any more.
    """
    background, client, address = killed
    # Which of the two depends on how far the kernel has come with ending the connection.
    with refused(errno.ENOTCONN, errno.ECONNABORTED):
        os.listdir(background.path)
    client.put(address, b"after!")
    assert background.start("-o", "size=16M").returncode == 0
    path = background.path / "kept"
    assert raw.mapped_ranges(path) == [(HUGE, 2 * HUGE)]
    again = client.attach(path, 2 * HUGE) + HUGE
    paged = mount.is_paged(background.path)
    assert client.get(again, 6) == (b"before" if paged else b"after!")
    client.put(again, b"shared")
    assert client.get(address, 6) == (b"after!" if paged else b"shared")


def test_fresh_mount_leaves_the_regions(killed: tuple[Background, poke.Poke, int]) -> None:
    """M16: with fresh the next mount begins empty, and attached memory still goes on."""
    background, client, address = killed
    assert background.start("-o", "size=16M,fresh").returncode == 0
    assert os.listdir(background.path) == ["mshare_info"]
    assert client.get(address, 6) == b"before"
