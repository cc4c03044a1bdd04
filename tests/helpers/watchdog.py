"""The way out of a wedge: a process that ends the tests' own mounts when a test hangs.

A request that the daemon never answers cannot be interrupted, not even by SIGKILL, so no
timer inside the test's own process helps. This one sits outside, is told which mounts
belong to the tests and which test began when, and aborts their connections, and no
others, when one test takes too long; the test then gets ENOTCONN and fails by itself. If
the test run itself is killed, it unmounts what is left.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from pathlib import Path

from tests.helpers.mount import PRIVILEGED, missing_for_mounts, unmount

# Empty on bare machines; whoever runs the tests as an ordinary user has to mount it there.
CONTROL = Path("/sys/fs/fuse/connections")


class Watchdog:
    """A forked process that reads lines: "add N PATH", "remove N", "arm SECONDS", "disarm"."""

    def __init__(self) -> None:
        self._control = CONTROL
        if PRIVILEGED:
            self._control = Path(tempfile.mkdtemp(prefix="msharefs-fusectl-"))
        if PRIVILEGED and missing_for_mounts() is None:
            command = ["mount", "-t", "fusectl", "none", str(self._control)]
            subprocess.run(command, check=True, timeout=10)
        reader, self._writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._writer)
            # What ends the test run, such as Ctrl-C or timeout(1), must not end us with it.
            os.setsid()
            try:
                _watch(reader, self._control)
            finally:
                os._exit(0)
        os.close(reader)

    def tell(self, line: str) -> None:
        """Send one line."""
        os.write(self._writer, line.encode() + b"\n")

    def waiting(self, connection: str) -> int:
        """How many requests of a connection have no answer."""
        return int((self._control / connection / "waiting").read_text())

    def close(self) -> None:
        """End the process, which takes the control file system away, too."""
        os.close(self._writer)
        os.waitpid(self._pid, 0)


def _watch(reader: int, control: Path) -> None:
    mounts: dict[str, str] = {}
    deadline: float | None = None
    text = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([reader], [], [], left)[0]:
            deadline = None
            _abort(mounts, control)
            continue
        chunk = os.read(reader, 4096)
        if not chunk:
            break
        *lines, text = (text + chunk).split(b"\n")
        for line in lines:
            verb, _, value = line.decode().partition(" ")
            if verb == "arm":
                deadline = time.monotonic() + float(value)
            elif verb == "disarm":
                deadline = None
            elif verb == "add":
                number, _, path = value.partition(" ")
                mounts[number] = path
            else:
                mounts.pop(value, None)
    _leave(mounts, control)


def _leave(mounts: dict[str, str], control: Path) -> None:
    for path in [*mounts.values(), *([str(control)] if PRIVILEGED else [])]:
        if os.path.ismount(path):
            unmount(path, lazy=True)
    if PRIVILEGED:
        control.rmdir()


def _abort(mounts: dict[str, str], control: Path) -> None:
    for number in mounts:
        try:
            (control / number / "abort").write_text("1")
        except OSError:
            # It has ended in the meantime.
            continue
