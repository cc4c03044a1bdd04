"""mshare ls: the regions of a directory or of every mount."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from msharefs import notation
from msharefs.cli import formatting, terminal
from msharefs.cli.params import DIRECTORY, json_option
from msharefs.inspect import processes
from msharefs.inspect.errors import InspectError
from msharefs.inspect.leftovers import Leftover, leftovers
from msharefs.inspect.listing import Listing, Looker, document
from msharefs.inspect.regions import Summary

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

FACTS = (
    terminal.Column("REGION", flexible=True, style="cyan"),
    terminal.Column("SIZE", right=True),
    terminal.Column("MAPPED", right=True),
    terminal.Column("MEMORY", right=True, rank=2),
    terminal.Column("HUGE", right=True, rank=3),
    terminal.Column("USED BY", right=True, rank=1),
)
"""The columns of every table of regions; `row` begins with their cells."""
OWNER = terminal.Column("OWNER", rank=4)
_COLUMNS = (*FACTS, OWNER, terminal.Column("MODE", rank=5))


@click.command(short_help="List regions.")
@click.argument("directory", metavar="[DIR]", type=DIRECTORY, required=False)
@json_option
@click.option(
    "--watch",
    metavar="[SECONDS]",
    type=click.FloatRange(0.1),
    is_flag=False,
    flag_value=2.0,
    help="Show it again every so many seconds (2) until q is pressed.",
)
def ls(directory: str | None, *, as_json: bool, watch: float | None) -> None:
    """List the regions below DIR, or of every mounted msharefs.

    MAPPED is what processes may use, MEMORY what is reserved or touched, HUGE how much of what is
    mapped lies in 2 MiB pages, USED BY how many processes have it attached.
    """
    looker = Looker()
    if as_json and watch is None:
        print(json.dumps(_document(looker, directory), indent=2))
    elif as_json:
        terminal.repeat_lines(lambda: json.dumps(_document(looker, directory)), watch or 0)
    elif watch is not None:
        terminal.repeat(lambda: _frame(looker, directory), watch)
    else:
        listings, left = _look(looker, directory)
        terminal.show(_drawing(listings))
        for remark in [*remarks(listings), *map(left_behind, left)]:
            terminal.note(remark)


def _look(looker: Looker, directory: str | None) -> tuple[list[Listing], list[Leftover]]:
    """What there is, and what is left of mounts if all mounts are asked about."""
    if directory is not None:
        return looker.look_at(directory), []
    left = leftovers()
    try:
        return looker.look_at(None), left
    except InspectError:
        if not left:
            raise
        return [], left


def _document(looker: Looker, directory: str | None) -> dict[str, Any]:
    listings, left = _look(looker, directory)
    return document(listings) | {"left": [each.document() for each in left]}


def left_behind(left: Leftover) -> str:
    """A sentence about what a mount has left."""
    place = formatting.name(left.mountpoint)
    return (
        f"{place} is not served: {formatting.count(left.segments, 'region')} with "
        f"{notation.size(left.memory)} {'is' if left.segments == 1 else 'are'} kept until it is "
        f"mounted again; "
        f"'mshare discard {place}' throws them away"
    )


def remarks(listings: Sequence[Listing]) -> list[str]:
    """What a table does not say."""
    found: list[str] = []
    for listing in listings:
        found += [
            f"{formatting.name(error.filename)} could not be read: {error.strerror}"
            for error in listing.unreadable
        ]
        removed = listing.removed
        if removed:
            pids = sorted({pid for pids in removed.values() for pid in pids})
            found.append(
                f"{formatting.count(len(removed), 'region')} without a name "
                f"{'is' if len(removed) == 1 else 'are'} still attached by {_some(pids)}"
            )
    blind = blind_spot(listings[0].scan) if listings else ""
    return [*found, blind] if blind else found


def blind_spot(scan: processes.Scan) -> str:
    """What could not be seen for want of rights; nothing if that is nothing."""
    if scan.hidden:
        return "/proc hides the processes of other users here, so only yours are counted"
    if scan.unseen:
        others = formatting.count(scan.unseen, "process", "processes")
        hint = "" if os.geteuid() == 0 else "; root sees more"
        return f"{others} could not be looked into for want of rights{hint}"
    return ""


def row(listing: Listing, region: Summary) -> list[str | Text]:
    """A region's line of the table."""
    users = len(listing.attached(region))
    return [
        formatting.name(region.name),
        notation.size(region.size) if region.size else "not set",
        "?" if region.mapped is None else notation.size(region.mapped),
        notation.size(region.memory),
        _huge_share(region),
        f"{users:,}",
        region.owner,
        region.mode,
    ]


def _huge_share(region: Summary) -> str:
    if region.mapped is None or region.huge is None:
        return "?"
    return formatting.percent(region.huge, region.mapped) if region.mapped else "-"


def _drawing(listings: Sequence[Listing]) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - only to draw

    parts: list[RenderableType] = []
    for listing in listings:
        if len(listings) > 1:
            parts += [
                *([""] if parts else []),
                terminal.text(f"{formatting.name(listing.mount.path)}:", "bold"),
            ]
        if listing.found:
            parts.append(
                terminal.table(_COLUMNS, (row(listing, region) for region in listing.found))
            )
        elif not listing.unreadable:
            parts.append(terminal.text("no regions", "dim"))
    if not listings:
        parts.append(terminal.text("no msharefs is mounted here", "dim"))
    return Group(*parts)


def _frame(looker: Looker, directory: str | None) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - only to draw

    listings, left = _look(looker, directory)
    words = [*remarks(listings), *map(left_behind, left)]
    return Group(_drawing(listings), *(terminal.text(each, "dim") for each in words))


def _some(pids: Sequence[int], most: int = 5) -> str:
    """ "process 12", "processes 12, 13 and 4 more"."""
    words = ", ".join(map(str, pids[:most]))
    more = f" and {len(pids) - most} more" if len(pids) > most else ""
    return f"process{'es' if len(pids) > 1 else ''} {words}{more}"
