"""Files that commands write what may be secret to, and read from.

Owns that nobody else decides where that is: in a directory like /tmp others may have put a link,
a FIFO or a file of theirs under any name. What is opened is looked at by its descriptor before a
byte goes anywhere. A regular file is never written to: a new one takes its name when it is whole.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from msharefs import MshareError
from msharefs.cli import formatting
from msharefs.cli.errors import CommandError

STANDARD = "-"
"""The name of standard input and output."""


@contextmanager
def output(file: str) -> Iterator[int]:
    """A descriptor to write to. A regular file gets its name when the body has succeeded."""
    if file == STANDARD:
        if sys.stdout.isatty():
            raise CommandError("this is not for a terminal: name a file, or pipe it on")
        yield sys.stdout.fileno()
        return
    place = _looked_at(file)
    if place is None or stat.S_ISREG(os.fstat(place).st_mode):
        _close(place)
        with _replacement(file) as fd, _named(file):
            yield fd
        return
    try:
        _check_stream(place, file)
        with _about(file):
            # The very file that was looked at, whatever has its name by now.
            fd = os.open(f"/proc/self/fd/{place}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        _close(place)
    try:
        with _named(file):
            yield fd
    finally:
        os.close(fd)


@contextmanager
def source(file: str) -> Iterator[tuple[int, int | None]]:
    """A descriptor to read from, and how many bytes it has if that is known."""
    if file == STANDARD:
        yield sys.stdin.fileno(), None
        return
    place = _looked_at(file)
    if place is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)
    try:
        facts = os.fstat(place)
        if not stat.S_ISREG(facts.st_mode):
            _check_owner(facts, file)
        with _about(file):
            fd = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    finally:
        _close(place)
    try:
        yield fd, facts.st_size if stat.S_ISREG(facts.st_mode) else None
    finally:
        os.close(fd)


def _looked_at(file: str) -> int | None:
    """A descriptor by which a file can be looked at and nothing else; None if there is no such
    name. Links are followed, such as /dev/stdout, if they are ours or root's; else CommandError.
    """
    try:
        place = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    facts = os.fstat(place)
    if not stat.S_ISLNK(facts.st_mode):
        return place
    os.close(place)
    _check_owner(facts, file)
    try:
        return os.open(file, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CommandError(f"{formatting.name(file)} is a link that leads nowhere") from error


def _check_stream(place: int, file: str) -> None:
    """What is written to as it is: nobody else may have put it there, or may read along."""
    facts = os.fstat(place)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
    _check_owner(facts, file)
    if stat.S_ISFIFO(facts.st_mode) and facts.st_mode & 0o044:
        shown = formatting.name(file)
        raise CommandError(f"{shown} may be read by others; 'chmod 600' it first")


def _check_owner(facts: os.stat_result, file: str) -> None:
    if facts.st_uid not in {os.geteuid(), 0}:
        raise CommandError(f"{formatting.name(file)} is somebody else's, and no regular file")


@contextmanager
def _replacement(file: str) -> Iterator[int]:
    """A new file of mode 0600 that takes the name, also another file's, at the end."""
    directory, name = os.path.split(file)
    try:
        folder = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error
    hidden = f".mshare-dump-{secrets.token_hex(8)}"
    try:
        with _about(file):
            fd, has_name = _new_file(folder, hidden)
        try:
            yield fd
            with _about(file):
                os.fsync(fd)
                if not has_name:
                    os.link(f"/proc/self/fd/{fd}", hidden, src_dir_fd=folder, dst_dir_fd=folder)
                    has_name = True
                os.replace(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
                has_name = False
        finally:
            os.close(fd)
            if has_name:
                os.unlink(hidden, dir_fd=folder)
    finally:
        os.close(folder)


def _new_file(folder: int, hidden: str) -> tuple[int, bool]:
    """Without a name where the file system has such files, so that nothing stays of a command
    that is killed; else under a hidden one. Mode 0600: what processes share may be secret."""
    with suppress(OSError):
        flags = os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC
        return os.open(".", flags, 0o600, dir_fd=folder), False
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(hidden, flags, 0o600, dir_fd=folder), True


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
def _about(file: str) -> Iterator[None]:
    """Nobody knows the hidden names that a refusal may have."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error


def _close(place: int | None) -> None:
    if place is not None:
        os.close(place)
