"""mshare top: regions and requests of a mount, live."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from msharefs.cli import formatting, listing, mount_status, terminal
from msharefs.cli.params import DIRECTORY, json_option
from msharefs.inspect.mounts import Mount
from msharefs.inspect.operations import Meter, Sample

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_COLUMNS = (*listing.FACTS, terminal.Column("CHANGES/S", right=True), listing.OWNER)
_MOST_OPERATIONS = 4
_LABEL = 12
"""How wide the names of the lines above the table are."""


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
        terminal.repeat_lines(lambda: json.dumps(meter.take().document()), interval, count)
    else:
        terminal.repeat(lambda: frame(meter.mount, meter.take()), interval, count)


def frame(mount: Mount, sample: Sample) -> RenderableType:
    """What the screen shows of a sample."""
    from rich.console import Group  # noqa: PLC0415 - only to draw

    return Group(*_head(mount, sample), "", *_table(sample))


def _head(mount: Mount, sample: Sample) -> list[RenderableType]:
    title: list[str | tuple[str, str]] = [(formatting.name(mount.path), "bold cyan")]
    if not sample.status:
        return [terminal.line(*title, "  its status may not be read by you")]
    title.append(f"  up {formatting.duration(sample.status.get('uptime', 0))}")
    title.append(f", {mount_status.regions_line(sample.status)}")
    return [
        terminal.line(*title),
        mount_status.memory_line(sample.status),
        terminal.line(("Requests".ljust(_LABEL), "bold"), _requests(sample)),
    ]


def _requests(sample: Sample) -> str:
    """The rate of all requests and of the most frequent kinds."""
    rates = sample.rates()
    if not rates:
        return "none" if sample.before else "..."
    words = [f"{sum(rate.per_second for rate in rates):,.0f}/s"]
    words += [
        f"{rate.name} {rate.per_second:,.0f}/s {formatting.latency(rate.mean)}"
        for rate in rates[:_MOST_OPERATIONS]
    ]
    # What does not fit is left out as a whole.
    while len(words) > 1 and len(", ".join(words)) > terminal.console().width - _LABEL:
        words.pop()
    return ", ".join(words)


def _table(sample: Sample) -> list[RenderableType]:
    found = sample.listing
    ordered = sorted(found.found, key=lambda region: (-region.memory, region.name))
    if not ordered:
        return [terminal.text("no regions", "dim")]
    rates = sample.change_rates()
    rows: list[list[str | Text]] = []
    for region in ordered:
        cells = listing.row(found, region)
        shared = len(listing.FACTS)
        rows.append([*cells[:shared], _rate(rates.get(region.inode)), cells[shared]])
    remarks = listing.remarks([found])
    return [
        terminal.table(_COLUMNS, rows),
        *(terminal.text(remark, "dim") for remark in remarks),
    ]


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.1f}"
