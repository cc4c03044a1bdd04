"""mshare restart: have a mount served by the code that is installed now."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import Any

import click

from msharefs.cli import formatting
from msharefs.cli.errors import CommandError
from msharefs.cli.params import DIRECTORY
from msharefs.inspect import mounts
from msharefs.inspect.probe import Asker

_TIMEOUT = 60.0
"""Seconds in which another server has to answer."""
_LOOK = 0.01


@click.command(short_help="Replace a mount's server, without unmounting.")
@click.argument("directory", metavar="MOUNTPOINT", type=DIRECTORY)
def restart(directory: str) -> None:
    """Replace the server of a mount by one from the code that is installed now.

    The mount stays, and so do regions, attached processes and open files. Requests wait
    meanwhile. Needs the rights to send a signal to the mount's supervisor.
    """
    mount, old = Asker().ask(directory, partial(_look, directory))
    supervisor = int(old["pids"]["supervisor"])
    try:
        os.kill(supervisor, signal.SIGHUP)
    except ProcessLookupError as error:
        raise CommandError(
            f"no supervisor {supervisor}: is it in another PID namespace?"
        ) from error
    except PermissionError as error:
        raise CommandError(f"supervisor {supervisor} belongs to somebody else") from error
    new = _wait_for_another(mount, old)
    print(
        f"{formatting.name(mount.path)}: server {new['pids']['server']} of version {new['version']} has taken "
        f"over from {old['pids']['server']} after {new['last_gap_seconds'] * 1000:.0f} ms"
    )


def _look(directory: str) -> tuple[mounts.Mount, dict[str, Any]]:
    mount = mounts.only(directory)
    return mount, mounts.status(mount)


def _wait_for_another(mount: mounts.Mount, old: dict[str, Any]) -> dict[str, Any]:
    """The status that a new server gives. CommandError if none comes."""
    old_server, failed = old["pids"]["server"], _failed(old)
    deadline = time.monotonic() + _TIMEOUT
    while time.monotonic() < deadline:
        status = mounts.status(mount)
        if status["pids"]["server"] != old_server:
            return status
        if _failed(status)["count"] > failed["count"]:
            why = _failed(status)["last"]
            raise CommandError(
                f"server {old_server} still serves, the new one does not load: {why}"
            )
        time.sleep(_LOOK)
    raise CommandError(f"server {old_server} still serves; the log of the mount says why")


def _failed(status: dict[str, Any]) -> dict[str, Any]:
    """How many upgrades of a server have failed. One of an earlier version does not know."""
    failed: dict[str, Any] = status.get("upgrades_failed", {"count": 0})
    return failed
