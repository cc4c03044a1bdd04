"""sync(2) of the machine while a server is stopped or dies: it waits for that server, no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import raw
from tests.helpers.mount import Mount
from tests.helpers.poke import Poke
from tests.helpers.raw import HUGE
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("requires_fuse")

MOUNT_OPTIONS = "size=64M,data=paged"

SYNC = "import os, sys; print('began', flush=True); os.sync()"


@contextmanager
def syncing() -> Iterator[subprocess.Popen[str]]:
    """A process in sync(2)."""
    command = [sys.executable, "-c", SYNC]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        yield process


def dirty_region(place: Path, client: Poke) -> int:
    """A region whose pages the kernel has to write back; its address in the client."""
    with raw.region(place, HUGE, mapped=True):
        address = client.attach(place, HUGE)
    client.fill(address, HUGE, 7)
    return address


def test_sync_ends_when_the_server_runs_again(mounted: Mount, place: Path, client: Poke) -> None:
    """P7: and nothing is lost."""
    address = dirty_region(place, client)
    server = mounted.server_pid
    os.kill(server, signal.SIGSTOP)
    try:
        with syncing() as sync:
            os.kill(server, signal.SIGCONT)
            assert sync.wait(timeout=30) == 0
    finally:
        os.kill(server, signal.SIGCONT)
    assert client.holds(address, HUGE, 7)
    assert mounted.server_pid == server


def test_sync_ends_when_the_server_is_killed(mounted: Mount, place: Path, client: Poke) -> None:
    """P7: the next one takes what the first had not taken."""
    address = dirty_region(place, client)
    server = mounted.server_pid
    mounted.expect_log("the server ended with -9")
    os.kill(server, signal.SIGSTOP)
    with syncing() as sync:
        os.kill(server, signal.SIGKILL)
        assert sync.wait(timeout=30) == 0
    eventually(lambda: mounted.server_pid != server)
    assert client.holds(address, HUGE, 7)
