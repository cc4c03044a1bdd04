"""What an installation has for the system's own directories, and where each of it goes.

Owns the list: commands, helpers of mount(8), man pages, completions, the unit, what C programs are
compiled with, examples. It reads the installation and writes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

import msharefs
from msharefs import __version__

PACKAGE = Path(msharefs.__file__).resolve().parent
MOUNT = "msharefs-mount"
COMMANDS = ("mshare", MOUNT)
HELPERS = ("mount.msharefs", "mount.fuse.msharefs")
SHELLS = {
    "bash": "share/bash-completion/completions/mshare",
    "zsh": "share/zsh/site-functions/_mshare",
    "fish": "share/fish/vendor_completions.d/mshare.fish",
}
UNIT = "msharefs@.service"
_PROGRAM = 0o755
_UNIT_COMMAND = "/usr/local/bin/msharefs-mount"
"""As the unit has it in the source."""
_CHECKOUT = {
    "man": "docs/_build/man",
    "examples": "examples",
    "monitoring": "packaging/monitoring",
    UNIT: f"packaging/{UNIT}",
}
"""Where a checkout has what a built package has in share/."""


@dataclass(frozen=True, slots=True)
class Link:
    """A name that leads elsewhere. Both paths are absolute, as they are in use."""

    path: str
    target: str


@dataclass(frozen=True, slots=True)
class File:
    """A file with these bytes, which everybody may read, and run where it is a program."""

    path: str
    content: bytes
    mode: int = 0o644


def programs(prefix: str, closed: str | None) -> Iterator[File | Link]:
    """The commands below `prefix`, unless this interpreter has them there, and the helpers that
    mount(8) looks for. Where `closed` keeps others than root from running them (`closed_to_others`), they are
    scripts of a shell, which say so."""
    here = Path(sys.executable).parent
    # mount(8) looks in /sbin, which is /usr/sbin wherever a package installs to /usr.
    directory = "/usr/sbin" if prefix == "/usr" else "/sbin"
    commands = [name for name in COMMANDS if f"{here}/{name}" != f"{prefix}/bin/{name}"]
    if closed is None:
        yield from (Link(f"{prefix}/bin/{name}", f"{here}/{name}") for name in commands)
        yield from (Link(f"{directory}/{name}", f"{prefix}/bin/{MOUNT}") for name in HELPERS)
        return
    for name in commands:
        yield File(f"{prefix}/bin/{name}", _guard(f"{here}/{name}", closed), _PROGRAM)
    for name in HELPERS:
        # A helper goes by its name.
        inner = f"{prefix}/lib/msharefs/{name}"
        yield Link(inner, f"{here}/{MOUNT}")
        yield File(f"{directory}/{name}", _guard(inner, closed), _PROGRAM)


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
    examples = f"{prefix}/share/doc/msharefs/examples"
    for example in sorted(_data("examples").iterdir()):
        if example.suffix in {".c", ".h", ".py"}:
            yield File(f"{examples}/{example.name}", example.read_bytes())
    for example in sorted(_data("monitoring").iterdir()):
        yield File(f"{examples}/monitoring/{example.name}", example.read_bytes())


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


def closed_to_others() -> str | None:
    """The first path on the way to what everybody would run that only its owner and group may run or
    go through."""
    for place in (Path(sys.executable), Path(sys.executable).resolve(), PACKAGE):
        for path in reversed((place, *place.parents)):
            if not path.stat().st_mode & 0o001:
                return str(path)
    return None


def _guard(program: str, closed: str) -> bytes:
    """A script in the place of a program that is run, or says why it cannot be: the kernel alone
    would say that permission is denied, to what it does not say."""
    interpreter = Path(sys.executable).resolve()
    sentence = (
        f"msharefs: you may not run this installation: {closed} is closed to you;"
        " it has to be installed where everybody may run it"
    )
    return f"""#!/bin/sh
# Made by 'mshare install', because {closed} is closed to others than root.
if [ ! -x {quote(str(interpreter))} ] || [ ! -r {quote(str(PACKAGE / "__init__.py"))} ]; then
    printf '%s\\n' {quote(sentence)} >&2
    exit 1
fi
exec {quote(program)} "$@"
""".encode()


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
