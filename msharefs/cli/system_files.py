"""What an installation has for the system's own directories, and where each of it goes.

Owns the list: commands, helpers of mount(8), man pages, completions, the unit, what C programs are
compiled with, examples. It reads the installation and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msharefs
from msharefs import __version__

PACKAGE = Path(msharefs.__file__).resolve().parent
COMMANDS = ("mshare", "msharefs-mount")
HELPERS = ("mount.msharefs", "mount.fuse.msharefs")
SHELLS = {
    "bash": "share/bash-completion/completions/mshare",
    "zsh": "share/zsh/site-functions/_mshare",
    "fish": "share/fish/vendor_completions.d/mshare.fish",
}
UNIT = "msharefs@.service"
_UNIT_COMMAND = "/usr/local/bin/msharefs-mount"
"""As the unit has it in the source."""
_CHECKOUT = {"man": "docs/_build/man", "examples": "examples", UNIT: f"packaging/{UNIT}"}
"""Where a checkout has what a built package has in share/."""


@dataclass(frozen=True, slots=True)
class Link:
    """A name that leads elsewhere. Both paths are absolute, as they are in use."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class File:
    """A file with these bytes, which everybody may read."""

    path: str
    content: bytes


def links(prefix: str) -> Iterator[Link]:
    """The commands below `prefix`, unless this interpreter has them there, and the helpers that
    mount(8) looks for."""
    programs = Path(sys.executable).parent
    for name in COMMANDS:
        if (target := f"{programs}/{name}") != f"{prefix}/bin/{name}":
            yield Link(f"{prefix}/bin/{name}", target)
    # mount(8) looks in /sbin, which is /usr/sbin wherever a package installs to /usr.
    directory = "/usr/sbin" if prefix == "/usr" else "/sbin"
    for name in HELPERS:
        yield Link(f"{directory}/{name}", f"{prefix}/bin/msharefs-mount")


def files(prefix: str, completions: dict[str, str]) -> Iterator[File]:
    """All else. `completions` has the script of each shell. Raises OSError."""
    for shell, place in SHELLS.items():
        yield File(f"{prefix}/{place}", completions[shell].encode())
    yield File(_unit_path(prefix), _unit(prefix))
    include = PACKAGE / "include"
    for header in sorted(include.rglob("*.h")):
        yield File(f"{prefix}/include/msharefs/{header.relative_to(include)}", header.read_bytes())
    yield File(f"{prefix}/share/pkgconfig/msharefs.pc", _pkg_config(prefix).encode())
    for page in _pages():
        section = page.suffix.removeprefix(".")
        yield File(f"{prefix}/share/man/man{section}/{page.name}", page.read_bytes())
    for example in sorted(_data("examples").iterdir()):
        if example.suffix in {".c", ".h", ".py"}:
            place = f"{prefix}/share/doc/msharefs/examples/{example.name}"
            yield File(place, example.read_bytes())


def has_pages() -> bool:
    """Whether the man pages were built; a checkout has them after `make docs`."""
    return bool(_pages())


def changeable_by_others() -> str | None:
    """The first path on the way to what root would run that others than root may change."""
    for place in (Path(sys.prefix), Path(sys.executable).resolve(), PACKAGE):
        for path in reversed((place, *place.parents)):
            facts = path.stat()
            sticky = facts.st_mode & 0o1000
            if facts.st_uid != 0 or (facts.st_mode & 0o022 and not sticky):
                return str(path)
    return None


def _pages() -> list[Path]:
    place = _data("man")
    return sorted(place.glob("*.[1-9]")) if place.is_dir() else []


def _unit_path(prefix: str) -> str:
    # systemd does not look below /usr/local/lib alone on every system, but always here.
    return f"{'/usr/lib' if prefix == '/usr' else '/etc'}/systemd/system/{UNIT}"


def _unit(prefix: str) -> bytes:
    text = _data(UNIT).read_text(encoding="utf-8")
    return text.replace(_UNIT_COMMAND, f"{prefix}/bin/msharefs-mount").encode()


def _pkg_config(prefix: str) -> str:
    return (
        f"prefix={prefix}\n"
        "includedir=${prefix}/include/msharefs\n\n"
        "Name: msharefs\n"
        "Description: Regions of shared memory as files: the ioctls of mshare\n"
        f"Version: {__version__}\n"
        "Cflags: -I${includedir}\n"
    )


def _data(name: str) -> Path:
    built = PACKAGE / "share" / name
    return built if built.exists() else PACKAGE.parent / _CHECKOUT[name]
