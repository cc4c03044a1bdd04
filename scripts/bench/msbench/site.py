"""The building site of one run: a temporary directory, compiled programs, mounts.

Owns everything that has to be gone afterwards. Each thing is registered for
removal the moment it exists and removed in reverse order on every way out, be
it the end, an error or a signal. Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .processes import (
    Asked,
    NotMeasured,
    Placement,
    Watched,
    on_processors,
    run,
    with_descendants,
)
from .user import become, let_in

BENCH = Path(__file__).resolve().parent.parent
PROJECT = BENCH.parent.parent
SHM = Path("/dev/shm")
STATUS = "user.msharefs.status"

PROBE_TIMEOUT = 600.0  # seconds; the longest probe makes 100,000 regions
MOUNT_TIMEOUT = 30.0
END_TIMEOUT = 60.0  # of a daemon after umount; with a million regions it takes some seconds


@dataclass(frozen=True)
class Mounted:
    """A mounted msharefs: where it is, who serves it, how long it took to answer."""

    path: Path
    supervisor: int
    seconds: float

    def server(self) -> int:
        """The process that serves; of root's mounts alone."""
        return int(json.loads(os.getxattr(self.path, STATUS))["pids"]["server"])

    def processes(self) -> list[int]:
        """The supervisor and everything it runs."""
        return with_descendants(self.supervisor)


