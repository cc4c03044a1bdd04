"""A mount whose memory group allows less than the machine has: a container, or a service."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from functools import partial

import pytest

from tests.helpers import mount, raw
from tests.helpers.background import Background
from tests.helpers.fixtures import MakeMount
from tests.helpers.memory_group import MemoryGroup
from tests.helpers.raw import MIB, refused
from tests.helpers.waiting import eventually
from tests.survival.gap import has_ended, held

pytestmark = [
    pytest.mark.mount,
    pytest.mark.root_only("a memory group with a limit is the administrator's"),
]
PLANES = ("passthrough", "paged")


@pytest.fixture(params=PLANES)
def inside(
    group: MemoryGroup, make_mount: MakeMount, request: pytest.FixtureRequest
) -> mount.Mount:
    """A mount whose processes get all their further memory from the group."""
    mounted = make_mount(f"size=1G,data={request.param}")
    # The standby, too: later ones are born in the group.
    eventually(lambda: len(mount.processes_of(mounted.marker)) == 3, what="a standby")
    for pid in mount.processes_of(mounted.marker):
        group.add(pid)
    return mounted


def test_more_than_the_group_allows_is_refused(group: MemoryGroup, inside: mount.Mount) -> None:
    """ENOMEM from the ioctl, at once and with nobody killed; what the group allows is given."""
    group.limit(300 * MIB)
    with raw.region(inside.path / "region", 512 * MIB) as fd:
        with refused(errno.ENOMEM):
            raw.create_mapping(fd, 0, 500 * MIB)
        assert raw.mapped_ranges(fd) == []
        raw.create_mapping(fd, 0, 100 * MIB)
    assert inside.status()["restarts"] == 0


def test_small_mappings_end_with_enomem_as_well(group: MemoryGroup, inside: mount.Mount) -> None:
    """And not with the death of the server that makes one too many."""
    group.limit(200 * MIB)
    with raw.region(inside.path / "region", 512 * MIB) as fd:
        mapped = 0
        with refused(errno.ENOMEM):
            for mapped in range(0, 512 * MIB, 4 * MIB):
                raw.create_mapping(fd, mapped, 4 * MIB)
        assert mapped > 100 * MIB
        raw.unmap(fd, 0, 8 * MIB)
        raw.create_mapping(fd, 0, 4 * MIB)
    assert inside.status()["restarts"] == 0


def test_memory_that_goes_while_it_is_reserved(group: MemoryGroup, inside: mount.Mount) -> None:
    """The kernel ends the server for want of memory: the request is ENOMEM in the end, its
    caller can be killed, others are served, and with more memory it succeeds."""
    inside.expect_log(r"the server ended with -9; starting a new one")
    inside.expect_log(r"not served again|cannot start, the mount waits|no standby server")
    group.limit(600 * MIB)
    with raw.region(inside.path / "region", 512 * MIB) as fd:
        raw.create_mapping(fd, 0, MIB)
        group.limit(group.used() + 40 * MIB)
        with refused(errno.ENOMEM):
            raw.create_mapping(fd, 64 * MIB, 60 * MIB)
        assert 1 <= inside.status()["restarts"] <= 3
        assert raw.mapped_ranges(fd) == [(0, MIB)]
        group.limit(600 * MIB)
        raw.create_mapping(fd, 64 * MIB, 60 * MIB)


def test_a_group_in_which_no_server_can_be_loaded(group: MemoryGroup, inside: mount.Mount) -> None:
    """The kernel ends each server that is loaded, and not the supervisor, which is larger at first and
    without which the mount is lost. With more memory all goes on."""
    inside.expect_log(r"the server ended with -9; starting a new one")
    inside.expect_log(r"cannot start, the mount waits|no standby server")
    with raw.region(inside.path / "region", 64 * MIB) as fd:
        raw.create_mapping(fd, 0, 32 * MIB)
        with held(inside.pid):
            for pid in set(mount.processes_of(inside.marker)) - {inside.pid}:
                os.kill(pid, signal.SIGKILL)
                eventually(partial(has_ended, pid), what="a server is dead")
            group.limit(group.used() + 4 * MIB)
        eventually(lambda: inside.log().count("the mount waits") >= 2, what="a second try")
        assert inside.pid in mount.processes_of(inside.marker)
        group.limit(600 * MIB)
        assert raw.mapped_ranges(fd) == [(0, 32 * MIB)]


def test_the_default_size_is_a_part_of_what_the_group_allows(group: MemoryGroup) -> None:
    """Half of it, as it is half of the machine's memory elsewhere."""
    group.limit(200 * MIB)
    background = Background()
    try:
        subprocess.run(
            [
                *("sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group.path)),
                *(*mount.command(), "msharefs", str(background.path)),
            ],
            env=mount.environment(background.marker),
            check=True,
            timeout=30,
        )
        assert mount.read_status(background.path)["arena"]["size"] == 100 * MIB
        background.unmount_and_check()
    finally:
        background.discard()
