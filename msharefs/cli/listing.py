"""mshare ls: the regions of a directory or of every mount."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from msharefs import notation
from msharefs.cli import formatting, terminal
from msharefs.cli.params import DIRECTORY, json_option
from msharefs.inspect import mounts, processes, regions

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from msharefs.client.layout import Layout

FACTS = (
    terminal.Column("REGION", flexible=True, style="cyan"),
    terminal.Column("SIZE", right=True),
    terminal.Column("MAPPED", right=True),
    terminal.Column("MEMORY", right=True),
    terminal.Column("HUGE", right=True),
    terminal.Column("USED BY", right=True),
)
"""The columns of every table of regions; `row` begins with their cells."""
OWNER = terminal.Column("OWNER")
_COLUMNS = (*FACTS, OWNER, terminal.Column("MODE"))


@dataclass(slots=True)
class Listing:
    """The regions below one directory of one mount."""

    mount: mounts.Mount
    top: str
    huge: regions.HugePages
    scan: processes.Scan
    found: list[regions.Facts] = field(default_factory=list)
    unreadable: list[OSError] = field(default_factory=list)

    @property
    def removed(self) -> dict[int, list[int]]:
        """Inodes that are attached and have no name any more, with the pids that hold them."""
        if self.top != self.mount.path or self.unreadable:
            return {}
        named = {facts.file.st_ino for facts in self.found}
        return {inode: pids for inode, pids in self.scan.attached.items() if inode not in named}

    def attached(self, facts: regions.Facts) -> list[int]:
        """Who has a region attached, as far as it could be seen."""
        return self.scan.attached.get(facts.file.st_ino, [])


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
    if as_json and watch is None:
        print(json.dumps(document(_look_at_all(directory)), indent=2))
    elif as_json:
        terminal.repeat_lines(lambda: json.dumps(document(_look_at_all(directory))), watch or 0)
    elif watch is not None:
        terminal.repeat(lambda: _frame(_look_at_all(directory)), watch)
    else:
        listings = _look_at_all(directory)
        terminal.show(_drawing(listings))
        for remark in remarks(listings):
            terminal.note(remark)


def _look_at_all(directory: str | None) -> list[Listing]:
    """The directory that was asked about, or each mount."""
    listings: list[Listing] = []
    for mount, top in mounts.chosen(directory):
        try:
            listings.append(look(mount, top))
        except OSError as error:
            if directory is not None:
                raise
            # One mount whose daemon has died must not hide the others.
            error.filename = mount.path
            nothing = regions.HugePages(by_default=False, on_request=False)
            listings.append(Listing(mount, top, nothing, processes.Scan(), unreadable=[error]))
    return listings


def look(mount: mounts.Mount, top: str) -> Listing:
    """Everything there is to tell of the regions below `top`."""
    listing = Listing(
        mount,
        top,
        regions.HugePages.of(mounts.status_or_nothing(mount)),
        processes.scan(mount.device),
    )
    for path in mounts.regions(mount, top, listing.unreadable.append):
        try:
            listing.found.append(regions.facts_of(path))
        except FileNotFoundError:
            continue
    return listing


def document(listings: Sequence[Listing]) -> dict[str, Any]:
    """What --json prints."""
    return {
        "regions": [
            region_document(listing.mount, facts, listing.huge) | {"pids": listing.attached(facts)}
            for listing in listings
            for facts in listing.found
        ],
        "removed": [
            {"mount": listing.mount.path, "inode": inode, "pids": pids}
            for listing in listings
            for inode, pids in listing.removed.items()
        ],
        "unreadable": [error.filename for listing in listings for error in listing.unreadable],
        "unseen_processes": max(listing.scan.unseen for listing in listings),
        "processes_hidden": any(listing.scan.hidden for listing in listings),
    }


def region_document(
    mount: mounts.Mount, facts: regions.Facts, huge: regions.HugePages
) -> dict[str, Any]:
    """One region as JSON; what may not be read is null."""
    layout = facts.layout
    return {
        "path": facts.path,
        "mount": mount.path,
        "inode": facts.file.st_ino,
        "size": facts.size,
        "mapped": None if layout is None else layout.mapped,
        "reserved": None if layout is None else layout.reserved,
        "memory": facts.memory,
        "huge": None if layout is None else huge.bytes_of(layout),
        "mappings": None if layout is None else len(layout.mappings),
        "open_handles": None if layout is None else layout.open_handles,
        "owner": facts.owner,
        "group": facts.group,
        "uid": facts.file.st_uid,
        "gid": facts.file.st_gid,
        "mode": f"{facts.file.st_mode & 0o7777:04o}",
        "links": facts.file.st_nlink,
    }


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
    blind = blind_spot(listings[0].scan)
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


def row(listing: Listing, facts: regions.Facts) -> list[str | Text]:
    """A region's line of the table."""
    layout = facts.layout
    users = len(listing.attached(facts))
    mapped = "?" if layout is None else notation.size(layout.mapped)
    huge = "?" if layout is None else _huge_share(listing.huge, layout.mapped, layout)
    return [
        facts.shown,
        notation.size(facts.size) if facts.size else "not set",
        mapped,
        notation.size(facts.memory),
        huge,
        f"{users:,}",
        facts.owner,
        facts.mode,
    ]


def _huge_share(huge: regions.HugePages, mapped: int, layout: Layout) -> str:
    return formatting.percent(huge.bytes_of(layout), mapped) if mapped else "-"


def _drawing(listings: Sequence[Listing]) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - only to draw

    parts: list[RenderableType] = []
    for listing in listings:
        if len(listings) > 1:
            parts += [*([""] if parts else []), terminal.text(f"{listing.mount.shown}:", "bold")]
        if listing.found:
            parts.append(terminal.table(_COLUMNS, (row(listing, facts) for facts in listing.found)))
        else:
            parts.append(terminal.text("no regions", "dim"))
    return Group(*parts)


def _frame(listings: Sequence[Listing]) -> RenderableType:
    from rich.console import Group  # noqa: PLC0415 - only to draw

    return Group(
        _drawing(listings), *(terminal.text(remark, "dim") for remark in remarks(listings))
    )


def _some(pids: Sequence[int], most: int = 5) -> str:
    """ "process 12", "processes 12, 13 and 4 more"."""
    words = ", ".join(map(str, pids[:most]))
    more = f" and {len(pids) - most} more" if len(pids) > most else ""
    return f"process{'es' if len(pids) > 1 else ''} {words}{more}"
