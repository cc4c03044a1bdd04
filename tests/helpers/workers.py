"""Several workers of one test run, side by side: a pytest plugin (tests/conftest.py).

Owns the namespaces in which a worker of pytest-xdist is alone with its mounts, its segments and its
daemons' state, as tests that look for leftovers must be, and the order in which modules are handed
out. Only root can make such namespaces: an ordinary user's run has one worker. Knows nothing of
what the tests do.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msharefs.linux import namespaces, syscalls
from tests.helpers.mount import let_go

OWN = {"/dev/shm": "mode=1777", "/run": "mode=0755"}
"""Directories of the machine that begin empty for each worker. Not /run/msharefs alone: the last
daemon of the machine that ends takes that directory away, and with it what others mounted there."""

LONGEST = ("test_ordinary_user", "test_random_clients", "test_silent_mounts", "test_usage")
"""Modules that take so long that a worker must not begin with them last."""


def pytest_configure(config: pytest.Config) -> None:
    """A worker goes to namespaces of its own before it starts anything."""
    if hasattr(config, "workerinput"):
        _be_alone()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: Path(item.path).stem not in LONGEST)


def _be_alone() -> None:
    namespaces.unshare_mounts()
    let_go()
    for directory, options in OWN.items():
        os.makedirs(directory, mode=0o700, exist_ok=True)
        syscalls.mount("tmpfs", directory, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
