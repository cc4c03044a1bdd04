"""Every kind of shared memory beside every other: what those pay who attach it.

Owns the rows and what is computed where nothing can be measured. A row is added to `rows` and its
samples to what `_measured` gives under its name; a column is added in ways.py.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..effort import GIB, MIB, Effort
from ..frame import Better, Cell, Column, Row, Table, Unit, missing
from ..processes import NotMeasured
from ..site import Site, need_memory
from ..ways import KERNEL, MSHARE, OURS, USUAL, WAYS, Attachable, Making

Samples = dict[str, list[float]]
"""By the name of the row."""

PAGE, ENTRY = 4096, 8
SIMULATED = 16_000
THREADS = (1, 2)
ROUNDS = 3


def rows(effort: Effort) -> tuple[Row, ...]:
    """What is measured of each, in the words of those who measure."""
    size, read = _gib(effort.attached), _gib(effort.read)
    herds = [*effort.herds, SIMULATED]
    return (
        Row("vmpte", f"VmPTE of a process, {size} touched", Unit.BYTES),
        *(
            Row(f"tables-{n}", f"PageTables, {n:,} processes, {size} each", Unit.BYTES)
            for n in herds
        ),
        Row("attach", f"attach and touch {size}, one new process", Unit.SECONDS),
        *(
            Row(f"attached-{n}", f"until {n:,} processes have done so", Unit.SECONDS)
            for n in effort.herds
        ),
        Row("faults", f"minor faults for {size}", Unit.COUNT),
        Row("fault-rate", "minor faults a second", Unit.PER_SECOND, Better.NEITHER),
        Row("fork", "fork, for each GiB touched", Unit.SECONDS),
        Row("cold", f"cold read of {read}, new process", Unit.SECONDS),
        Row("warm", f"warm read of {read}", Unit.SECONDS),
        *(
            Row(f"{name}-{n}", f"{words}, {n} thread{'s' * (n > 1)}", unit, Better.MORE)
            for name, words, unit in (
                ("write", "sequential write", Unit.BYTES_PER_SECOND),
                ("random", "random 8-byte reads", Unit.PER_SECOND),
            )
            for n in THREADS
        ),
    )


def _gib(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


def measure(site: Site, effort: Effort) -> list[Table]:
    """One kind of memory after the other."""
    filled: dict[str, dict[str, Cell]] = defaultdict(dict)
    lines = rows(effort)
    for column, making in WAYS.items():
        for name, cell in _column(site, effort, column, making, lines).items():
            filled[name][column.name] = cell
    for name, cell in _kernel(effort).items():
        filled[name][KERNEL] = cell
    return [
        Table(
            "memory",
            "Kinds of shared memory",
            (*WAYS, MSHARE),
            tuple(replace(row, cells=filled[row.name]) for row in lines),
            OURS,
            USUAL,
            "Each at a multiple of 1 GiB, one kind after the other. Many faults a second are no "
            "merit by themselves: with huge pages there are few.",
        )
    ]


def _column(
    site: Site, effort: Effort, column: Column, making: Making, lines: Sequence[Row]
) -> dict[str, Cell]:
    """The cells of one kind; with the reason in them where it is not to be had here."""
    start = time.monotonic()
    try:
        # Paged memory is there twice, in the segment and in the page cache.
        need_memory(effort.read * 2 + GIB)
        with making(site, effort.read) as made:
            samples = _measured(site, effort, made)
    except (NotMeasured, OSError) as problem:
        return {row.name: missing(str(problem)) for row in lines}
    print(f" {column.name} {time.monotonic() - start:.0f} s", end="", file=sys.stderr, flush=True)
    cells = {name: Cell(tuple(values)) for name, values in samples.items()}
    cells[f"tables-{SIMULATED}"] = _simulated(effort, samples)
    return cells


def _measured(site: Site, effort: Effort, made: Attachable) -> Samples:
    samples: Samples = defaultdict(list)

    def probe(what: str, size: int, *words: int) -> Iterator[tuple[str, float]]:
        for name, value in site.probe("share", what, made.spec, size, *words, user=made.user):
            yield name, float(value)

    # Cold: the first process that attaches after those who made it.
    for _ in range(ROUNDS):
        for name, value in probe("read", effort.read):
            samples[name.removesuffix("_s")].append(value)
    for _ in range(ROUNDS):
        found = dict(probe("attach", effort.attached))
        # One page is the least that can be counted.
        samples["vmpte"].append(max(found["tables_b"], PAGE))
        samples["attach"].append(found["attach_s"])
        samples["faults"].append(found["faults"])
        samples["fault-rate"].append(found["faults_per_second"])
    for count in (count for herd in effort.herds for count in [herd] * _times(herd)):
        found = dict(probe("herd", effort.attached, count))
        samples[f"tables-{count}"].append(found["page_tables_b"])
        samples[f"attached-{count}"].append(found["all_attached_s"])
    samples["fork"] = [value for _, value in probe("fork", effort.attached, 5)]
    for threads in THREADS:
        for name, value in probe("speed", effort.attached, threads):
            samples[f"{name.partition('_')[0]}-{threads}"].append(value)
    return samples


def _times(count: int) -> int:
    """How often a herd is driven: what else the machine does is more beside a small one."""
    return 5 if count < 50 else ROUNDS if count < 500 else 1


def _simulated(effort: Effort, samples: Samples) -> Cell:
    """16,000 processes from the most that were there: each pays the same."""
    most = max(effort.herds)
    found = samples[f"tables-{most}"][-1]
    return Cell(
        (found / most * SIMULATED,),
        computed=f"by proportion from {most} processes, which were there",
    )


def _kernel(effort: Effort) -> dict[str, Cell]:
    """mshare by its definition: one tree of page tables for a region, whoever attaches it, and in
    each process one entry that points to it, in a page which that process has anyway."""
    how = (
        "computed from the definition of the patches, with pages of 4 KiB: one tree for the region, "
        "no page of their own for the processes. No kernel has it, so nothing else can be said"
    )
    # Entries of 4 KiB pages, of 2 MiB, and one page each for the two levels above.
    levels = [effort.attached // PAGE * ENTRY, max(PAGE, effort.attached // (2 * MIB) * ENTRY)]
    tree = Cell((float(sum(levels) + 2 * PAGE),), computed=how)
    return {f"tables-{count}": tree for count in (*effort.herds, SIMULATED)} | {
        "vmpte": Cell((0.0,), computed=how)
    }
