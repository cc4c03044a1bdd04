"""mshare status: what a mount's daemon says of itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from msharefs import notation
from msharefs.cli import formatting, terminal
from msharefs.cli.errors import EXIT_OK, EXIT_REFUSED
from msharefs.cli.params import DIRECTORY, json_option
from msharefs.inspect import mounts
from msharefs.inspect.errors import InspectError
from msharefs.inspect.leftovers import Leftover, left_at, leftovers
from msharefs.inspect.operations import Counter, Total, bound_within, by_frequency, largest_bound
from msharefs.prometheus import exposition

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

_GAUGE_WIDTH = 32
_MOST_OPERATIONS = 8
"""A terminal gets no more lines of them, so that all of it fits."""
_USERS_SHOWN = 5
_COLUMNS = (
    terminal.Column("OPERATION", style="cyan"),
    terminal.Column("COUNT", right=True),
    terminal.Column("ERRORS", right=True),
    terminal.Column("MEAN TIME", right=True),
    terminal.Column("99% WITHIN", right=True),
    terminal.Column("IN ALL", right=True),
)


@click.command(short_help="Show how a mount is doing.")
@click.argument("directory", metavar="[DIR]", type=DIRECTORY, required=False)
@json_option
@click.option("--prometheus", is_flag=True, help="Print metrics for Prometheus.")
def status(directory: str | None, *, as_json: bool, prometheus: bool) -> int:
    """Show a mount's daemon, data plane, memory and operations.

    DIR is any directory on the mount; it may be left out where only one is mounted.
    """
    if as_json and prometheus:
        raise click.UsageError("--json and --prometheus do not go together")
    try:
        mount = mounts.only(directory)
        document = mounts.status(mount)
    except (InspectError, OSError):
        left = _left(directory)
        if not left or prometheus:
            raise
        _show_left(left, as_json=as_json)
        return EXIT_REFUSED
    if as_json:
        print(json.dumps(document, indent=2))
    elif prometheus:
        print(exposition(document), end="")
    else:
        most = _MOST_OPERATIONS if terminal.is_live() else None
        terminal.show(*drawing(mount, document), "", operations(document, most))
    return EXIT_OK


def _left(directory: str | None) -> list[Leftover]:
    """What is left of the mount that is meant, or of all if none is."""
    if directory is None:
        return leftovers()
    left = left_at(directory)
    return [] if left is None else [left]


def _show_left(left: list[Leftover], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"left": [each.document() for each in left]}, indent=2))
        return
    for each in left:
        place = formatting.name(each.mountpoint)
        terminal.show(
            terminal.line((place, "bold cyan"), "  its daemon is gone"),
            _line(
                "Memory",
                f"{notation.size(each.memory)} of {notation.size(each.size)} "
                f"in {formatting.count(each.segments, 'region')}",
            ),
            _line("State", formatting.name(each.directory)),
            _line("Next", f"mount it again, or 'mshare discard {place}'"),
        )


def drawing(mount: mounts.Mount, document: dict[str, Any]) -> Iterator[RenderableType]:
    """Everything but the operations."""
    plane, pids = document.get("data_plane", {}), document.get("pids", {})
    yield terminal.line(
        (formatting.name(mount.path), "bold cyan"),
        f"  msharefs {document.get('version', '?')}, "
        f"up {formatting.duration(document.get('uptime', 0))}",
    )
    yield _line("Data plane", (plane.get("name", "?"), "bold"), f", {plane.get('why', '')}")
    yield memory_line(document)
    yield _line("Huge pages", huge_pages_line(document))
    inodes = document.get("inodes", {})
    yield _line("Names", f"{inodes.get('used', 0):,} of {inodes.get('limit', 0):,}")
    yield _line("Holds", regions_line(document))
    if users := users_line(document):
        yield _line("Users", users)
    words = [
        ", ".join(f"{name} {pid}" for name, pid in pids.items()),
        formatting.count(document.get("restarts", 0), "restart"),
    ]
    if "resent_requests" in document:
        words.append(f"{formatting.count(document['resent_requests'], 'request')} sent again")
    if document.get("last_gap_seconds"):
        words.append(f"last gap {formatting.latency(document['last_gap_seconds'])}")
    yield _line("Daemon", "; ".join(words))


def users_line(document: dict[str, Any]) -> str:
    """What each user may have and who has most, where there are limits."""
    limits = document.get("user_limits", {})
    if not any(limits.values()):
        return ""
    shares = [f"each may have {_share(limits)}"]
    for uid, share in islice(document.get("users", {}).items(), _USERS_SHOWN):
        shares.append(f"{uid} has {_share(share)}")
    return "; ".join(shares)


def _share(share: dict[str, int | None]) -> str:
    """Those of memory, names, mappings and files that there are."""
    keys = ("size", "inodes", "mappings", "files")
    size, inodes, mappings, files = (share.get(key) for key in keys)
    words = [
        None if size is None else notation.size(size),
        None if inodes is None else formatting.count(inodes, "name"),
        None if mappings is None else formatting.count(mappings, "mapping"),
        formatting.count(files, "file") if files else None,
    ]
    return ", ".join(word for word in words if word is not None)


def memory_line(document: dict[str, Any]) -> Text:
    """The arena as a gauge and in numbers."""
    arena = document.get("arena", {})
    used, whole = arena.get("used", 0), arena.get("size", 0)
    return _line(
        "Memory",
        terminal.gauge(used, whole, _GAUGE_WIDTH, "red" if used * 10 > whole * 9 else "green"),
        f" {notation.size(used)} of {notation.size(whole)}, "
        f"{notation.size(arena.get('reserved', 0))} reserved",
    )


def huge_pages_line(document: dict[str, Any]) -> str:
    """How much is in pages of 2 MiB, and why it is not more."""
    huge = document.get("huge_pages", {})
    words = notation.size(huge.get("collapsed", 0))
    return f"{words}; {huge['obstacle']}" if huge.get("obstacle") else words


def regions_line(document: dict[str, Any]) -> str:
    """Regions, mappings and open handles in numbers."""
    return (
        f"{formatting.count(document.get('regions', 0), 'region')} "
        f"with {formatting.count(document.get('mappings', 0), 'mapping')}"
        f"{_files(document)}, "
        f"open {formatting.count(document.get('open_handles', 0), 'time')}"
    )


def _files(document: dict[str, Any]) -> str:
    """Nothing of files where there are none."""
    mapped = document.get("files", {}).get("mapped", 0)
    return f" ({mapped} of files)" if mapped else ""


def operations(document: dict[str, Any], most: int | None = None) -> RenderableType:
    """A line for each kind of request, the most frequent first; those beyond `most` in one."""
    ordered = by_frequency(document)
    rest = ordered[most:] if most is not None and len(ordered) > most else []
    rows = [_row(name, [counter]) for name, counter in ordered[: len(ordered) - len(rest)]]
    if rest:
        rows.append(_row(f"{len(rest)} others", [counter for _, counter in rest]))
    return terminal.table(_COLUMNS, rows)


def _row(name: str, counters: Sequence[Counter]) -> list[str | Text]:
    total = Total.of(counters)
    return [
        name,
        f"{total.count:,}",
        f"{total.errors:,}",
        formatting.latency(total.seconds / total.count) if total.count else "-",
        _nearly_all(counters),
        formatting.latency(total.seconds),
    ]


def _nearly_all(counters: Sequence[Counter]) -> str:
    """How long 99 of 100 requests took at most."""
    bound = bound_within(0.99, counters)
    if bound is None:
        return "-"
    if bound == math.inf:
        return f"> {formatting.latency(largest_bound(counters))}"
    return formatting.latency(bound)


def _line(name: str, *parts: str | tuple[str, str] | Text) -> Text:
    return terminal.line((f"{name:<12}", "bold"), *parts)
