"""A machine for the commands of a page: they run as they are printed, and change nothing here.

Owns a mount namespace in which /etc, /sbin, /usr/local/bin, /mnt, /home, /run and /dev/shm
may be written, with an ordinary user, Ann, and a shell for her and one for root. Knows
nothing of what is typed.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers.mount import MARKER, ROOT, new_marker, processes_of
from tests.helpers.waiting import eventually

ANN = 61003
HOME = Path("/home/ann")
COMMAND_SECONDS = 50.0
# What is written there is seen in the namespace alone and gone with it.
CHANGED = ("/etc", "/usr/local/bin", os.path.realpath("/sbin"))
EMPTIED = {"/dev/shm": "1777", "/home": "755", "/mnt": "755", "/run": "755"}
END = "end-of-command"


class Machine:
    """Two shells in a namespace of their own. Leaving the block ends all that they started;
    after no failure nothing that they started may be left."""

    def __init__(self) -> None:
        self._marker = new_marker()
        self._root = _Shell(["unshare", "--mount", "--propagation", "private"], self._marker)
        try:
            self.run(_namespace(), root=True)
            become = ["setpriv", f"--reuid={ANN}", f"--regid={ANN}", "--clear-groups"]
            enter = ["nsenter", f"--mount=/proc/{self._root.pid}/ns/mnt"]
            self._ann = _Shell([*enter, *become], self._marker)
            self.run("cd")
        except BaseException:
            self._root.end()
            raise

    def run(self, command: str, *, root: bool = False) -> tuple[int, str]:
        """Type a command; its exit code and all that it printed. root's begin where Ann is."""
        if not root:
            return self._ann.run(command)
        there = self.where() if hasattr(self, "_ann") else "/"
        return self._root.run(f"cd {shlex.quote(there)}\n{command}")

    def where(self) -> str:
        """Ann's current directory."""
        return self._ann.run("pwd")[1].strip()

    def save(self, name: str, text: str) -> None:
        """Save a file as Ann does with her editor."""
        code, output = self.run(f"cat >{shlex.quote(name)} <<'{END}'\n{text}{END}")
        assert (code, output) == (0, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                eventually(lambda: not self._others(), what="something is still running")
        finally:
            # Daemons first: without them no request can hang. Mounts go with the namespace.
            for pid in self._others():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._ann.end()
            self._root.end()

    def _others(self) -> list[int]:
        shells = {self._ann.pid, self._root.pid}
        return [pid for pid in processes_of(self._marker) if pid not in shells]


class _Shell:
    """One bash that keeps its directory, variables and background jobs between commands."""

    def __init__(self, prefix: list[str], marker: str) -> None:
        self._process = subprocess.Popen(
            [*prefix, "bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                "HOME": str(HOME),
                "USER": "ann",
                "LANG": "C.UTF-8",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                MARKER: marker,
            },
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid

    def run(self, command: str) -> tuple[int, str]:
        """One command, with nothing on its standard input."""
        assert self._process.stdin is not None
        script = f"eval {shlex.quote(command)} </dev/null\nprintf '%s %d\\n' {END} $?\n"
        self._process.stdin.write(script.encode())
        self._process.stdin.flush()
        text = self._read_to_end_of_command(command)
        output, _, code = text.rpartition(END)
        return int(code), output

    def _read_to_end_of_command(self, command: str) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + COMMAND_SECONDS
        seen = b""
        while not (END.encode() in seen and seen.endswith(b"\n")):
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._process.stdout], [], [], left)[0]
            part = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            assert part, f"no end of {command!r} after:\n{seen.decode(errors='replace')}"
            seen += part
        return seen.decode()

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


# The namespace begins as a copy, and a copy keeps the mounts of others busy.
_WITHOUT_OTHERS = r"""
mapfile -t lines </proc/self/mountinfo
for line in "${lines[@]}"; do
    set -- $line
    case "$5 ${line#* - }" in
    /run/msharefs/*|*" fuse.msharefs "*) umount -l "$(printf %b "$5")" ;;
    esac
done"""


def _namespace() -> str:
    """The commands that make the namespace into Ann's machine."""
    needed = [ROOT, Path(sys.base_prefix)]
    closed = {str(top) for path in needed if (top := _closed(path)) is not None}
    emptied = EMPTIED | dict.fromkeys(closed - set(EMPTIED), "755")
    lines = ["set -e", _WITHOUT_OTHERS, "scratch=$(mktemp -d)", "mount -t tmpfs tmpfs $scratch"]
    for number, directory in enumerate(CHANGED):
        parts = [f"$scratch/{kind}{number}" for kind in ("upper", "work")]
        lines.append(f"mkdir {' '.join(parts)}")
        options = f"lowerdir={directory},upperdir={parts[0]},workdir={parts[1]}"
        lines.append(f"mount -t overlay -o {options} overlay {directory}")
    # What lies under a directory that is emptied, or where Ann may not go, is set aside.
    for number, path in enumerate(needed):
        aside = f"$scratch/needed{number}"
        lines += [f"mkdir {aside}", f"mount --bind {shlex.quote(str(path))} {aside}"]
    for directory, mode in emptied.items():
        lines.append(f"mount -t tmpfs -o mode={mode} tmpfs {shlex.quote(directory)}")
    for number, path in enumerate(needed):
        if any(path.is_relative_to(each) for each in emptied):
            quoted = shlex.quote(str(path))
            lines.append(f"mkdir -p {quoted}; mount --bind $scratch/needed{number} {quoted}")
        lines.append(f"umount $scratch/needed{number}")
    # Nothing that a page says may change this tree or its environment.
    tree = shlex.quote(str(ROOT))
    lines.append(f"mount --bind {tree} {tree}; mount -o remount,bind,ro {tree}")
    # As udev has it everywhere; bare machines keep it to root.
    lines += ["mknod -m 666 $scratch/fuse c 10 229", "mount --bind $scratch/fuse /dev/fuse"]
    lines += [
        f"echo 'ann:x:{ANN}:{ANN}::{HOME}:/bin/bash' >>/etc/passwd",
        f"echo 'ann:x:{ANN}:' >>/etc/group",
        f"install -d -o ann -g ann {HOME} /run/user/{ANN}",
        "umount -l $scratch; rmdir $scratch; set +e",
    ]
    return "\n".join(lines)


def _closed(path: Path) -> Path | None:
    """The topmost directory on the way to `path` that others may not enter."""
    for directory in reversed(path.parents):
        if not directory.stat().st_mode & 0o001:
            return directory
    return None
