"""The program of program.c under mshare run, driven line by line.

Knows how mshare run is started and how its outcome is read; what is right is for the tests
to say.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from msharefs import Region, RegionNotFound
from msharefs.client.segments import segment_of
from tests.helpers.mount import ROOT, asked_for
from tests.helpers.waiting import eventually

SOURCE = Path(__file__).with_name("program.c")
MIB = 1 << 20
END_SECONDS = 45.0

Span = tuple[int, int]


def planes() -> tuple[str, ...]:
    """Where the library maps the file of the region, and where it maps the memory itself; the one that
    MSHAREFS_TEST_OPTIONS asks for."""
    return asked_for() or ("passthrough", "direct")


def command(path: Path, *options: str) -> list[str]:
    """The command line of mshare run up to the program."""
    return [sys.executable, "-m", "msharefs.cli.run", "--region", str(path), *options, "--"]


def environment() -> dict[str, str]:
    """With the source tree on Python's path, as after an installation."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run(path: Path, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run any program to its end."""
    return subprocess.run(
        [*command(path, *options), *words],
        capture_output=True,
        text=True,
        timeout=END_SECONDS,
        check=False,
        env=environment(),
    )


def layout(path: Path) -> list[Span]:
    """What is mapped in a region, as offset and size."""
    document = json.loads(os.getxattr(path, "user.msharefs.layout"))
    return [(mapping["offset"], mapping["size"]) for mapping in document["mappings"]]


def sizes(path: Path) -> list[int]:
    """The sizes of what is mapped, in MiB."""
    return [size // MIB for _, size in layout(path)]


def name_of_memory(path: Path) -> str:
    """What a window on the region of that name, if it has it still, is called in /proc/PID/maps."""
    with suppress(RegionNotFound), Region.open(path) as region:
        segment = segment_of(region.fileno())
        if segment is not None:
            try:
                return os.readlink(f"/proc/self/fd/{segment}").removesuffix(" (deleted)")
            finally:
                os.close(segment)
    return str(path)


class Run:
    """One run of the program. Leaving the block ends it, by force if it has not ended."""

    def __init__(self, program: Path, path: Path, *options: str) -> None:
        self.path = path
        self._memory = ""
        self.process = subprocess.Popen(
            [*command(path, *options), str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )

    def tell(self, line: str) -> None:
        """Give a command that has no answer."""
        stream = _there(self.process.stdin)
        stream.write(line + "\n")
        stream.flush()

    def ask(self, line: str) -> str:
        """Give a command and return its answer."""
        self.tell(line)
        stream = _there(self.process.stdout)
        # An answer is one line, so nothing of it is in the stream's buffer yet.
        assert select.select([stream], [], [], END_SECONDS)[0], f"no answer to {line!r} in time"
        answer = stream.readline()
        assert answer.endswith("\n"), f"no answer to {line!r}: {_there(self.process.stderr).read()}"
        return answer.rstrip("\n")

    def ok(self, *lines: str) -> None:
        """Give commands that must succeed."""
        for line in lines:
            assert (line, self.ask(line)) == (line, "ok")

    def map(self, slot: int, mib: int, *words: str) -> int:
        """Map so many MiB; the address."""
        answer = self.ask(f"map {slot} {mib * MIB} {' '.join(words) or '0'}")
        assert answer.startswith("0x"), answer
        return int(answer, 16)

    def inside(self, slot: int, offset: int = 0) -> bool:
        """Whether the slot's memory is the region's."""
        self._memory = self._memory or name_of_memory(self.path)
        where = self.ask(f"where {slot} {offset}").removesuffix(" (deleted)")
        # Who may only read has it from a mount of its own.
        return self._memory in {where, f"/dev/shm{where}"}

    def eventually_sizes(self, expected: list[int]) -> None:
        """Wait for what comes without anybody waiting for it."""
        eventually(lambda: sizes(self.path) == expected, what=f"{expected}")

    def end(self) -> tuple[int, str]:
        """Close standard input, at which the program ends: the exit code and stderr."""
        _, errors = self.process.communicate(timeout=END_SECONDS)
        return self.process.returncode, errors

    def members(self) -> list[int]:
        """The processes of the run: those of its session, which it was started in."""
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with suppress(ProcessLookupError, FileNotFoundError):
                if os.getsid(pid) == self.process.pid:
                    found.append(pid)
        return sorted(found)

    @property
    def collectors(self) -> list[int]:
        """Who leads a process group that is not that of mshare run."""
        return [pid for pid in self.members() if os.getpgid(pid) == pid != self.process.pid]

    @property
    def collector(self) -> int:
        """The collector."""
        (found,) = self.collectors
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Before it is waited for, so that the number is not another's. The collector is in a
        # group of its own, takes the region away and ends.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        eventually(lambda: len(self.members()) <= 1, what="processes of the run are left")
        self.process.wait(END_SECONDS)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None and not stream.closed:
                stream.close()


def _there(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
