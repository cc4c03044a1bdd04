"""How often a server that takes up much says how far it is."""

from __future__ import annotations

import logging

import pytest

from msharefs.daemon.progress import INTERVAL, Progress


def test_it_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """To the supervisor and to the log, however often it is called; not at all in the first
    moments, which suffice for most mounts."""
    caplog.set_level(logging.INFO)
    told: list[str] = []
    now = 50.0
    progress = Progress(told.append, lambda: now)
    for step in range(30):
        progress(f"{step} names")
        progress(f"{step} names and no more")
        now += INTERVAL / 10
    assert told == ["10 names", "20 names"]
    assert [record.message for record in caplog.records] == [
        "taking up what is there: 10 names so far",
        "taking up what is there: 20 names so far",
    ]
