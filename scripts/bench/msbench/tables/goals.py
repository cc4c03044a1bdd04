"""What the project wants to reach, each beside a peer that was measured in turns with it.

A row is added as a Goal in figures.py and as a Figure of its name that a function of measures.py gives.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Sequence

from ..effort import Effort
from ..frame import Better, Cell, Column, Row, Table, amount
from ..processes import NotMeasured
from ..site import Site
from . import measures
from .figures import GOALS, Figure, Goal, Kind, met, middle, ratio

COLUMNS = (
    Column("ours", "ours"),
    Column("against", "against"),
    Column("theirs", "theirs"),
    Column("ratio", "ratio"),
    Column("wanted", "wanted"),
    Column("met", "met?"),
)

# A goal without a figure carries the reason instead.
Result = Figure | str


def measure(
    site: Site, effort: Effort, wanted: frozenset[str] = frozenset(), repeat: int = 1
) -> list[Table]:
    """The rows that are wanted, or all that the effort allows; each is that of the middle one of so
    many runs."""
    names = wanted or {goal.name for goal in GOALS if effort.slow_goals or not goal.slow}
    goals = [goal for goal in GOALS if goal.name in names]
    runs = [_run(site, effort, names) for _ in range(repeat)]
    rows = tuple(_row(goal, _middle(goal, [run[goal.name] for run in runs])) for goal in goals)
    return [Table("goals", "Beside the peers, and beside what is wanted", COLUMNS, rows)]


def _run(site: Site, effort: Effort, names: Collection[str]) -> dict[str, Result]:
    found: dict[str, Result] = {}
    for group, function in measures.GROUPS:
        if not any(name in names for name in group):
            continue
        start = time.monotonic()
        try:
            found.update(function(site, effort))
        except (NotMeasured, OSError) as problem:
            found.update(dict.fromkeys(group, str(problem)))
        print(f" {group[0]} {time.monotonic() - start:.0f} s", end="", file=sys.stderr, flush=True)
    return found


def _middle(goal: Goal, results: Sequence[Result]) -> Result:
    """The middle run; a row that could not be measured once has that reason."""
    reasons = [result for result in results if isinstance(result, str)]
    figures = [result for result in results if isinstance(result, Figure)]
    return reasons[0] if reasons else middle(goal, figures)


def _row(goal: Goal, result: Result) -> Row:
    sign = ">=" if goal.kind in (Kind.TIMES_LESS, Kind.SHARE) else "<="
    absolute = goal.kind is Kind.ABSOLUTE
    wanted = f"{sign} {amount(goal.wanted, goal.unit)}" if absolute else f"{sign} {goal.wanted:g}"
    cells = {"against": Cell(words=goal.against), "wanted": Cell(words=wanted)}
    if isinstance(result, str):
        cells |= {"ours": Cell(why=result), "met": Cell(words="?")}
        return Row(goal.name, goal.measure, goal.unit, Better.NEITHER, cells)
    cells |= {
        "ours": Cell(result.ours),
        "theirs": Cell(result.theirs),
        "ratio": Cell(words="-" if absolute else _number(ratio(goal, result))),
        "met": Cell(words="yes" if met(goal, result) else "NO"),
    }
    return Row(goal.name, goal.measure, goal.unit, Better.NEITHER, cells, result.note)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
