"""mshare ps: which processes have a region attached, and what that costs them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from msharefs.cli import _format, _proc, _regions, _screen, listing
from msharefs.cli._params import REGION, json_option

if TYPE_CHECKING:
    from rich.text import Text

_COLUMNS = (
    _screen.Column("PID", right=True),
    _screen.Column("USER"),
    _screen.Column("COMMAND", flexible=True, style="cyan"),
    _screen.Column("ADDRESS", right=True),
    _screen.Column("OFFSET", right=True),
    _screen.Column("SIZE", right=True),
    _screen.Column("PROT"),
    _screen.Column("TOUCHED", right=True),
    _screen.Column("SAVED", right=True),
)


@click.command(short_help="Show who has a region attached.")
@click.argument("path", type=REGION)
@json_option
def ps(path: str, *, as_json: bool) -> None:
    """Show the processes that have the region attached, a line for each window on it.

    TOUCHED is how much of the window the process has in its page tables, SAVED the memory that
    page tables for 4 KiB pages would take on top of those that it has.
    """
    mount, facts = _regions.look_at(path)
    inode = facts.file.st_ino
    scan = _proc.scan(mount.device)
    found = list(_proc.processes(mount.device, inode, scan.attached.get(inode, [])))
    if as_json:
        print(json.dumps(document(found, scan), indent=2))
        return
    if found:
        _screen.show(_screen.table(_COLUMNS, _rows(found)), "", _screen.text(_total(found), "bold"))
    else:
        _screen.show(_screen.text(f"no process is seen that has {facts.shown} attached", "dim"))
    blind = listing.blind_spot(scan)
    if blind:
        _screen.note(blind)


def document(found: Sequence[_proc.Process], scan: _proc.Scan) -> dict[str, Any]:
    """What --json prints."""
    return {
        "processes": [
            {
                "pid": process.pid,
                "uid": process.uid,
                "user": process.user,
                "command": process.command,
                "windows": [
                    {
                        "address": window.address,
                        "offset": window.offset,
                        "size": window.size,
                        "prot": window.prot[:3],
                        "touched": window.touched,
                        "huge": window.huge,
                        "page_tables_saved": window.saved,
                    }
                    for window in process.windows
                ],
            }
            for process in found
        ],
        "unseen_processes": scan.unseen,
        "processes_hidden": scan.hidden,
    }


def _rows(found: Sequence[_proc.Process]) -> list[list[str | Text]]:
    return [
        [
            str(process.pid),
            _format.name(process.user),
            _format.name(_short(process.command)),
            f"{window.address:x}",
            _format.exact_size(window.offset),
            _format.exact_size(window.size),
            _format.prot(window.prot[:3]),
            _format.size(window.touched),
            _format.size(window.saved),
        ]
        for process in found
        for window in process.windows
    ]


def _short(command: str) -> str:
    """Without the directory of the program, for which a table has no room."""
    program, blank, rest = command.partition(" ")
    return os.path.basename(program) + blank + rest


def _total(found: Sequence[_proc.Process]) -> str:
    windows = [window for process in found for window in process.windows]
    return (
        f"{_format.count(len(found), 'process', 'processes')}, "
        f"{_format.count(len(windows), 'window')}, "
        f"{_format.size(sum(window.touched for window in windows))} touched, "
        f"{_format.size(sum(window.saved for window in windows))} of page tables saved"
    )
