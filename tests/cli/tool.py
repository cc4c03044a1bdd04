"""The real command mshare, run by tests: as a program, on a terminal, as another user.

Knows how to start it and what it printed, and nothing of what it means.
"""

from __future__ import annotations

import fcntl
import importlib
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from msharefs.cli import main
from tests.helpers.mount import ROOT
from tests.helpers.users import as_user

PATIENCE = 20.0
_LINES = 24


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended."""

    code: int
    out: str
    err: str

    def ok(self) -> Self:
        """The same, if it succeeded; else AssertionError with what it said."""
        assert self.code == 0, f"exit code {self.code}: {self.err}{self.out}"
        return self

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.ok().out)

    def refused(self, code: int = 1) -> str:
        """The one sentence of a refusal, without the name of the program."""
        assert self.code == code, f"exit code {self.code}: {self.err}{self.out}"
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mshare: ")
        return lines[0].removeprefix("mshare: ")


def command() -> list[str]:
    """The installed command beside this interpreter, else the module."""
    installed = Path(sys.executable).with_name("mshare")
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-P", "-m", "msharefs.cli.main"]


_ALONE = """
import os, subprocess, sys
from msharefs.linux import mountinfo
end = sys.argv.index("--")
for mount in mountinfo.own_mounts():
    if mount.kind == "fuse.msharefs" and mount.path not in sys.argv[1:end]:
        subprocess.run(["umount", "-l", mount.path], check=True)
os.execvp(sys.argv[end + 1], sys.argv[end + 1:])
"""


def alone_with(*mounts: Path) -> list[str]:
    """What to put before a command that shall see these msharefs mounts and no others, however
    many other people have on this machine, and in whatever state those are."""
    python = [sys.executable, "-P", "-c", _ALONE]
    return ["unshare", "--mount", *python, *map(str, mounts), "--"]


def environment(**more: str) -> dict[str, str]:
    """Ours without what decides about colour and width, and with `more`."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE"}
    }
    return {**inherited, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", **more}


def mshare(
    *arguments: str | Path, stdin: bytes = b"", before: Sequence[str] = (), **more: str
) -> Result:
    """Run it to its end, with pipes; `before` are words to put before the command."""
    done = subprocess.run(
        [*before, *command(), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(**more),
        timeout=PATIENCE * 2,
        check=False,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def mshare_as(uid: int, *arguments: str | Path) -> Result:
    """Run it as another user: in a fork, because he may not be able to reach this interpreter."""
    # What it would import later may lie where he cannot read.
    for place in main.COMMANDS.values():
        importlib.import_module(f"msharefs.cli.{place.partition(':')[0]}")
    for name in ("difflib", "rich.console", "rich.table", "rich.live", "rich.status"):
        importlib.import_module(name)

    def piece() -> Result:
        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["mshare", *map(str, arguments)]
        with redirect_stdout(out), redirect_stderr(err):
            code = main.run()
        return Result(code, out.getvalue(), err.getvalue())

    return as_user(uid, piece)


class Terminal:
    """mshare on a terminal of its own."""

    def __init__(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        self._fd = fd
        self._seen = b""
        self.process = process

    def read_until(self, wanted: str) -> str:
        """All that was drawn, as soon as `wanted` is in it."""
        deadline = time.monotonic() + PATIENCE
        while wanted.encode() not in self._seen:
            assert self._more(deadline), f"no {wanted!r} in {self._seen!r}"
        return self._seen.decode(errors="replace")

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._fd, keys)

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, as it does before and after."""
        flags: int = termios.tcgetattr(self._fd)[3]
        return bool(flags & termios.ECHO)

    def end(self) -> tuple[int, str]:
        """Wait for the end; the exit code and all that was drawn."""
        deadline = time.monotonic() + PATIENCE
        while self._more(deadline):
            pass
        return self.process.wait(PATIENCE), self._seen.decode(errors="replace")

    def _more(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._fd], [], [], left)[0]:
            return False
        try:
            part = os.read(self._fd, 1 << 16)
        except OSError:
            return False  # EIO: nobody has the other side open any more
        self._seen += part
        return bool(part)


@contextmanager
def on_terminal(*arguments: str | Path, columns: int = 80, **more: str) -> Iterator[Terminal]:
    """Start it on a terminal of that size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", _LINES, columns, 0, 0))
    process = subprocess.Popen(
        [*command(), *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**more),
        start_new_session=True,
        preexec_fn=_take_terminal,  # noqa: PLW1509 - no test has threads
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def drawn(*arguments: str | Path, columns: int = 80, **more: str) -> str:
    """What a run that ends by itself draws on a terminal."""
    with on_terminal(*arguments, columns=columns, **more) as terminal:
        code, text = terminal.end()
    assert code == 0, text
    return text


def _take_terminal() -> None:
    """Ctrl-C goes to the processes of the terminal that they control."""
    # Whoever runs the tests in the background of a shell ignores it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
