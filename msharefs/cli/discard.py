"""mshare discard: give back what a mount has left whose daemon is gone."""

from __future__ import annotations

import os

import click

from msharefs.cli import formatting
from msharefs.cli.errors import CommandError
from msharefs.cli.params import DIRECTORY
from msharefs.daemon.discarding import DiscardError, throw_away


@click.command(short_help="Throw away what a dead mount has left.")
@click.argument("mountpoints", metavar="MOUNTPOINT...", type=DIRECTORY, nargs=-1, required=True)
def discard(mountpoints: tuple[str, ...]) -> None:
    """Throw away the memory and the regions of a mount whose daemon is gone.

    They are kept for the next mount on the same place. 'mshare ls' and 'mshare doctor' tell where
    there are any; the directory itself need not be there any more.
    """
    for mountpoint in mountpoints:
        shown = formatting.name(mountpoint)
        try:
            if not throw_away(os.path.realpath(mountpoint)):
                raise CommandError(f"no mount of yours has left anything at {shown}")
        except DiscardError as error:
            raise CommandError(f"{shown}: {formatting.name(str(error))}") from error
