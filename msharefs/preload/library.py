"""The preloaded library: where it is, and how it is made from the sources beside it.

Owns the compiler's command line and the choice of the file. The name of the file holds a
hash of all that goes into it, so that one built from other sources is never taken. The
package build loads this file by itself, before there is a package: standard library only.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "lib"
INCLUDE = HERE.parent / "include"
NAME = "libmsharefs-run-"
VARIABLE = "MSHAREFS_LIBRARY"
"""Environment variable: a library that was built elsewhere."""
SYSTEM_CACHE = Path("/var/cache/msharefs")
"""For root: a program that becomes another user must still be able to read the library."""

FLAGS = ("-shared", "-fPIC", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden")
LIBRARIES = ("-ldl", "-lpthread")
COMPILE_SECONDS = 120.0


class LibraryError(Exception):
    """There is no library and none can be built; the text is one sentence."""


def find_library() -> Path:
    """The library: as told, as installed, as built before for this user, or built now."""
    told = os.environ.get(VARIABLE)
    if told:
        return Path(told)
    name = file_name()
    installed = HERE / name
    if installed.exists() and (os.geteuid() != 0 or _everybody_can_read(installed)):
        return installed
    cached = cache_directory() / name
    if not _is_trustworthy(cached):
        build(cached)
    return cached


def why_out_of_reach(library: str, program: str) -> str | None:
    """Why the library cannot be loaded into a program (reach.c); None if it can, as far as can be
    seen."""
    ask = ctypes.CDLL(library).msharefs_out_of_reach
    ask.argtypes, ask.restype = (ctypes.c_char_p,), ctypes.c_char_p
    reason: bytes | None = ask(os.fsencode(program))
    return None if reason is None else reason.decode()


def file_name() -> str:
    """The name of the library that these sources make on this kind of machine."""
    content = hashlib.sha256(" ".join((*FLAGS, *LIBRARIES, platform.machine())).encode())
    for path in (*sorted(SOURCES.glob("*.[ch]")), *sorted(INCLUDE.glob("*.h"))):
        content.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{NAME}{content.hexdigest()[:16]}.so"


def cache_directory() -> Path:
    """Where this user's own builds are kept."""
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.cache")
    return Path(base) / "msharefs"


def build(target: Path) -> None:
    """Compile the library to `target`. Raises LibraryError."""
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    try:
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Whatever the umask: others must reach it, and not write there.
            target.parent.chmod(0o755)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as scratch:
            made = Path(scratch) / target.name
            _compile([*FLAGS, f"-I{INCLUDE}", *sources, "-o", str(made), *LIBRARIES])
            made.chmod(0o755)
            # Another process may be building the same file: the last one wins, whole.
            made.replace(target)
    except OSError as error:
        text = f"cannot build the preloaded library in {target.parent}: {error.strerror}"
        raise LibraryError(text) from error


def _compile(arguments: list[str]) -> None:
    command = [*_compiler(), *arguments]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LibraryError(f"the C compiler {command[0]} does not run: {error}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no reason"]
        raise LibraryError(f"the preloaded library does not compile: {lines[0].strip()}")


def _compiler() -> list[str]:
    for words in _compilers():
        if words and shutil.which(words[0]):
            return words
    raise LibraryError("the preloaded library must be built once, and there is no C compiler (cc)")


def _compilers() -> Iterator[list[str]]:
    yield shlex.split(os.environ.get("CC", ""))
    yield from (["cc"], ["gcc"], ["clang"])


def _everybody_can_read(path: Path) -> bool:
    """Whether a program of root's that becomes another user can still load it."""
    return bool(path.stat().st_mode & 0o004) and all(
        parent.stat().st_mode & 0o001 for parent in path.resolve().parents
    )


def _is_trustworthy(path: Path) -> bool:
    """Whether the file is there, and nobody but this user or root can have written it."""
    try:
        for each in (path, path.parent):
            status = each.stat()
            if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
                return False
    except FileNotFoundError:
        return False
    return True
