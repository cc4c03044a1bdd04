"""The table of PostgreSQL: its rows, and the cluster that is made for it.

Owns how the server is started on each side; rounds.py has what is done with it then.
"""

from __future__ import annotations

import pwd
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...effort import MIB, Effort
from ...frame import Better, Cell, Column, Row, Table, Unit
from ...processes import NotMeasured
from ...site import Site
from ...user import become
from ...ways import POOL, huge_pages
from .cluster import Cluster, find_programs
from .rounds import Sample, Samples, measure_sides

USER = "postgres"
BUFFERS = 2048
"""MiB. PostgreSQL's shared memory is the buffers and a little for each connection."""
BESIDE_BUFFERS = 512

DEFAULT, HUGE, REGION, DIRECT = "default", "huge", "msharefs", "direct"
COLUMNS = (
    Column(DEFAULT, "as it is", rival=True),
    Column(HUGE, "huge_pages=on", rival=True),
    Column(REGION, "msharefs"),
    Column(DIRECT, "msharefs direct, user"),
)


@dataclass(frozen=True)
class _Measure:
    name: str
    words: str
    unit: Unit
    better: Better
    take: Callable[[Sample], float]


MEASURES = (
    _Measure("tps", "queries a second", Unit.PER_SECOND, Better.MORE, lambda sample: sample.tps),
    _Measure(
        "connect",
        "until all are connected",
        Unit.SECONDS,
        Better.LESS,
        lambda sample: sample.connect / 1e3,
    ),
    _Measure(
        "tables",
        "page tables of the server",
        Unit.BYTES,
        Better.LESS,
        lambda sample: sample.page_tables * 1024,
    ),
)


def measure(site: Site, effort: Effort) -> list[Table]:
    """Make a cluster of an ordinary user and query it, started in each way in turns. On a mount of his
    own huge pages come in the background while he is queried."""
    programs = find_programs()
    try:
        pwd.getpwnam(USER)
    except KeyError:
        raise NotMeasured(f"there is no user {USER}; he comes with PostgreSQL") from None
    connections = max(effort.clients) + 20
    cluster = Cluster(programs, site.directory / "cluster", USER, f"{BUFFERS}MB", connections)
    size = f"size={BUFFERS + BESIDE_BUFFERS}M"
    with (
        site.msharefs(f"{size},mode=0755", placed=False) as roots,
        site.msharefs(f"{size},data=direct", placed=False, user=USER) as users,
    ):
        cluster.directory.mkdir()
        cluster.create()
        with cluster.serve(cluster.become(), "off"):
            cluster.fill(effort.database_scale)
        samples = measure_sides(
            {
                DEFAULT: lambda: cluster.serve(cluster.become(), "try"),
                HUGE: lambda: _with_pool(cluster),
                REGION: lambda: cluster.serve(_in_region_of_root(cluster, roots.path), "off"),
                DIRECT: lambda: cluster.serve(_in_region_of_user(users.path), "off"),
            },
            cluster,
            effort.clients,
            rounds=effort.database_rounds,
            seconds=effort.database_seconds,
        )
    return [_table(samples, effort, cluster.run("postgres", "--version").strip())]


def _run(directory: Path) -> list[str]:
    """mshare run, up to its command. -P: the checkout of this bench."""
    command = [sys.executable, "-P", "-m", "msharefs.cli.run", "--strict"]
    return [*command, "--region", str(directory / "postgres")]


def _in_region_of_root(cluster: Cluster, directory: Path) -> list[str]:
    """Root makes the region, the server is another user's."""
    return [*_run(directory), "--mode", "666", "--", *cluster.become()]


def _in_region_of_user(directory: Path) -> list[str]:
    """All of it is his own."""
    return [*become(USER), *_run(directory), "--"]


@contextmanager
def _with_pool(cluster: Cluster) -> Iterator[int]:
    with (
        huge_pages(POOL, (BUFFERS + BESIDE_BUFFERS) * MIB),
        cluster.serve(cluster.become(), "on") as postmaster,
    ):
        yield postmaster


def _table(samples: Samples, effort: Effort, version: str) -> Table:
    rows = tuple(
        Row(
            f"{measured.name}-{clients}",
            f"{measured.words}, {clients} clients",
            measured.unit,
            measured.better,
            {
                column.name: Cell(tuple(map(measured.take, samples[clients, column.name])))
                for column in COLUMNS
            },
        )
        for measured in MEASURES
        for clients in effort.clients
    )
    remark = (
        f"{version}, shared_buffers {BUFFERS} MiB, scale {effort.database_scale}, pgbench -S -M prepared, "
        f"{effort.database_rounds} rounds of {effort.database_seconds} s in turns; clients and server "
        "share the processors. Page tables are VmPTE of the server's processes, added."
    )
    title = "PostgreSQL"
    return Table("postgres", title, COLUMNS, rows, REGION, DEFAULT, remark)
