"""The command line of the bench: which tables are made, where they go, and a clean end on a signal."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from . import pages, plots, record
from .effort import QUICK, WHOLE, Effort
from .frame import Table
from .processes import NotMeasured, Placement
from .site import PROJECT, Site
from .tables import arrays, control, goals, growth, left, memory, postgres
from .tables.figures import GOALS
from .terminal import text

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

PICTURES = "docs/_static/bench"

Making = Callable[[Site, Effort], list[Table]]

TABLES: dict[str, Making] = {
    "goals": goals.measure,
    "memory": memory.measure,
    "control": control.measure,
    "growth": growth.measure,
    "numpy": arrays.measure,
    "postgres": postgres.measure,
}
"""In the order in which they are made. A module gives what it measured as tables of the frame."""


def main(words: Sequence[str]) -> int:
    """Measure, print, and write what is asked for.

    0: measured (met or not); 1: something could not be measured; 2: usage, or something is
    missing here.
    """
    options = _parse(words)
    if options.source:
        run = record.read(options.source)
    else:
        if os.geteuid() != 0:
            print("bench: needs root, because passthrough mounts do", file=sys.stderr)
            return 2
        for number in ENDING:
            signal.signal(number, _leave)
        run = _measure(options)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n\n".join(text(table, width) for table in run.tables))
    print(f"\n{record.sentence(run)}")
    if options.json:
        record.write(options.json, run)
    if options.pages:
        pages.fill(PROJECT, run)
        plots.draw(PROJECT / PICTURES, run)
    return 1 if any(_lacks(table) for table in run.tables) else 0


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/run",
        description="Measure msharefs beside what a program would use otherwise.",
        epilog="QUICK=1 in the environment is --quick.",
    )
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help=f"{', '.join(TABLES)} (default: all)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[goal.name for goal in GOALS],
        metavar="NAME",
        help="of the goals measure this row alone (repeatable)",
    )
    parser.add_argument(
        "--repeat",
        type=_runs,
        default=1,
        metavar="RUNS",
        help="measure the goals so many times; each row is that of the middle run",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: five minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--pages", action="store_true", help="fill in README.md, docs/performance.md, the pictures"
    )
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="measure nothing: show what --json wrote",
    )
    parser.add_argument(
        "--placement",
        choices=("apart", "together", "free"),
        default="apart",
        help="processors of probe and daemon (default: apart, one each)",
    )
    options = parser.parse_args(words)
    unknown = set(options.tables) - set(TABLES)
    if unknown:
        parser.error(f"no such table: {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    return options


def _runs(word: str) -> int:
    """At least one."""
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def _measure(options: argparse.Namespace) -> record.Run:
    quick = options.quick or os.environ.get("QUICK", "") not in ("", "0")
    effort = QUICK if quick else WHOLE
    some_goals = partial(goals.measure, wanted=frozenset(options.only), repeat=options.repeat)
    making = dict(TABLES) | {"goals": some_goals}
    wanted = ["goals"] if options.only else options.tables or list(TABLES)
    machine = record.machine()
    before, tables, start = left.look(), [], time.monotonic()
    with Site(Placement.named(options.placement)) as site:
        for name in TABLES:
            if name in wanted:
                tables += _make(name, making[name], site, effort)
    tables.append(left.table(before, left.look()))
    machine["effort"] = f"{effort.name}, {time.monotonic() - start:.0f} s"
    return record.Run(machine, tuple(tables))


def _make(name: str, making: Making, site: Site, effort: Effort) -> list[Table]:
    """The tables of a module; one that says why where there are none."""
    print(f"bench: {name}:", end="", file=sys.stderr, flush=True)
    start = time.monotonic()
    try:
        return making(site, effort)
    except (NotMeasured, OSError) as problem:
        return [Table(name, f"{name}: not measured", (), (), remark=str(problem))]
    finally:
        print(f" | {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)


def _lacks(table: Table) -> bool:
    return not table.rows or any(
        cell.why for row in table.rows for cell in row.cells.values() if not cell.samples
    )


def _leave(number: int, _frame: FrameType | None) -> None:
    """A signal ends the run the way an exception does: everything is taken down."""
    # A second one must not interrupt the taking down.
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)
