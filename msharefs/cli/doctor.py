"""mshare doctor: is this machine fit for msharefs, and are its mounts well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from msharefs.cli import formatting, terminal
from msharefs.cli.errors import EXIT_OK, EXIT_REFUSED
from msharefs.cli.params import json_option
from msharefs.inspect import host_memory, host_mounting
from msharefs.inspect.host import Finding, Host
from msharefs.inspect.host_mounts import check_leftovers, check_mounts

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red", "?": "magenta"}


@click.command(short_help="Check this machine.")
@json_option
def doctor(*, as_json: bool) -> int:
    """Check what msharefs needs of this machine, and say what to do about the rest.

    Exit code 1 if something keeps mounts from working. What could not be looked at has a question
    mark, and counts as neither well nor wrong.
    Run it as the user who will mount.
    """
    host = Host()
    checks = (*host_mounting.CHECKS, *host_memory.CHECKS)
    found = [finding for check in checks for finding in check(host)]
    found += check_mounts()
    found += check_leftovers()
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        terminal.show(*_drawing(found))
    return EXIT_REFUSED if any(each.level == "FAIL" for each in found) else EXIT_OK


def _drawing(found: list[Finding]) -> Iterator[RenderableType]:
    from rich.table import Table  # noqa: PLC0415 - only to draw

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=4)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for each in found:
        words = terminal.text(formatting.name(each.sentence))
        if each.advice:
            words.append(f"\n{formatting.name(each.advice)}", style="cyan")
        table.add_row(
            terminal.text(each.level, _STYLES[each.level]), terminal.text(each.about), words
        )
    yield table
    bad = sum(each.level == "FAIL" for each in found)
    hints = sum(each.level == "warn" for each in found)
    unseen = sum(each.level == "?" for each in found)
    if bad:
        verdict = f"{formatting.count(bad, 'thing')} must be mended"
    elif hints:
        verdict = f"mounts work; {formatting.count(hints, 'thing')} could be better"
    else:
        verdict = "all is well" + (", as far as could be seen" if unseen else "")
    if unseen:
        verdict += f"; {formatting.count(unseen, 'thing')} could not be looked at"
    yield ""
    yield terminal.text(verdict, "bold")
