"""mshare dump and load: a region saved in a file, and brought back.

Owns the options, and what is said of files that were mapped in what was saved. How a region is saved and restored is msharefs.inspect's, and which files are
written to and read from is files.py's.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice

import click

from msharefs import Region, notation
from msharefs.cli import files, formatting, terminal
from msharefs.cli.errors import CommandError
from msharefs.cli.params import FILE, MODE, REGION, json_option
from msharefs.inspect import archive
from msharefs.inspect.dumpheader import Header

_MOST_FILES = 8
"""Named in a sentence."""


@click.command(short_help="Save a region in a file.")
@click.argument("path", type=REGION)
@click.argument("file", type=FILE)
def dump(path: str, file: str) -> None:
    """Save the region at PATH, its layout and its bytes, in FILE; "-" is standard output.

    FILE gets mode 0600, and what had its name is replaced when all is written. Zeros take no
    space. A region that is written meanwhile is saved as each part of it was when its turn came;
    if its layout changes, the dump fails. Of mappings of files it has the bytes, and which files
    they are.
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
@json_option
def load(file: str, path: str, *, mode: int | None, same_owner: bool, as_json: bool) -> None:
    """Make a region at PATH as it was saved in FILE; "-" is standard input.

    It appears when all of it is there and every checksum is right. A torn or damaged file is
    refused (exit code 3). It is yours, and has the mode that it had. What was a mapping of a file
    is memory, and the command says which.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    name = "standard input" if file == files.STANDARD else file
    rights = archive.Rights(mode, owner=same_owner)
    with files.source(file) as (fd, total), terminal.progress("loading", total) as advance:
        header = archive.load(fd, name, path, rights, advance)
    if as_json:
        for part in _document(path, header):
            click.echo(part, nl=False)
    elif words := _of_files(header):
        terminal.show(terminal.text(words))


def _of_files(header: Header) -> str:
    """The sentence about mappings that were of files, or nothing."""
    number = sum(1 for _ in header.of_files())
    if not number:
        return ""
    named = [
        f"{formatting.name(file.path)} at {notation.exact_size(mapping.offset)}"
        for mapping, file in islice(header.of_files(), _MOST_FILES)
    ]
    if number > _MOST_FILES:
        named.append(f"{number - _MOST_FILES:,} more, which --json has")
    were = "was of a file and is" if number == 1 else "were of files and are"
    return (
        f"{formatting.count(number, 'mapping')} {were} memory now, which goes back to none: "
        f"{', '.join(named)}"
    )


def _document(path: str, header: Header) -> Iterator[str]:
    """The same as JSON, in parts: whoever made the dump may have named very many files."""
    facts = {"path": path, "size": header.size, "saved": header.saved}
    yield json.dumps(facts).removesuffix("}") + ', "files": ['
    separator = ""
    for mapping, file in header.of_files():
        told = {"offset": mapping.offset, "size": mapping.size, "file": asdict(file)}
        yield separator + json.dumps(told)
        separator = ", "
    yield "]}\n"
