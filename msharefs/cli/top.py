"""mshare top: regions and requests of a mount, live."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from msharefs.cli import formatting, listing, mount_status, terminal
from msharefs.cli.params import DIRECTORY, json_option
from msharefs.inspect import mounts, regions

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_COLUMNS = (*listing.FACTS, terminal.Column("CHANGES/S", right=True), listing.OWNER)
_MOST_OPERATIONS = 4
_LABEL = 12
"""How wide the names of the lines above the table are."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A mount at one moment."""

    taken: float
    status: dict[str, Any]
    listing: listing.Listing


class Meter:
    """Takes samples of one mount and tells the rates between the last two."""

    def __init__(self, directory: str | None) -> None:
        """Look at the mount that `directory` lies on."""
        self._mount = mount_status.only_mount(directory)
        self._top = directory or self._mount.path
        self._before: Sample | None = None
        self._now: Sample | None = None

    def take(self) -> Sample:
        """The next sample."""
        self._before = self._now
        self._now = Sample(
            time.monotonic(),
            mounts.status_or_nothing(self._mount),
            listing.look(self._mount, self._top),
        )
        return self._now

    def document(self) -> dict[str, Any]:
        """What --json prints for the next sample."""
        now = self.take()
        return {
            "time": round(time.time(), 3),
            "status": now.status,
            "operations_per_second": {name: round(rate, 3) for name, rate, _ in self._operations()},
            **listing.document([now.listing]),
        }

    def frame(self) -> RenderableType:
        """What the screen shows for the next sample."""
        from rich.console import Group  # noqa: PLC0415 - only to draw

        now = self.take()
        return Group(*self._head(now), "", *self._table(now))

    def _head(self, now: Sample) -> list[RenderableType]:
        title: list[str | tuple[str, str]] = [(self._mount.shown, "bold cyan")]
        if not now.status:
            return [terminal.line(*title, "  its status may not be read by you")]
        title.append(f"  up {formatting.duration(now.status.get('uptime', 0))}")
        title.append(f", {mount_status.regions_line(now.status)}")
        return [
            terminal.line(*title),
            mount_status.memory_line(now.status),
            terminal.line(("Requests".ljust(_LABEL), "bold"), self._requests()),
        ]

    def _requests(self) -> str:
        """The rate of all requests and of the most frequent kinds."""
        rates = self._operations()
        if not rates:
            return "none" if self._before else "..."
        words = [f"{sum(rate for _, rate, _ in rates):,.0f}/s"]
        words += [
            f"{name} {rate:,.0f}/s {formatting.latency(mean)}"
            for name, rate, mean in rates[:_MOST_OPERATIONS]
        ]
        # What does not fit is left out as a whole.
        while len(words) > 1 and len(", ".join(words)) > terminal.console().width - _LABEL:
            words.pop()
        return ", ".join(words)

    def _operations(self) -> list[tuple[str, float, float]]:
        """Between the last two samples: name, requests per second, mean time; busiest first."""
        if self._before is None or self._now is None:
            return []
        past = self._before.status.get("operations", {})
        seconds = max(self._now.taken - self._before.taken, 1e-9)
        rates: list[tuple[str, float, float]] = []
        for name, counter in self._now.status.get("operations", {}).items():
            old = past.get(name, {"count": 0, "seconds": 0.0})
            # A server that was restarted may count from zero again.
            done = counter["count"] - old["count"]
            if done > 0:
                spent = max(counter["seconds"] - old["seconds"], 0.0)
                rates.append((name, done / seconds, spent / done))
        return sorted(rates, key=lambda each: -each[1])

    def _table(self, now: Sample) -> list[RenderableType]:
        ordered = sorted(now.listing.found, key=lambda facts: (-facts.memory, facts.name))
        if not ordered:
            return [terminal.text("no regions", "dim")]
        old = self._changes_before()
        rows: list[list[str | Text]] = []
        for facts in ordered:
            cells = listing.row(now.listing, facts)
            shared = len(listing.FACTS)
            rows.append([*cells[:shared], self._change_rate(facts, old, now), cells[shared]])
        remarks = listing.remarks([now.listing])
        return [
            terminal.table(_COLUMNS, rows),
            *(terminal.text(remark, "dim") for remark in remarks),
        ]

    def _changes_before(self) -> dict[int, int]:
        """How often each region had been mapped and unmapped at the sample before."""
        if self._before is None:
            return {}
        return {facts.file.st_ino: _changes(facts) for facts in self._before.listing.found}

    def _change_rate(self, facts: regions.Facts, old: dict[int, int], now: Sample) -> str:
        before = old.get(facts.file.st_ino)
        if before is None or self._before is None or facts.layout is None:
            return "-"
        rate = max(_changes(facts) - before, 0) / max(now.taken - self._before.taken, 1e-9)
        return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"


@click.command(short_help="Watch a mount live.")
@click.argument("directory", metavar="[DIR]", type=DIRECTORY, required=False)
@json_option
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
)
@click.option("-n", "--count", type=click.IntRange(1), help="Stop after so many screens.")
def top(directory: str | None, *, as_json: bool, interval: float, count: int | None) -> None:
    """Watch the regions below DIR, the largest in memory first, and the requests of its mount.

    q or Ctrl-C ends it. CHANGES/S is how often a region was mapped and unmapped. With --json each
    sample is one line.
    """
    meter = Meter(directory)
    if as_json:
        terminal.repeat_lines(lambda: json.dumps(meter.document()), interval, count)
    else:
        terminal.repeat(meter.frame, interval, count)


def _changes(facts: regions.Facts) -> int:
    return 0 if facts.layout is None else facts.layout.maps + facts.layout.unmaps
