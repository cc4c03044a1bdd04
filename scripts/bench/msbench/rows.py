"""The rows of msharefs beside its peers: which of them, how often, where the figures go."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import measures
from .figures import GOALS, Figure, Goal, middle
from .processes import NotMeasured, Placement
from .report import Result, fill_in, machine, table, write_json
from .site import Site


def main(arguments: Sequence[str]) -> int:
    """Measure and print. 0: measured (met or not); 1: a row could not be measured."""
    options = _parse(arguments)
    wanted = set(options.only or (goal.name for goal in GOALS if not (options.quick and goal.slow)))
    effort = measures.QUICK if options.quick else measures.NORMAL
    placement = Placement.named(options.placement)
    results = _middle([_measure(wanted, effort, placement) for _ in range(options.repeat)])
    print(table(results))
    if options.json:
        write_json(options.json, results, machine() | {"placement": options.placement})
    if options.readme:
        fill_in(options.readme, results, machine())
    return 1 if any(isinstance(result, str) for result in results.values()) else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/run [rows]", description="Measure msharefs against its peers."
    )
    names = [goal.name for goal in GOALS]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help="measure this row (repeatable)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, and no rows that take minutes"
    )
    parser.add_argument(
        "--repeat",
        type=_runs,
        default=1,
        metavar="RUNS",
        help="measure all so many times; each row is that of the middle run",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--readme", type=Path, metavar="FILE", help="put the table between the marks in this page"
    )
    parser.add_argument(
        "--placement",
        choices=("apart", "together", "free"),
        default="apart",
        help="processors of probe and daemon (default: apart, one each)",
    )
    return parser.parse_args(arguments)


def _runs(word: str) -> int:
    """At least one."""
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def _middle(runs: Sequence[dict[Goal, Result]]) -> dict[Goal, Result]:
    """Of each goal the middle run; a row that could not be measured once has that reason."""
    results: dict[Goal, Result] = {}
    for goal in runs[0]:
        found = [run[goal] for run in runs]
        reasons = [result for result in found if isinstance(result, str)]
        figures = [result for result in found if isinstance(result, Figure)]
        results[goal] = reasons[0] if reasons else middle(goal, figures)
    return results


def _measure(wanted: set[str], effort: measures.Effort, placement: Placement) -> dict[Goal, Result]:
    """Figures of the wanted goals, in the order of the table."""
    found: dict[str, Result] = {}
    with Site(placement) as site:
        for names, measure in measures.GROUPS:
            if wanted.isdisjoint(names):
                continue
            print(f"bench: {', '.join(names)} ...", end="", file=sys.stderr, flush=True)
            start = time.monotonic()
            try:
                found.update(measure(site, effort))
            except (NotMeasured, OSError) as problem:
                found.update(dict.fromkeys(names, str(problem)))
            print(f" {time.monotonic() - start:.0f} s", file=sys.stderr)
    return {goal: found[goal.name] for goal in GOALS if goal.name in wanted}
