"""A daemon that nobody asks anything uses no processor."""

from __future__ import annotations

from pathlib import Path

from tests.helpers import mount, raw
from tests.helpers.waiting import eventually

WINDOW = 0.5
"""Seconds between two readings; whatever looks again and again uses tens of ticks in them, and
whatever sleeps again and again runs hundreds of times."""


def run(pid: int) -> tuple[int, int]:
    """How many ticks a process has run, and how often a thread of it was given a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    statistics = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return int(fields[11]) + int(fields[12]), sum(
        int(file.read_text().split()[2]) for file in statistics
    )


def test_it_sleeps_after_a_crowd_of_requests(mounted: mount.Mount, place: Path) -> None:
    """However it waited for the next of them. Its timer alone runs, every five seconds."""
    for _ in range(100):
        with raw.region(place):
            pass
    # To ask for it is a request, so it is done once, before the time that is looked at.
    server = mounted.server_pid
    readings: list[tuple[int, int]] = []

    def has_slept() -> bool:
        readings.append(run(server))
        if len(readings) == 1:
            return False
        (ticks_before, times_before), (ticks, times) = readings[-2:]
        return ticks - ticks_before <= 1 and times - times_before <= 2

    eventually(has_slept, step=WINDOW, what="a time without running")
