"""What grows with what: time and memory as regions, mappings and processes become many.

Each table has a count a column; `fitted` is the exponent of the growth, by the logarithms' line of
least squares: 0 is no growth, 1 growth in step.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from ..effort import GIB, MIB, Effort
from ..frame import Better, Cell, Column, Row, Table, Unit, exponent, missing
from ..processes import NotMeasured, memory_of
from ..site import Mounted, Site, need_memory

FITTED = Column("fitted", "exponent")
ROUNDS, LIVES, PLACES = 3, 60, 60
ATTACHED = 64 * MIB

Found = dict[str, dict[int, list[float]]]
"""Samples by row, by count."""


def measure(site: Site, effort: Effort) -> list[Table]:
    """One table for each thing that there can be many of."""
    return [
        _table(
            "growth-regions",
            "Growth with the number of regions",
            effort.regions,
            (
                Row("life", "create, size, map 2 MiB, close, unlink", Unit.SECONDS),
                Row("one", "make one of them: create, close", Unit.SECONDS),
                Row("memory", "memory of the daemon (PSS)", Unit.BYTES),
            ),
            lambda: _regions(site, effort),
        ),
        _table(
            "growth-mappings",
            "Growth with the number of mappings of a region",
            effort.mappings,
            (
                Row("map", "CREATE_MAPPING of a page between two others", Unit.SECONDS),
                Row("one", "make one of them", Unit.SECONDS),
                Row("memory", "memory of the daemon (PSS)", Unit.BYTES),
            ),
            lambda: _mappings(site, effort),
        ),
        _table(
            "growth-processes",
            "Growth with the number of processes that attach 64 MiB",
            effort.processes,
            (
                Row("attached", "until all have touched it", Unit.SECONDS),
                Row("tables", "page tables of all of them (PageTables)", Unit.BYTES),
                Row("memory", "memory of the daemon (PSS)", Unit.BYTES),
            ),
            lambda: _processes(site, effort),
        ),
    ]


def _table(
    name: str,
    title: str,
    counts: Sequence[int],
    lines: Sequence[Row],
    take: Callable[[], Found],
) -> Table:
    print(f" {name.partition('-')[2]}", end="", file=sys.stderr, flush=True)
    why = ""
    found: Found = defaultdict(dict)
    try:
        found = take()
    except (NotMeasured, OSError) as problem:
        why = str(problem)
    columns = (*(Column(str(count), f"{count:,}") for count in counts), FITTED)
    rows = []
    for line in lines:
        values = found[line.name]
        cells = {
            str(count): Cell(tuple(values[count])) if count in values else missing(why)
            for count in counts
        }
        cells[FITTED.name] = _fitted(values)
        rows.append(Row(line.name, line.measure, line.unit, Better.LESS, cells))
    return Table(name, title, columns, tuple(rows))


def _fitted(values: dict[int, list[float]]) -> Cell:
    middle = {count: statistics.median(samples) for count, samples in values.items()}
    known = {count: value for count, value in middle.items() if value > 0}
    if len(known) < 2:
        return Cell()
    return Cell(words=f"{exponent(list(known), list(known.values())):.2f}")


def _regions(site: Site, effort: Effort) -> Found:
    found: Found = defaultdict(dict)
    # Some KiB each.
    need_memory(max(effort.regions) * 4096 + GIB)
    options = f"size=1G,nr_inodes={max(effort.regions) * 2 + 1000}"
    with site.msharefs(options) as many, site.msharefs("size=64M") as few:
        there = 0
        for count in effort.regions:
            found["one"][count] = _each(site, "names", many.path, count, there)
            there = count
            found["life"][count] = site.contend("create-map", ROUNDS, LIVES, many.path, few.path)[0]
            found["memory"][count] = [_memory(many)]
    return found


def _mappings(site: Site, effort: Effort) -> Found:
    found: Found = defaultdict(dict)
    options = f"size=1G,max_mappings={max(effort.mappings) + 10_000}"
    for count in effort.mappings:
        with site.msharefs(options) as many:
            path = many.path / "region"
            found["one"][count] = _each(site, "mappings", path, count)
            found["map"][count] = site.contend("map-in-gap", ROUNDS, PLACES, path, path)[0]
            found["memory"][count] = [_memory(many)]
    return found


def _each(site: Site, what: str, path: Path, count: int, there: int = 0) -> list[float]:
    """Seconds for one of those that were made."""
    [[_, nanoseconds]] = site.probe("fill", what, path, count, *([there] if there else []))
    return [float(nanoseconds) / 1e9]


def _processes(site: Site, effort: Effort) -> Found:
    found: Found = defaultdict(dict)
    with site.msharefs(f"size={2 * ATTACHED}") as mounted:
        region = mounted.path / "region"
        site.probe("fill", "region", region, ATTACHED)
        for count in effort.processes:
            for _ in range(ROUNDS):
                values = dict(site.probe("share", "herd", f"file:{region}", ATTACHED, count))
                found["attached"].setdefault(count, []).append(float(values["all_attached_s"]))
                found["tables"].setdefault(count, []).append(float(values["page_tables_b"]))
            found["memory"][count] = [_memory(mounted)]
    return found


def _memory(mounted: Mounted) -> float:
    return memory_of(mounted.processes(), "Pss:")
