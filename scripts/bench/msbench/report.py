"""The table, as text, in a page and as JSON. Knows goals and figures, not how they were measured."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path

from .figures import Figure, Goal, Kind, Unit, met, ratio

HEAD = ("name", "measure", "ours", "against", "theirs", "ratio", "wanted", "met?")
LEFT_ALIGNED = (0, 1, 3, 7)
BEGIN, END = "<!-- bench-table: made by scripts/bench/run --readme -->", "<!-- bench-table: end -->"
"""The marks between which a page has the table."""

# A goal without a figure carries the reason instead.
Result = Figure | str


def table(results: Mapping[Goal, Result]) -> str:
    """The plain-text table, with the remarks and the reasons of missing rows below it."""
    rows = [HEAD, *(_cells(goal, result) for goal, result in results.items())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    for goal, result in results.items():
        if isinstance(result, str):
            lines.append(f"{goal.name}: not measured: {result}")
        elif result.note:
            lines.append(f"{goal.name}: {result.note}")
    return "\n".join(lines)


def fill_in(page: Path, results: Mapping[Goal, Result], where: Mapping[str, object]) -> None:
    """Put the table of a run into a Markdown page, with the machine that it was made on. A row
    that misses its goal says so as loudly as one that meets it. ValueError without the marks."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no place for the table: {BEGIN} ... {END}")
    # The names of the rows are for the command line.
    rows = [_cells(goal, result)[1:] for goal, result in results.items()]
    lines = [
        "",
        "",
        _markdown(HEAD[1:]),
        _markdown(("---",) * len(HEAD[1:])),
        *map(_markdown, rows),
    ]
    lines += ["", ", ".join(f"{name} {value}" for name, value in where.items()) + ".", "", ""]
    page.write_text(before + begin + "\n".join(lines) + end + after, encoding="utf-8")


def _markdown(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine() -> dict[str, object]:
    """What is needed to compare two runs."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "python": f"{platform.python_version()} {_optimized()}",
    }


def _optimized() -> str:
    """How the interpreter was built: with both it is 15 to 20 % faster."""
    words = str(sysconfig.get_config_var("CONFIG_ARGS"))
    options = {"PGO": "--enable-optimizations", "LTO": "--with-lto"}
    found = [name for name, option in options.items() if option in words]
    return f"({' and '.join(found)})" if found else "(neither PGO nor LTO)"


def write_json(path: Path, results: Mapping[Goal, Result], where: Mapping[str, object]) -> None:
    """Every sample, and the machine and way in which they were taken."""
    rows = [_record(goal, result) for goal, result in results.items()]
    text = json.dumps({"version": 1, "machine": where, "rows": rows}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _record(goal: Goal, result: Result) -> dict[str, object]:
    record: dict[str, object] = {
        "name": goal.name,
        "measure": goal.measure,
        "against": goal.against,
        "unit": goal.unit.value,
        "judged": goal.kind.value,
        "wanted": goal.wanted,
    }
    if isinstance(result, str):
        return record | {"error": result}
    return record | {
        "ours": statistics.median(result.ours),
        "theirs": statistics.median(result.theirs) if result.theirs else None,
        "ratio": ratio(goal, result),
        "met": met(goal, result),
        "note": result.note,
        "samples": {"ours": result.ours, "theirs": result.theirs},
    }


def _cells(goal: Goal, result: Result) -> tuple[str, ...]:
    wanted = _wanted(goal)
    if isinstance(result, str):
        return (goal.name, goal.measure, "-", goal.against, "-", "-", wanted, "?")
    absolute = goal.kind is Kind.ABSOLUTE
    return (
        goal.name,
        goal.measure,
        _amount(statistics.median(result.ours), goal.unit),
        goal.against,
        "-" if absolute else _amount(statistics.median(result.theirs), goal.unit),
        "-" if absolute else _number(ratio(goal, result)),
        wanted,
        "yes" if met(goal, result) else "NO",
    )


def _wanted(goal: Goal) -> str:
    sign = ">=" if goal.kind in (Kind.TIMES_LESS, Kind.SHARE) else "<="
    if goal.kind is Kind.ABSOLUTE:
        return f"{sign} {_amount(goal.wanted, goal.unit)}"
    return f"{sign} {goal.wanted:g}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _amount(value: float, unit: Unit) -> str:
    if unit is Unit.SECONDS:
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
            if value * factor >= 1:
                return f"{value * factor:.3g} {name}"
        return f"{value * 1e9:.3g} ns"
    if unit is Unit.PER_SECOND:
        return f"{value:,.0f} /s"
    suffix = "/s" if unit is Unit.BYTES_PER_SECOND else ""
    for shift, name in ((30, "GiB"), (20, "MiB")):
        if value >= 1 << shift:
            return f"{value / (1 << shift):.1f} {name}{suffix}"
    return f"{value / 1024:.0f} KiB{suffix}"


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.ljust(width) if column in LEFT_ALIGNED else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
