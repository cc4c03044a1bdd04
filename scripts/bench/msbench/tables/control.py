"""How long each control operation takes, one by one: the middle and the slowest in a hundred.

Owns the rows; probes/latency.c has the operations. A row is added there and in OPERATIONS.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ..effort import Effort
from ..frame import Cell, Column, Row, Table, Unit, missing
from ..processes import NotMeasured, on_processors
from ..site import Site

CROWD = 16

OPERATIONS = {
    "create": "create a name",
    "size": "ftruncate",
    "map": "CREATE_MAPPING, 2 MiB",
    "open": "open and close by name",
    "stat": "stat by name",
    "unmap": "UNMAP",
    "close": "close",
    "rename": "rename",
    "unlink": "unlink",
}

PERCENTILES = ("p50", "p99")

OURS, C, PYTHON = "msharefs", "c", "pyfuse3"
COLUMNS = (
    Column(OURS, "msharefs"),
    Column("paged", "msharefs paged"),
    Column(C, "C libfuse", rival=True),
    Column(PYTHON, "plain pyfuse3", rival=True),
)


def measure(site: Site, effort: Effort) -> list[Table]:
    """Alone, and with sixteen clients at once."""
    found: dict[str, dict[str, Cell]] = defaultdict(dict)
    for column in COLUMNS:
        try:
            with _served(site, column.name) as directory:
                for clients in (1, CROWD):
                    _take(site, effort, found, column.name, directory, clients)
        except (NotMeasured, OSError) as problem:
            for name in _names():
                found[name].setdefault(column.name, missing(str(problem)))
        print(f" {column.name}", end="", file=sys.stderr, flush=True)
    lines = tuple(
        Row(
            _name(operation, clients, percentile),
            f"{words}, {_crowd(clients)}, {percentile}",
            Unit.SECONDS,
            cells=found[_name(operation, clients, percentile)],
        )
        for clients in (1, CROWD)
        for operation, words in OPERATIONS.items()
        for percentile in PERCENTILES
    )
    remark = (
        "The peers keep no memory, no limits and no journal. Beside C a win is no faster program: "
        "the daemon looks for the next request for a moment before it sleeps, and libfuse sleeps at "
        "once and has to be woken."
    )
    return [
        Table("control", "Control operations, one by one", COLUMNS, lines, OURS, PYTHON, remark)
    ]


def _crowd(clients: int) -> str:
    return "alone" if clients == 1 else f"{clients} clients"


def _name(operation: str, clients: int, percentile: str) -> str:
    return f"{operation}-{clients}-{percentile}"


def _names() -> Iterator[str]:
    for operation in OPERATIONS:
        for clients in (1, CROWD):
            for percentile in PERCENTILES:
                yield _name(operation, clients, percentile)


@contextmanager
def _served(site: Site, name: str) -> Iterator[Path]:
    if name in (OURS, "paged"):
        plane = "passthrough" if name == OURS else "paged"
        with site.msharefs(f"size=1G,data={plane}") as mounted:
            yield mounted.path
        return
    peers: dict[str, AbstractContextManager[Path]] = {C: site.cfs(), PYTHON: site.plain_pyfuse3()}
    with peers[name] as path:
        yield path


def _take(
    site: Site,
    effort: Effort,
    found: dict[str, dict[str, Cell]],
    column: str,
    directory: Path,
    clients: int,
) -> None:
    turns = effort.turns if clients == 1 else effort.turns // 8
    with on_processors(site.placement.client):
        lines = site.probe("latency", directory, clients, turns)
    for operation, *values in lines:
        for percentile, value in zip(PERCENTILES, values, strict=False):
            cell = Cell(words="none") if value == "unsupported" else _seconds(value)
            found[_name(operation, clients, percentile)][column] = cell


def _seconds(nanoseconds: str) -> Cell:
    return Cell((int(nanoseconds) / 1e9,))
