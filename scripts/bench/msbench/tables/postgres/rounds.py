"""Rounds of pgbench against one server, and what they are worth.

Owns the order of the rounds and the reading of pgbench's report and of /proc.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from ...processes import NotMeasured
from .cluster import Cluster, processes_of

THREADS = 2
# How often the page tables are read; the largest sum counts.
LOOK_SECONDS = 1.0

_TPS = re.compile(r"^tps = ([0-9.]+) ", re.MULTILINE)
_CONNECT = re.compile(r"^initial connection time = ([0-9.]+) ms", re.MULTILINE)
_PAGE_TABLES = re.compile(r"^VmPTE:\s+([0-9]+) kB", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """One run of pgbench."""

    tps: float
    connect: float
    """Milliseconds until all clients were connected."""
    page_tables: float
    """KiB of the server's processes together."""


Samples = dict[tuple[int, str], list[Sample]]
"""By number of clients and side."""


Starting = Callable[[], AbstractContextManager[int]]
"""Starts the server in one way; what is entered gives its process number."""


def measure_sides(
    sides: Mapping[str, Starting],
    cluster: Cluster,
    clients: Sequence[int],
    *,
    rounds: int,
    seconds: int,
) -> Samples:
    """Start the server again and again, in each way in turns, and query it each time."""
    samples: Samples = defaultdict(list)
    for number in range(rounds):
        # There and back again: a drift of the machine hits all sides alike.
        for side, starting in list(sides.items())[:: 1 if number % 2 == 0 else -1]:
            print(f" {side}", end="", file=sys.stderr, flush=True)
            with starting() as postmaster:
                cluster.warm()
                for count in clients:
                    samples[count, side].append(_sample(cluster, postmaster, count, seconds))
    return samples


def _sample(cluster: Cluster, postmaster: int, clients: int, seconds: int) -> Sample:
    words = ["-S", "-n", "-M", "prepared", "-c", str(clients), "-j", str(THREADS)]
    command = cluster.as_user("pgbench", *cluster.client(*words, "-T", str(seconds)))
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cluster.directory,
    ) as process:
        try:
            page_tables = _largest_page_tables(process, postmaster, clients)
            report, _ = process.communicate(timeout=seconds + 60)
        finally:
            if process.poll() is None:
                process.kill()
    tps, connect = _TPS.search(report), _CONNECT.search(report)
    if process.returncode != 0 or tps is None or connect is None:
        raise NotMeasured(f"pgbench failed: {report.strip()[-400:]}")
    return Sample(float(tps[1]), float(connect[1]), page_tables)


def _largest_page_tables(process: subprocess.Popen[str], postmaster: int, clients: int) -> float:
    """Look every second until pgbench ends. They grow while the clients touch the buffers."""
    largest = 0
    while True:
        try:
            process.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            pids = processes_of(postmaster)
            if len(pids) >= clients:
                largest = max(largest, _page_tables(pids))
            continue
        if largest == 0:
            raise NotMeasured("pgbench was over before its clients were seen; give it --seconds")
        return float(largest)


def _page_tables(pids: Sequence[int]) -> int:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = _PAGE_TABLES.search(Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
            total += int(found[1]) if found else 0
    return total
