"""The guard of every test of a directory whose conftest.py imports it: time, and the log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import fixtures
from tests.helpers.watchdog import Watchdog

TEST_SECONDS = 60.0


@pytest.fixture(autouse=True)
def guarded(watchdog: Watchdog, request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test has a time limit, and every line of the daemon's log in it counts."""
    slow = request.node.get_closest_marker("slow")
    watchdog.tell(f"arm {TEST_SECONDS * (5 if slow else 1)}")
    yield
    watchdog.tell("disarm")
    for each in fixtures.running:
        each.check_log()
