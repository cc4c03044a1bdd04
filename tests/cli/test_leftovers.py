"""A mount whose supervisor was killed and whose place was given up: seen, and thrown away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from msharefs import Region
from tests.cli.tool import alone_with, mshare
from tests.helpers import mount
from tests.helpers.background import Background
from tests.helpers.poke import Poke
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("requires_fuse")]

MIB = 1 << 20


@pytest.fixture
def left() -> Iterator[Background]:
    """What is left of a mount with a region of 4 MiB; nothing is mounted any more."""
    place = Background()
    assert place.start("-o", "size=64M").returncode == 0
    with Region.create(place.path / "r", 8 * MIB) as region:
        region.map(0, 4 * MIB)
    os.kill(place.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not mount.processes_of(place.marker))
    assert mount.unmount(place.path).returncode == 0
    yield place
    place.discard()


def test_it_is_seen_by_all_who_look(left: Background) -> None:
    """ls, status and doctor, in words and as JSON."""
    (found,) = [
        each for each in mshare("ls", "--json").json["left"] if each["mountpoint"] == str(left.path)
    ]
    assert (found["segments"], found["memory"], found["size"]) == (1, 4 * MIB, 64 * MIB)
    alone = alone_with()
    assert (
        f"{left.path} is not served: 1 region with 4 MiB is kept" in mshare("ls", before=alone).err
    )
    result = mshare("status", left.path)
    assert result.code == 1
    assert "4 MiB of 64 MiB in 1 region" in result.out
    assert f"mshare discard {left.path}" in result.out
    findings = mshare("doctor", "--json").json
    assert any(
        each["level"] == "warn" and f"the daemon of {left.path} is gone" in each["sentence"]
        for each in findings
    )


def test_it_is_thrown_away_without_mounting(left: Background) -> None:
    """Also where the directory is no more; what is not there cannot be thrown away."""
    left.path.rmdir()
    mshare("discard", left.path).ok()
    assert not mount.states_of(left.base)
    assert "has left anything" in mshare("discard", left.path).refused()
    assert "not on a mounted msharefs" in mshare("status", left.base).refused()


def test_it_is_taken_up_by_the_next_mount(left: Background) -> None:
    """Having been looked at does not change it; and then it cannot be thrown away."""
    mshare("status", left.path)
    assert left.start("-o", "size=64M").returncode == 0
    assert (left.path / "r").stat().st_size == 8 * MIB
    assert "is served" in mshare("discard", left.path).refused()
    assert mshare("status", left.path, "--json").json["regions"] == 1
    left.unmount_and_check()


def test_a_dead_mount_that_is_still_there_goes_too(left: Background) -> None:
    """Its programs get ENOTCONN in any case."""
    assert left.start("-o", "size=64M").returncode == 0
    os.kill(left.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not mount.processes_of(left.marker))
    assert "kept until it is mounted again" in mshare("ls").err
    mshare("discard", left.path).ok()
    left.check_nothing_left()


@pytest.mark.root_only("a user's attachments end with the mount: paged")
def test_who_attached_before_is_seen_after(left: Background, client: Poke) -> None:
    """The pages are the region's still, whatever device number the mount has by now."""
    assert left.start("-o", "size=64M").returncode == 0
    client.attach(left.path / "r", 2 * MIB)
    os.kill(left.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not mount.processes_of(left.marker))
    assert left.start("-o", "size=64M").returncode == 0
    (found,) = mshare("ls", left.path, "--json").json["regions"]
    assert found["pids"] == [client.pid]
    (process,) = mshare("ps", left.path / "r", "--json").json["processes"]
    assert (process["pid"], process["windows"][0]["size"]) == (client.pid, 2 * MIB)
    assert mshare("stat", left.path / "r", "--json").json["pids"] == [client.pid]
    client.kill()
    assert mshare("ls", left.path, "--json").json["regions"][0]["pids"] == []
    left.unmount_and_check()
