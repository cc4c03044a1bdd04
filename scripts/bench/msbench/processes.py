"""Starting programs on chosen processors and knowing when processes have ended.

Knows nothing of mounts and measures.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

ASKED_END_SECONDS = 60.0
"""What a program gets to end when nothing is asked any more; it may have 400 children."""


class NotMeasured(Exception):
    """A row cannot be measured here; the text says why."""


@dataclass(frozen=True)
class Placement:
    """Which processors the probes and the daemons run on."""

    everywhere: frozenset[int]
    client: frozenset[int]
    daemon: frozenset[int]

    @classmethod
    def named(cls, name: str) -> Placement:
        """`apart`: one processor each; `together`: one for all; `free`: the kernel chooses."""
        cpus = sorted(os.sched_getaffinity(0))
        everywhere, first, second = frozenset(cpus), frozenset(cpus[:1]), frozenset(cpus[1:2])
        if name == "apart" and second:
            return cls(everywhere, first, second)
        if name == "together":
            return cls(everywhere, first, first)
        return cls(everywhere, everywhere, everywhere)


@contextlib.contextmanager
def on_processors(cpus: frozenset[int]) -> Iterator[None]:
    """Whatever is started inside runs on these processors only, from its first instruction."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(
    command: Sequence[str], timeout: float, environment: dict[str, str], *, grace: float = 0.0
) -> str:
    """The output of a program that succeeds; NotMeasured with its complaint if it does not.

    When we are told to leave in the meantime, it gets `grace` seconds to come to its end.
    """
    # Files, not pipes: a daemon left behind would keep the other end of a pipe open.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as complaint:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=complaint, env=environment
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NotMeasured(f"{_short(command)} took longer than {timeout:.0f} s") from None
        finally:
            _finish(process, grace)
        complaint.seek(0)
        if status != 0:
            why = complaint.read().strip()[-500:]
            raise NotMeasured(f"{_short(command)} ended with {status}: {why}")
        out.seek(0)
        return out.read()


def _finish(process: subprocess.Popen[bytes], grace: float) -> None:
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _short(command: Sequence[str]) -> str:
    return " ".join(os.path.basename(word) for word in command[:4])


class Asked:
    """A program that gives a line for each line; leaving the block ends it."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        self._name = _short(command)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, timeout: float) -> str:
        """Its next line, without the end."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write("\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise NotMeasured(f"{self._name} has ended") from None
        if not select.select([process.stdout], [], [], timeout)[0]:
            raise NotMeasured(f"{self._name} took longer than {timeout:.0f} s")
        line = process.stdout.readline()
        if not line:
            raise NotMeasured(f"{self._name} has ended")
        return line.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(timeout=ASKED_END_SECONDS)


class Watched:
    """Processes that are not our children, held by pidfd: a number may be used again."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pidfds = [os.pidfd_open(pid) for pid in pids]

    def ended_within(self, timeout: float) -> bool:
        """Wait until all have ended; False if one has not by then."""
        deadline = time.monotonic() + timeout
        for pidfd in self._pidfds:
            # A pidfd becomes readable when its process ends.
            left = max(0.0, deadline - time.monotonic())
            if not select.select([pidfd], [], [], left)[0]:
                return False
        return True

    def kill(self) -> None:
        """End what still runs."""
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the processes."""
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds = []


def is_named(pid: int, name: str) -> bool:
    """Whether a process runs that calls itself so."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
            return comm.read() == f"{name}\n"
    except (FileNotFoundError, ProcessLookupError):
        return False


def with_descendants(pid: int) -> list[int]:
    """A process and every process it has started, and theirs."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as children:
                    found.extend(int(word) for word in children.read().split())
    return found


def memory_of(pids: Sequence[int], field: str) -> float:
    """Bytes of memory of processes, added: "Rss:" or "Pss:" of /proc/PID/smaps_rollup."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
            total += next(int(line.split()[1]) for line in rollup if line.startswith(field))
    return float(total << 10)
