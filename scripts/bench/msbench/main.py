"""The command line of the bench: which rows, how often, where the figures go."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from . import measures
from .figures import GOALS, Goal
from .processes import NotMeasured, Placement
from .report import Result, table, write_json
from .site import Site

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str]) -> int:
    """Measure and print. 0: measured (met or not); 1: a row could not be measured; 2: usage."""
    options = _parse(arguments)
    if os.geteuid() != 0:
        print("bench: needs root, because passthrough mounts do", file=sys.stderr)
        return 2
    for number in ENDING:
        signal.signal(number, _leave)
    wanted = set(options.only or (goal.name for goal in GOALS))
    effort = measures.QUICK if options.quick else measures.NORMAL
    try:
        results = _measure(wanted, effort, Placement.named(options.placement))
    except NotMeasured as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    print(table(results))
    if options.json:
        write_json(options.json, results, options.placement)
    return 1 if any(isinstance(result, str) for result in results.values()) else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/run", description="Measure msharefs against its peers."
    )
    names = [goal.name for goal in GOALS]
    parser.add_argument(
        "--only",
        action="append",
        choices=names,
        metavar="NAME",
        help="measure this row (repeatable)",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--placement",
        choices=("apart", "together", "free"),
        default="apart",
        help="processors of probe and daemon (default: apart, one each)",
    )
    return parser.parse_args(arguments)


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


def _leave(number: int, _frame: FrameType | None) -> None:
    """A signal ends the run the way an exception does: everything is taken down."""
    # A second one must not interrupt the taking down.
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)