class Site:
    """Where one run of the bench happens; a context manager."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        # The checkout is measured, whatever else is installed.
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "PYTHONPATH": path}
        self._stack = contextlib.ExitStack()
        self._serial = 0

    def __enter__(self) -> Site:
        with contextlib.ExitStack() as guard:
            self.directory = Path(tempfile.mkdtemp(prefix="msharefs-bench-"))
            guard.callback(self._remove_directory)
            # Servers of other users reach what is in it.
            self.directory.chmod(0o755)
            self._stack = guard.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    # Programs.

    @cached_property
    def _programs(self) -> Path:
        """The directory of the probes and the C peer, compiled when the first is needed."""
        programs = self.directory / "bin"
        programs.mkdir(exist_ok=True)
        run(["make", "-s", "-C", str(BENCH), f"BUILD={programs}"], 120.0, self._environment)
        return programs

    def probe(self, name: str, *arguments: object, user: str | None = None) -> list[list[str]]:
        """What a probe printed, as words by line; it runs as root or as `user`."""
        command = [*become(user), str(self._programs / name), *map(str, arguments)]
        return [
            line.split() for line in run(command, PROBE_TIMEOUT, self._environment).splitlines()
        ]

    def python_probe(self, name: str, *arguments: object, placed: bool = True) -> list[list[str]]:
        """What a probe in Python printed, as words by line; for what only Python programs do."""
        command = [sys.executable, "-P", str(BENCH / "probes" / f"{name}.py")]
        with on_processors(self.placement.client if placed else self.placement.everywhere):
            text = run([*command, *map(str, arguments)], PROBE_TIMEOUT, self._environment)
        return [line.split() for line in text.splitlines()]

    def contend(
        self, operation: str, rounds: int, count: int, ours: Path, theirs: Path
    ) -> tuple[list[float], list[float]]:
        """Seconds for one operation on each side, one sample a round."""
        with on_processors(self.placement.client):
            lines = self.probe("contend", operation, rounds, count, ours, theirs)
        return sides(lines, 1e-9)

    def in_turns(
        self, rounds: int, options: Sequence[str], name: str, *arguments: object
    ) -> tuple[list[float], list[float]]:
        """Seconds for one operation of a probe that prints nanoseconds for each line it reads, one
        sample a round: under mshare run with these options, and plainly."""
        plainly = [str(self._programs / name), *map(str, arguments)]
        run = [sys.executable, "-P", "-m", "msharefs.cli.run", *options, "--", *plainly]
        with on_processors(self.placement.client):
            ours, theirs = Asked(run, self._environment), Asked(plainly, self._environment)
        with ours, theirs:
            # Unseen: caches fill, daemons wake up.
            for process in (ours, theirs):
                process.ask(PROBE_TIMEOUT)
            lines = [
                (side, process.ask(PROBE_TIMEOUT))
                for _ in range(rounds)
                for side, process in (("ours", ours), ("theirs", theirs))
            ]
        return sides(lines, 1e-9)

    # Places to measure on.

    @contextlib.contextmanager
    def shm_file(self, size: int) -> Iterator[Path]:
        """Ordinary POSIX shared memory with every page written."""
        path = SHM / f"msharefs-bench-{secrets.token_hex(8)}"
        try:
            self.probe("fill", "plain", path, size)
            yield path
        finally:
            path.unlink(missing_ok=True)

    def crowd(
        self, rounds: int, clients: int, count: int, ours: Path, theirs: Path
    ) -> tuple[list[float], list[float]]:
        """Opens a second of so many processes at once on each side, one sample a round."""
        with on_processors(self.placement.client):
            lines = self.probe("crowd", rounds, clients, count, ours, theirs)
        return sides(lines, 1.0)

    @contextlib.contextmanager
    def mounted(self, kind: str, options: str) -> Iterator[Path]:
        """A file system of the kernel's own, as deep in the tree as the msharefs mounts are."""
        path = self._mountpoint()
        self._command(["mount", "-t", kind, "-o", options, "msharefs-bench", str(path)])
        try:
            yield path
        finally:
            self._command(["umount", str(path)])

    def tmpfs(self, options: str = "size=16m") -> AbstractContextManager[Path]:
        """A tmpfs."""
        return self.mounted("tmpfs", options)

    @contextlib.contextmanager
    def msharefs(
        self, options: str, *, placed: bool = True, user: str | None = None
    ) -> Iterator[Mounted]:
        """A mount of msharefs, root's or a user's. Not `placed`: on any processor, as it would be
        if somebody had started it."""
        path = self._mountpoint()
        # -P: the checkout of this bench, not what the current directory holds.
        python = [*become(user), sys.executable, "-P"]
        command = [*python, "-m", "msharefs.cli.mount", "msharefs-bench", str(path)]
        cpus = self.placement.daemon if placed else self.placement.everywhere
        with contextlib.ExitStack() as stack:
            if user is not None:
                shutil.chown(path, user)
                interpreter = Path(sys.base_prefix)
                stack.enter_context(let_in([interpreter, PROJECT], self.directory))
            start = time.monotonic()
            with on_processors(cpus):
                # With grace: cut off half-way, it would go on to mount behind our back.
                run(
                    [*command, "-o", options],
                    MOUNT_TIMEOUT,
                    self._environment,
                    grace=MOUNT_TIMEOUT,
                )
            if user is None:
                os.stat(path / "mshare_info")
            seconds = time.monotonic() - start
            supervisor = self._supervisor_of(path, python)
            stack.callback(_end, path, supervisor)
            yield Mounted(path, supervisor, seconds)

    def _supervisor_of(self, path: Path, python: Sequence[str]) -> int:
        """The process that keeps a mount, as the mount itself tells: a user's to nobody else."""
        ask = f"import os; print(os.getxattr({str(path)!r}, {STATUS!r}).decode())"
        text = run([*python, "-c", ask], MOUNT_TIMEOUT, self._environment)
        return int(json.loads(text)["pids"]["supervisor"])

    @contextlib.contextmanager
    def cfs(self) -> Iterator[Path]:
        """The C peer, mounted."""
        with self._peer([str(self._programs / "cfs")]) as path:
            yield path

    @contextlib.contextmanager
    def working_cfs(self) -> Iterator[Path]:
        """The C peer that gives memory and takes it away, in huge pages as ours."""
        with self.tmpfs("size=64m,huge=always") as memory:
            with self._peer([str(self._programs / "cfs")], memory / "memory") as path:
                yield path

    @contextlib.contextmanager
    def plain_pyfuse3(self) -> Iterator[Path]:
        """The pyfuse3 peer, mounted."""
        with self._peer([sys.executable, str(BENCH / "peers" / "plain_pyfuse3.py")]) as path:
            yield path

    @contextlib.contextmanager
    def _peer(self, command: Sequence[str], *more: Path) -> Iterator[Path]:
        path = self._mountpoint()
        with on_processors(self.placement.daemon):
            process = subprocess.Popen(
                [*command, str(path), *map(str, more)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"mounted\n":
                raise NotMeasured(f"{command[-1]} did not mount")
            yield path
        finally:
            if os.path.ismount(path):
                subprocess.run(["umount", str(path)], check=False)
            try:
                process.wait(END_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _unmount_lazily(path)

    def _mountpoint(self) -> Path:
        self._serial += 1
        path = self.directory / f"mount-{self._serial}"
        path.mkdir()
        return path

    def _command(self, command: Sequence[str]) -> None:
        run(command, MOUNT_TIMEOUT, self._environment)

    def _remove_directory(self) -> None:
        for serial in range(1, self._serial + 1):
            _unmount_lazily(self.directory / f"mount-{serial}")
        shutil.rmtree(self.directory)


def sides(lines: Sequence[Sequence[str]], factor: float) -> tuple[list[float], list[float]]:
    """The samples of both sides from lines of `ours VALUE` and `theirs VALUE`."""
    values: dict[str, list[float]] = {"ours": [], "theirs": []}
    for side, value in lines:
        values[side].append(float(value) * factor)
    return values["ours"], values["theirs"]


def need_memory(size: int) -> None:
    """Refuse to push the machine into reclaim, where nothing that is measured means anything."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        available = next(
            int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable:")
        )
    if available << 10 < size:
        raise NotMeasured(f"needs {size / (1 << 30):.0f} GiB of free memory")


def _end(path: Path, supervisor: int) -> None:
    """Unmount and wait until every process of the mount has ended."""
    watched = Watched(with_descendants(supervisor))
    try:
        if subprocess.run(["umount", str(path)], check=False).returncode:
            # In use by somebody else; the daemon ends when they let go.
            _unmount_lazily(path)
        if not watched.ended_within(END_TIMEOUT):
            # Killed, the daemon leaves its state directory, so only as the last resort.
            watched.kill()
            raise NotMeasured(f"the daemon of {path} did not end after umount: killed")
    finally:
        watched.close()


def _unmount_lazily(path: Path) -> None:
    """Take away what a failed umount left; a mount whose daemon died cannot even be looked at."""
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        if any(line.split()[1] == str(path) for line in mounts):
            subprocess.run(["umount", "-l", str(path)], check=False)
