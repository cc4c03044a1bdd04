"""The table of PostgreSQL: its rows, and the cluster that is made for it.

Owns how the server is started on each side; rounds.py has what is done with it then.
"""

from __future__ import annotations

import pwd
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...effort import MIB, Effort
from ...frame import Better, Cell, Column, Row, Table, Unit
from ...processes import NotMeasured
from ...site import Site
from ...ways import POOL, huge_pages
from .cluster import Cluster, find_programs
from .rounds import Sample, Samples, measure_sides

USER = "postgres"
BUFFERS = 2048
"""MiB. PostgreSQL's shared memory is the buffers and a little for each connection."""
BESIDE_BUFFERS = 512

DEFAULT, HUGE, REGION = "default", "huge", "msharefs"
COLUMNS = (
    Column(DEFAULT, "as it is", rival=True),
    Column(HUGE, "huge_pages=on", rival=True),
    Column(REGION, "msharefs"),
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
    """Make a cluster of an ordinary user and query it, started in each way in turns."""
    programs = find_programs()
    try:
        pwd.getpwnam(USER)
    except KeyError:
        raise NotMeasured(f"there is no user {USER}; he comes with PostgreSQL") from None
    connections = max(effort.clients) + 20
    cluster = Cluster(programs, site.directory / "cluster", USER, f"{BUFFERS}MB", connections)
    with site.msharefs(f"size={BUFFERS + BESIDE_BUFFERS}M,mode=0755", placed=False) as mounted:
        cluster.directory.mkdir()
        cluster.create()
        with cluster.serve(None, "off"):
            cluster.fill(effort.database_scale)
        samples = measure_sides(
            {name: _starting(cluster, name, mounted.path) for name in (DEFAULT, HUGE, REGION)},
            cluster,
            effort.clients,
            rounds=effort.database_rounds,
            seconds=effort.database_seconds,
        )
    return [_table(samples, effort, cluster.run("postgres", "--version").strip())]


def _starting(
    cluster: Cluster, side: str, directory: Path
) -> Callable[[], AbstractContextManager[int]]:
    """How the server is started on a side; what is entered gives its process number."""
    if side == HUGE:
        return lambda: _with_pool(cluster)
    if side == REGION:
        return lambda: cluster.serve(directory / "postgres", "off")
    return lambda: cluster.serve(None, "try")


@contextmanager
def _with_pool(cluster: Cluster) -> Iterator[int]:
    with (
        huge_pages(POOL, (BUFFERS + BESIDE_BUFFERS) * MIB),
        cluster.serve(None, "on") as postmaster,
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
