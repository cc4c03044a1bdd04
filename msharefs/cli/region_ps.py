"""mshare ps: which processes have a region attached, and what that costs them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from msharefs import notation
from msharefs.cli import formatting, listing, terminal
from msharefs.cli.params import REGION, json_option
from msharefs.inspect import mounts, processes, regions

if TYPE_CHECKING:
    from rich.text import Text

_COLUMNS = (
    terminal.Column("PID", right=True),
    terminal.Column("USER", rank=3),
    terminal.Column("ADDRESS", right=True, rank=6),
    terminal.Column("OFFSET", right=True, rank=4),
    terminal.Column("SIZE", right=True),
    terminal.Column("PROT", rank=5),
    terminal.Column("TOUCHED", right=True, rank=1),
    terminal.Column("SAVED", right=True, rank=2),
    terminal.Column("COMMAND", folds=True, style="cyan"),
)
"""The command comes last, as ps(1) has it, and whole."""


@click.command(short_help="Show who has a region attached.")
@click.argument("path", type=REGION)
@json_option
def ps(path: str, *, as_json: bool) -> None:
    """Show the processes that have the region attached, a line for each window on it.

    TOUCHED is how much of the window the process has in its page tables, SAVED the memory that
    page tables for 4 KiB pages would take on top of those that it has. A narrow terminal shows
    fewer columns.
    """
    mount, facts = regions.look_at(path)
    status = mounts.status_or_nothing(mount)
    devices = mounts.devices_of(mount, status)
    scan = regions.scan_for(facts, devices, mounts.supervisor_of(status))
    pids = scan.attached.get(facts.file.st_ino, [])
    found = list(processes.processes(regions.places_of(facts, devices), pids))
    if as_json:
        print(json.dumps(processes.document(found, scan), indent=2))
        return
    if found:
        terminal.show(
            terminal.table(_COLUMNS, _rows(found)), "", terminal.text(_total(found), "bold")
        )
    else:
        terminal.show(
            terminal.text(
                f"no process is seen that has {formatting.name(facts.name)} attached", "dim"
            )
        )
    blind = listing.blind_spot(scan)
    if blind:
        terminal.note(blind)


def _rows(found: Sequence[processes.Process]) -> list[list[str | Text]]:
    return [
        [
            str(process.pid),
            formatting.name(process.user),
            f"{window.address:x}",
            notation.exact_size(window.offset),
            notation.exact_size(window.size),
            formatting.prot(window.prot[:3]),
            notation.size(window.touched),
            notation.size(window.saved),
            formatting.name(_short(process.command)),
        ]
        for process in found
        for window in process.windows
    ]


def _short(command: str) -> str:
    """Without the directory of the program, for which a table has no room."""
    program, blank, rest = command.partition(" ")
    return os.path.basename(program) + blank + rest


def _total(found: Sequence[processes.Process]) -> str:
    windows = [window for process in found for window in process.windows]
    return (
        f"{formatting.count(len(found), 'process', 'processes')}, "
        f"{formatting.count(len(windows), 'window')}, "
        f"{notation.size(sum(window.touched for window in windows))} touched, "
        f"{notation.size(sum(window.saved for window in windows))} of page tables saved"
    )
