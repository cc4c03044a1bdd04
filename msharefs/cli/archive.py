"""mshare dump and load: a region saved in a file, and brought back.

Owns the options. How a region is saved and restored is msharefs.inspect's, and which files are
written to and read from is files.py's.
"""

from __future__ import annotations

import errno
import os

import click

from msharefs import Region
from msharefs.cli import files, formatting, terminal
from msharefs.cli.errors import CommandError
from msharefs.cli.params import FILE, MODE, REGION
from msharefs.inspect import archive


@click.command(short_help="Save a region in a file.")
@click.argument("path", type=REGION)
@click.argument("file", type=FILE)
def dump(path: str, file: str) -> None:
    """Save the region at PATH, its layout and its bytes, in FILE; "-" is standard output.

    FILE gets mode 0600, and what had its name is replaced when all is written. Zeros take no
    space. A region that is written meanwhile is saved as each part of it was when its turn came;
    if its layout changes, the dump fails.
    """
    with Region.open(path, writable=False) as region, files.output(file) as fd:
        layout = region.layout()
        if not layout.size:
            raise CommandError(
                f"{formatting.name(path)} has no size yet, so there is nothing to save"
            )
        with terminal.progress("saving", layout.mapped) as advance:
            archive.save(region, layout, fd, advance)


@click.command(short_help="Bring a saved region back.")
@click.argument("file", type=FILE)
@click.argument("path", type=REGION)
@click.option("--mode", type=MODE, help="Instead of the mode that was saved.")
@click.option("--same-owner", is_flag=True, help="Give it the owner and group that it had.")
def load(file: str, path: str, *, mode: int | None, same_owner: bool) -> None:
    """Make a region at PATH as it was saved in FILE; "-" is standard input.

    It appears when all of it is there and every checksum is right. A torn or damaged file is
    refused (exit code 3). It is yours, and has the mode that it had.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    name = "standard input" if file == files.STANDARD else file
    rights = archive.Rights(mode, owner=same_owner)
    with files.source(file) as (fd, total), terminal.progress("loading", total) as advance:
        archive.load(fd, name, path, rights, advance)
