"""mshare dump and load: a region saved in a file, and brought back.

Owns the file: that a dump appears under its name when it is whole, and what may be read from and
written to. How a region is saved and restored is msharefs.inspect's.
"""

from __future__ import annotations

import errno
import os
import stat as stat_module
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import click

from msharefs import MshareError, Region
from msharefs.cli import formatting, terminal
from msharefs.cli.errors import CommandError
from msharefs.cli.params import FILE, MODE, REGION
from msharefs.inspect import archive

_STANDARD = "-"


@click.command(short_help="Save a region in a file.")
@click.argument("path", type=REGION)
@click.argument("file", type=FILE)
def dump(path: str, file: str) -> None:
    """Save the region at PATH, its layout and its bytes, in FILE; "-" is standard output.

    Zeros take no space. A region that is written meanwhile is saved as each part of it was when
    its turn came; if its layout changes, the dump fails.
    """
    with Region.open(path, writable=False) as region, _output(file) as fd:
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
def load(file: str, path: str, *, mode: int | None) -> None:
    """Make a region at PATH as it was saved in FILE; "-" is standard input.

    It appears when all of it is there and every checksum is right. A torn or damaged file is
    refused (exit code 3). Root gives it the owner that it had.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    name = "standard input" if file == _STANDARD else file
    with _input(file) as (fd, total), terminal.progress("loading", total) as advance:
        archive.load(fd, name, path, mode, advance)


@contextmanager
def _output(file: str) -> Iterator[int]:
    """A descriptor to write to. A regular file gets its name when the body has succeeded."""
    if file == _STANDARD:
        if sys.stdout.isatty():
            raise CommandError("a dump is not for a terminal: name a file, or pipe it on")
        yield sys.stdout.fileno()
        return
    if os.path.exists(file) and not os.path.isfile(file):
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with _named(file):
                yield fd
        finally:
            os.close(fd)
        return
    target = os.path.realpath(file)
    directory = os.path.dirname(target)
    try:
        # Mode 0600: what processes share may be secret.
        fd, temporary = tempfile.mkstemp(prefix=".mshare-dump-", dir=directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error
    try:
        with _named(file):
            yield fd
            os.fsync(fd)
            os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


@contextmanager
def _named(file: str) -> Iterator[None]:
    """What write(2) refuses does not say of which file."""
    try:
        yield
    except MshareError:
        raise
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, file) from error
        raise


@contextmanager
def _input(file: str) -> Iterator[tuple[int, int | None]]:
    """A descriptor to read from, and how many bytes it has if that is known."""
    if file == _STANDARD:
        yield sys.stdin.fileno(), None
        return
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        facts = os.fstat(fd)
        yield fd, facts.st_size if stat_module.S_ISREG(facts.st_mode) else None
    finally:
        os.close(fd)
