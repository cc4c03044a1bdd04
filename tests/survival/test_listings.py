"""A listing goes on where it stopped, and ends where it would have, when servers die meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.names import make
from tests.helpers import mount
from tests.helpers.raw import opened
from tests.survival import gap

PLANES = ("passthrough", "paged")
MOUNT_OPTIONS = "size=16M"
NAMES = 2200
KILLED_EVERY = 500
"""Names. The C library asks for a thousand or so at once."""


def kill_server(mounted: mount.Mount) -> None:
    """End the server, which the supervisor replaces."""
    os.kill(mounted.server_pid, signal.SIGKILL)


@pytest.fixture
def directory(mounted: mount.Mount, place: Path) -> Iterator[Path]:
    """Thousands of names, and leave to kill servers."""
    mounted.expect_log(gap.DEATHS)
    place.mkdir()
    for number in range(NAMES):
        make(place / f"name{number}")
    yield place
    shutil.rmtree(place)


def test_renaming_through_the_death_of_servers(mounted: mount.Mount, directory: Path) -> None:
    """N16: each name comes once, though servers die and start again in the middle of the walk."""
    seen: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if len(seen) % KILLED_EVERY == 0:
                kill_server(mounted)
            seen.append(entry.name)
            os.rename(entry.path, directory / f"renamed-{entry.name}")
            assert len(seen) <= NAMES
    assert sorted(seen) == sorted(f"name{number}" for number in range(NAMES))
    assert sorted(os.listdir(directory)) == sorted(f"renamed-{name}" for name in seen)


def test_a_rewound_listing_through_the_death_of_servers(
    mounted: mount.Mount, directory: Path
) -> None:
    """N16: rewinddir(3) shows names made since the open, also to a later server."""
    late = [f"late{number}" for number in range(500)]
    with opened(directory, os.O_RDONLY) as fd:
        for name in late:
            make(directory / name)
        seen: list[str] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if len(seen) % KILLED_EVERY == 0:
                    kill_server(mounted)
                seen.append(entry.name)
                os.rename(entry.name, f"renamed-{entry.name}", src_dir_fd=fd, dst_dir_fd=fd)
    assert sorted(seen) == sorted([*late, *(f"name{number}" for number in range(NAMES))])
