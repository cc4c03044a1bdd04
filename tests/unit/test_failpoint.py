"""The seam for crashes: an order names a step, and the process ends there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from msharefs.daemon.failpoint import Failpoint


@pytest.fixture
def deaths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Who was killed, and how; nobody really is."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, how: killed.append((pid, how)))
    return killed


def test_without_an_order_nothing_happens(deaths: list[tuple[int, int]]) -> None:
    """The usual case."""
    point = Failpoint("", "/nowhere", restarts=0)
    for step in ("request read", "before commit", "", "after reply"):
        point(step)
    assert deaths == []


def test_the_nth_time_at_a_step_is_the_end(deaths: list[tuple[int, int]]) -> None:
    """As kill -9 would do it; other steps do not count."""
    point = Failpoint("before_commit:3", "/nowhere", restarts=0)
    for _ in range(2):
        point("before commit")
        point("after commit")
    assert deaths == []
    point("before commit")
    assert deaths == [(os.getpid(), signal.SIGKILL)]


def test_an_order_may_name_the_signal(deaths: list[tuple[int, int]]) -> None:
    """A server that fails is not one that was killed."""
    Failpoint("cleared:1:ABRT", "/nowhere", restarts=0)("cleared")
    assert deaths == [(os.getpid(), signal.SIGABRT)]


def test_a_server_that_replaces_another_goes_on(deaths: list[tuple[int, int]]) -> None:
    """Else each would die at the same step."""
    point = Failpoint("before_commit", "/nowhere", restarts=1)
    point("before commit")
    assert deaths == []


def test_an_order_in_a_file(deaths: list[tuple[int, int]], tmp_path: Path) -> None:
    """Looked for with each request, taken once, by any server."""
    path = tmp_path / "order"
    point = Failpoint("@order", str(tmp_path), restarts=5)
    point("request read")
    path.write_text("after_commit:1")
    point("after commit")
    assert deaths == []
    point("request read")
    assert not path.exists()
    point("after commit")
    assert deaths == [(os.getpid(), signal.SIGKILL)]
