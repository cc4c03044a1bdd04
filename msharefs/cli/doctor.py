"""mshare doctor: is this machine fit for msharefs, and are its mounts well."""

from __future__ import annotations

import errno
import json
import os
import select
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from msharefs.cli import formatting, terminal
from msharefs.cli.errors import EXIT_OK, EXIT_REFUSED
from msharefs.cli.params import json_option
from msharefs.inspect import host_memory, host_mounting, mounts
from msharefs.inspect.host import Finding, Host

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red"}
ANSWER_SECONDS = 2.0
"""A mount that has not answered by then hangs."""


@click.command(short_help="Check this machine.")
@json_option
def doctor(*, as_json: bool) -> int:
    """Check what msharefs needs of this machine, and say what to do about the rest.

    Exit code 1 if something keeps mounts from working; what is only worth knowing counts as well.
    Run it as the user who will mount.
    """
    host = Host()
    checks = (*host_mounting.CHECKS, *host_memory.CHECKS)
    found = [finding for check in checks for finding in check(host)]
    found += _mount_findings()
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
    else:
        terminal.show(*_drawing(found))
    return EXIT_REFUSED if any(each.level == "FAIL" for each in found) else EXIT_OK


def _mount_findings() -> Iterator[Finding]:
    for mount in mounts.mounts():
        number = answer_of(mount.path)
        if number is None:
            connection = os.minor(mount.device)
            yield Finding(
                "FAIL",
                "mount",
                f"{mount.shown} does not answer",
                f"read its log; 'echo 1 > /sys/fs/fuse/connections/{connection}/abort' as root "
                "ends the waiting of all its programs, and the mount",
            )
        elif number in {errno.ENOTCONN, errno.ECONNABORTED}:
            yield Finding(
                "FAIL",
                "mount",
                f"the daemon of {mount.shown} has died",
                "mount it again, which brings its regions back",
            )
        elif number == 0:
            yield Finding("ok", "mount", f"{mount.shown} answers")
        else:
            # Another user's, most likely: nothing is wrong with it.
            yield Finding("ok", "mount", f"{mount.shown} is not for you: {os.strerror(number)}")


def answer_of(path: str) -> int | None:
    """The errno of looking at a mount, 0 if it is well, None if it does not answer in time."""
    reader, writer = os.pipe()
    # In a child: a process that waits for a mount that hangs cannot even be killed.
    child = os.fork()
    if child == 0:
        try:
            # Whoever reads our output must not wait for a child that waits.
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            os.statvfs(path)
        except OSError as error:
            os.write(writer, bytes([min(error.errno or errno.EIO, 255)]))
        else:
            os.write(writer, b"\0")
        finally:
            os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], ANSWER_SECONDS)[0]:
            return None
        answer = os.read(reader, 1)
        os.waitpid(child, 0)
    finally:
        os.close(reader)
    return answer[0] if answer else None


def _drawing(found: list[Finding]) -> Iterator[RenderableType]:
    from rich.table import Table  # noqa: PLC0415 - only to draw

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=4)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for each in found:
        words = terminal.text(each.sentence)
        if each.advice:
            words.append(f"\n{each.advice}", style="cyan")
        table.add_row(
            terminal.text(each.level, _STYLES[each.level]), terminal.text(each.about), words
        )
    yield table
    bad = sum(each.level == "FAIL" for each in found)
    hints = sum(each.level == "warn" for each in found)
    if bad:
        verdict = f"{formatting.count(bad, 'thing')} must be mended"
    elif hints:
        verdict = f"mounts work; {formatting.count(hints, 'thing')} could be better"
    else:
        verdict = "all is well"
    yield ""
    yield terminal.text(verdict, "bold")
