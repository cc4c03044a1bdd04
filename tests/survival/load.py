"""Clients at work while the server is killed again and again: the run, and what came of it.

Owns the killer and the comparison with the clients' models, which the test and soak.py
share. What a client does is the stress test's (tests/stress/random_client.py).
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.helpers import raw, windows
from tests.helpers.mount import Mount, arena_of, standby_of
from tests.helpers.raw import PAGE, opened
from tests.helpers.users import in_child
from tests.helpers.waiting import eventually
from tests.stress import random_client
from tests.stress.client_process import answer_of, start_client
from tests.stress.random_client import SHARED_PAGES, RandomClient, Report

CLIENTS = 16
OPTIONS = "size=256M,align=4096"
"""More memory than the clients can use, so that each of their mappings must succeed."""
LONGEST_WAIT = 0.25
"""Seconds from one kill to the next, at most, after the server answers again."""
SHARED_SIZE = random_client.CLIENTS * SHARED_PAGES * PAGE
KILLED_AT_START = 0.1
"""The share of servers that are killed again before or soon after they answer."""
SETTLED = 10.0
"""Seconds in which late closes and exits have been told."""
EXPECTED_LOG = (
    r"the server ended with -9; starting a new one",
    r"the server cannot start, the mount waits: the server ended at once",
    r"the process that drops pages ended with -9",
)


@dataclass
class Figures:
    """What a run has shown. There must be no client errors, and only zeros in `zeros`."""

    kills: int = 0
    operations: int = 0
    refused: int = 0
    resent: int = 0
    gaps: list[float] = field(default_factory=list)
    client_errors: list[str] = field(default_factory=list)
    zeros: Counter[str] = field(default_factory=Counter)

    def gap(self, share: float) -> float:
        """The gap that this share of all stays below, in seconds."""
        ordered = sorted(self.gaps)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0

    @property
    def median_gap(self) -> float:
        """In seconds."""
        return statistics.median(self.gaps) if self.gaps else 0.0


def children_of(pid: int) -> list[int]:
    """The children of a process with one thread, without asking the mount."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def servers_of(pid: int) -> Iterator[int]:
    """The servers of a supervisor, the standby and those that begin among them. Not who drops pages for
    them: each death of that makes a request long, and one that is in service at three deaths is refused."""
    for child in children_of(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"start_on_demand" not in Path(f"/proc/{child}/cmdline").read_bytes():
                yield child


Trouble = Callable[[list[int]], Figures]
"""Makes it for the clients with these process ids, and returns what it has seen."""


def run(mounted: Mount, kills: int, seed: int) -> Figures:
    """The whole run: clients, kills, comparison, and the mount empty again."""
    chance = random.Random(seed)
    return run_under(mounted, seed, lambda _: kill_again_and_again(mounted, kills, chance))


def run_under(
    mounted: Mount, seed: int, trouble: Trouble, refusals: frozenset[int] = frozenset()
) -> Figures:
    """The same with another trouble, in which operations may be refused with these errnos."""
    for pattern in EXPECTED_LOG:
        mounted.expect_log(pattern)
    (mounted.path / "shared").mkdir()
    with opened(mounted.path / "shared" / "region", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, SHARED_SIZE)
    _drop_pages(mounted.path)
    descriptors = _descriptors_of_supervisor(mounted)
    with started_clients(mounted.path, seed, refusals) as (clients, stop):
        figures = trouble([pid for pid, _ in clients])
        stop()
        reports = _reports(clients, figures, refusals)
    if not figures.client_errors:
        figures.operations = sum(report.operations for report in reports)
        figures.refused = sum(report.refused + report.out_of_memory for report in reports)
        _compare(mounted, reports, figures.zeros)
        _empty(mounted, figures.zeros)
        leaked = _descriptors_of_supervisor(mounted) - descriptors
        figures.zeros["descriptors leaked"] += leaked
    return figures


# Clients


@contextmanager
def started_clients(
    root: Path, seed: int, refusals: frozenset[int]
) -> Iterator[tuple[list[tuple[int, int]], Callable[[], None]]]:
    """Forked clients, as process id and the pipe of the report, and how to stop them. They
    are killed if the block fails."""
    clients: list[tuple[int, int]] = []
    with mmap.mmap(-1, mmap.PAGESIZE) as stopped:

        def client(number: int) -> Report:
            return RandomClient(root, number, seed, refusals).run_while(lambda: not stopped[0])

        try:
            clients.extend(start_client(partial(client, number)) for number in range(CLIENTS))
            yield clients, lambda: stopped.write_byte(1)
        except BaseException:
            for pid, _ in clients:
                os.kill(pid, signal.SIGKILL)
            raise


def _reports(
    clients: list[tuple[int, int]], figures: Figures, refusals: frozenset[int]
) -> list[Report]:
    """What the clients say at their end; what is no report is an error."""
    reports = []
    for number, (pid, reader) in enumerate(clients):
        answer = answer_of(pid, reader)
        if not isinstance(answer, Report):
            figures.client_errors.append(str(answer))
            continue
        if answer.out_of_memory and errno.ENOMEM not in refusals:
            figures.client_errors.append(f"client {number}: ENOMEM {answer.out_of_memory} times")
        reports.append(answer)
    return reports


# Kills


def kill_again_and_again(mounted: Mount, kills: int, chance: random.Random) -> Figures:
    """Kill the server at random instants; now and then the next one while it starts."""
    figures = Figures()
    while figures.kills < kills:
        for server in servers_of(mounted.pid):
            os.kill(server, signal.SIGKILL)
            figures.kills += 1
        killed_at = time.monotonic()
        pause = chance.random() * LONGEST_WAIT
        if chance.random() > KILLED_AT_START:
            status = mounted.status()
            figures.gaps.append(time.monotonic() - killed_at)
            figures.resent += status["resent_requests"]
        time.sleep(pause)
    return figures


# Comparison


def _compare(mounted: Mount, reports: list[Report], zeros: Counter[str]) -> None:
    """Names, sizes, layouts and contents against the models; then what is accounted."""
    root = mounted.path
    mapped = sum(
        _compare_home(root / f"client{number}", report, zeros)
        for number, report in enumerate(reports)
    )
    shared = {page: byte for report in reports for page, byte in report.shared.items()}
    mapped += _compare_pages(root / "shared" / "region", SHARED_SIZE, shared, zeros)
    wanted = {"reserved": mapped, "used": mapped}

    def settled() -> bool:
        status = mounted.status()
        return not status["open_handles"] and bool(wanted.items() <= status["arena"].items())

    _settle(settled)
    status = mounted.status()
    zeros["handles leaked"] += status["open_handles"]
    zeros["bytes reserved in vain"] += status["arena"]["reserved"] - mapped
    zeros["bytes used in vain"] += status["arena"]["used"] - mapped


def _compare_home(home: Path, report: Report, zeros: Counter[str]) -> int:
    """One client's directory. Returns the bytes that are mapped in it by its model."""
    seen = {str(path.relative_to(home)): path for path in home.rglob("*")}
    wanted = set(report.names) | report.directories - {""}
    zeros["names lost"] += len(wanted - set(seen))
    zeros["names too many"] += len(set(seen) - wanted)
    inodes: dict[int, int] = {}
    for name, number in report.names.items():
        if name not in seen:
            continue
        file, status = report.files[number], seen[name].stat()
        zeros["wrong links"] += inodes.setdefault(number, status.st_ino) != status.st_ino
        zeros["wrong links"] += status.st_nlink != file.names
        zeros["wrong sizes"] += status.st_size != (file.size or 0) * PAGE
        _compare_pages(seen[name], status.st_size, file.pages, zeros)
    return sum(len(file.pages) for file in report.files) * PAGE


def _compare_pages(path: Path, size: int, pages: dict[int, int], zeros: Counter[str]) -> int:
    """The layout of a region and every byte of it. Returns how many bytes it should hold."""
    mapped = {
        page for start, end in raw.mapped_ranges(path) for page in range(start // PAGE, end // PAGE)
    }
    zeros["pages lost"] += len(pages.keys() - mapped)
    zeros["pages too many"] += len(mapped - pages.keys())
    common = sorted(mapped & pages.keys())
    attach = windows.kind_for(path)

    def wrong() -> int:
        with opened(path) as fd, attach(fd, size) as window:
            return sum(
                window[page * PAGE : (page + 1) * PAGE] != bytes([pages[page]]) * PAGE
                for page in common
            )

    if common:
        # In a child, as a hole where none should be would kill.
        zeros["pages with wrong bytes"] += in_child(wrong)
    return len(pages) * PAGE


def _empty(mounted: Mount, zeros: Counter[str]) -> None:
    """Remove everything; nothing may be left, and the server hold no more than a new one."""
    for path in sorted(mounted.path.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        elif path.name != "mshare_info":
            path.unlink()
    _settle(lambda: not mounted.status()["regions"] and raw.used_inodes(mounted.path) == 2)
    status = mounted.status()
    zeros["regions leaked"] += status["regions"]
    zeros["inodes leaked"] += raw.used_inodes(mounted.path) - 2
    zeros["bytes leaked"] += status["arena"]["used"]
    zeros["segments leaked"] += len(_segments(mounted))
    held = _descriptors(mounted.server_pid)
    os.kill(mounted.server_pid, signal.SIGKILL)
    # libfuse makes its pipe with the first request that it sees: it does not see listings. The
    # journal's files are opened again with the first change.
    os.statvfs(mounted.path)
    (mounted.path / "new").mkdir()
    (mounted.path / "new").rmdir()
    _drop_pages(mounted.path)
    zeros["descriptors leaked"] += max(0, held - _descriptors(mounted.server_pid))


def _drop_pages(root: Path) -> None:
    """Who drops pages is spoken to from the first that are dropped on, and started with the first of all."""
    with raw.region(root / "new", raw.HUGE) as fd:
        raw.create_mapping(fd, 0, PAGE)
        raw.unmap(fd, 0, PAGE)


def _segments(mounted: Mount) -> list[str]:
    """The names of the segments in the mount's own tmpfs."""
    return [name for name in os.listdir(arena_of(mounted.server_pid)) if name.isdecimal()]


def _descriptors_of_supervisor(mounted: Mount) -> int:
    """While it has a standby server."""
    eventually(lambda: standby_of(mounted.pid), what="a standby server")
    return _descriptors(mounted.pid)


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _settle(condition: Callable[[], bool]) -> None:
    """Wait for the condition; whoever asks looks at the numbers himself afterwards."""
    with suppress(AssertionError):
        eventually(condition, timeout=SETTLED, step=0.05)
