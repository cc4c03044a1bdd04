"""What is mounted: /proc/PID/mountinfo, the one table of it, taken apart (proc(5)).

Owns the form of its lines. It knows no file system by name, and follows no path: whoever reads
the table waits for no mount. Other people's mounts are in it, so it is read as bytes, where only
a blank and a line feed separate; all else in a path is part of the path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

OWN = "/proc/self/mountinfo"
_ESCAPE = re.compile(rb"\\([0-7]{3})")
_FIXED_FIELDS = 6
"""Before the optional ones, which end at a field "-"."""


class Mount(NamedTuple):
    """One line. Paths may hold any bytes; those that are no UTF-8 are surrogates (os.fsdecode)."""

    path: str
    """Where it is mounted, as seen from the root directory of the process."""
    root: str
    """Which directory of the file system is there: "/", but for a bind mount of a part."""
    device: int
    """st_dev of every file on it."""
    kind: str
    """The type of the file system: "tmpfs", "fuse.msharefs"."""
    source: str
    super_options: tuple[str, ...]
    """Options of the file system itself, not of this mount of it."""
    options: tuple[str, ...]
    """Options of this mount of it: "rw", "nosuid", "relatime"."""
    number: int
    """The id of this mount of it, as `syscalls.identity` tells it of a file."""
    parent: int
    """The number of the mount that it is mounted on."""


def own_mounts() -> list[Mount]:
    """The mounts that this process sees, the oldest first. Raises OSError."""
    return read(OWN)


def layers(directory: str) -> int:
    """How many file systems are mounted on a directory, one over the other. Raises OSError."""
    path = os.path.realpath(directory)
    return sum(mount.path == path for mount in own_mounts())


def read(path: str) -> list[Mount]:
    """The mounts in the table at `path`, in its order. Raises OSError."""
    with open(path, "rb") as file:
        return list(parse(file.read()))


def parse(table: bytes) -> Iterator[Mount]:
    """The mounts in the text of such a table."""
    for line in table.split(b"\n"):
        fields = line.split(b" ")
        try:
            kind, source, *options = fields[fields.index(b"-", _FIXED_FIELDS) + 1 :]
            major, _, minor = fields[2].partition(b":")
            device = os.makedev(int(major), int(minor))
            number, parent = int(fields[0]), int(fields[1])
        except ValueError:
            # The end of the table, or a line of a file system that breaks the form: not ours.
            continue
        yield Mount(
            path=_text(fields[4]),
            root=_text(fields[3]),
            device=device,
            kind=_text(kind),
            source=_text(source),
            super_options=tuple(map(_text, options[0].split(b","))) if options else (),
            options=tuple(map(_text, fields[5].split(b","))),
            number=number,
            parent=parent,
        )


class OpenTable:
    """The mounts of the namespace in which this object was made, also after leaving it: an open
    mountinfo stays with its namespace and the root directory of then (proc(5))."""

    def __init__(self) -> None:
        """Raises OSError."""
        # Unbuffered: a buffer would serve a second reading from the first.
        self._file = open(OWN, "rb", buffering=0)  # noqa: SIM115 - kept for the object's life

    def read(self) -> list[Mount]:
        """What is mounted now, the oldest first. Raises OSError."""
        self._file.seek(0)
        return list(parse(self._file.read()))

    def fileno(self) -> int:
        """For poll(2), which gives POLLPRI after a change."""
        return self._file.fileno()

    def close(self) -> None:
        """Let go of the namespace."""
        self._file.close()


def _text(field: bytes) -> str:
    r"""The kernel writes blank, tab, line feed and backslash as \040, \011, \012 and \134, and in
    a source "#" as \043; no other backslash is in a line."""
    return os.fsdecode(_ESCAPE.sub(lambda code: bytes([int(code[1], 8) & 0xFF]), field))
