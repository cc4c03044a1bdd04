"""The pictures of docs/performance.md: SVG, each for light and for dark pages.

Knows the tables by their names, and draws what of them was measured. A picture whose table is not in the run
stays as it is.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .frame import Column, Row, Table, Unit, amount
from .record import Run
from .tables.memory import SIMULATED


@dataclass(frozen=True)
class Paper:
    """The colours of a page. Those of the curves are told apart by people who see few colours, too."""

    name: str
    ground: str
    ink: str
    faint: str
    curves: tuple[str, ...]
    ours: str


LIGHT = Paper(
    "light",
    "#ffffff",
    "#222222",
    "#cccccc",
    ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#8a6d00", "#777777", "#005046"),
    "#d55e00",
)
DARK = Paper(
    "dark",
    "#161b22",
    "#e6edf3",
    "#444c56",
    ("#58a6ff", "#3fb98c", "#e39bc4", "#8fd3ff", "#e6c84c", "#9aa4ae", "#6fe0c8"),
    "#ff8c42",
)

OURS = ("passthrough", "paged", "user", "direct", "msharefs")
MARKERS = "osD^vPX*"
FAR = 20
"""Bars that differ by more are logarithms."""


def draw(directory: Path, run: Run, papers: Sequence[Paper] = (LIGHT, DARK)) -> None:
    """Write every picture whose table is there, NAME-PAPER.svg."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, (tables, picture) in PICTURES.items():
        found = [table for table in map(run.table, tables) if table is not None and table.rows]
        if len(found) < len(tables):
            continue
        for paper in papers:
            with _on(paper):
                figure = picture(found, paper)
                FigureCanvasSVG(figure)
                figure.savefig(
                    directory / f"{name}-{paper.name}.svg", format="svg", metadata={"Date": None}
                )


@contextmanager
def _on(paper: Paper) -> Iterator[None]:
    colours: dict[Any, Any] = {
        "figure.facecolor": paper.ground,
        "axes.facecolor": paper.ground,
        "savefig.facecolor": paper.ground,
        "axes.edgecolor": paper.faint,
        "axes.labelcolor": paper.ink,
        "axes.titlecolor": paper.ink,
        "text.color": paper.ink,
        "xtick.color": paper.ink,
        "ytick.color": paper.ink,
        "grid.color": paper.faint,
        "legend.facecolor": paper.ground,
        "legend.edgecolor": paper.faint,
    }
    others: dict[Any, Any] = {
        # The same run gives the same bytes.
        "svg.hashsalt": "msharefs",
        # Letters stay letters: a third of the size, and they can be found and read aloud.
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
    }
    with mpl.rc_context(colours | others):
        yield


def _tables(found: list[Table], paper: Paper) -> Figure:
    """Page tables by the number of processes; what was computed is dotted."""
    [memory] = found
    figure = Figure(figsize=(8.4, 4.8))
    axes = figure.add_subplot()
    rows = [row for row in memory.rows if row.name.startswith("tables-")]
    counts = [int(row.name.partition("-")[2]) for row in rows]
    for number, column in enumerate(memory.columns):
        points = [
            (count, max(value, 4096.0), bool(row.cell(column.name).computed))
            for count, row in zip(counts, rows, strict=True)
            if (value := row.cell(column.name).value) is not None
        ]
        if not points:
            continue
        colour, style = _style(paper, column, number)
        measured = [(count, value) for count, value, computed in points if not computed]
        beyond = [(count, value) for count, value, computed in points if computed]
        if measured:
            axes.plot(*zip(*measured, strict=True), label=column.head, color=colour, **style)
            beyond = [measured[-1], *beyond]
        axes.plot(
            *zip(*beyond, strict=True),
            linestyle=":",
            color=colour,
            label=None if measured else f"{column.head} (computed)",
        )
    _logarithmic(axes, rows[0])
    axes.set_xlabel(f"processes (dotted: computed; {SIMULATED:,} were not there)")
    axes.set_title(
        f"{rows[0].measure.split(', ')[-1]} attached: page tables of all together", loc="left"
    )
    axes.legend(fontsize=8, ncols=2)
    return figure


def _style(paper: Paper, column: Column, number: int) -> tuple[str, dict[str, Any]]:
    """Ours are thick and in a colour that no other has."""
    ours = column.name in OURS
    colour = paper.ours if ours else paper.curves[number % len(paper.curves)]
    return colour, {
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 5,
        "linewidth": 2.4 if ours else 1.2,
        "linestyle": {"paged": "--", "user": "-.", "direct": (0, (1, 1))}.get(column.name, "-"),
    }


def _logarithmic(axes: Axes, row: Row, room: float = 1.5) -> None:
    """Both ways. Bytes have their ticks at powers of two, times at those of ten; `room` is the factor that is left
    free above and below."""
    axes.set_xscale("log")
    axes.set_yscale("log", base=2 if row.unit is Unit.BYTES else 10)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value, row.unit)))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    axes.set_ylim(low / room, high * room)
    axes.grid(visible=True, alpha=0.5)


def _bars(axes: Axes, paper: Paper, table: Table, row: Row, room: int) -> None:
    """A bar a column, the figure beside it; a figure that is missing leaves its place empty. Where figures are far
    apart the bars are logarithms, which is said. A line of the title has `room` letters."""
    columns = [column for column in table.columns if row.cell(column.name).measured is not None]
    values = [row.cell(column.name).value or 0.0 for column in columns]
    colours = [paper.ours if column.name in OURS else paper.curves[0] for column in columns]
    bars = axes.barh([column.head for column in columns], values, color=colours, height=0.7)
    axes.bar_label(bars, [f" {amount(value, row.unit)}" for value in values], fontsize=8)
    scale = ""
    if values and min(values) > 0 and max(values) > FAR * min(values):
        axes.set_xscale("log")
        axes.set_xlim(min(values) / 2, max(values) * 20)
        scale = ", logarithmic"
    else:
        axes.set_xlim(0, 1.35 * max(values, default=1.0) or 1.0)
    axes.invert_yaxis()
    title = textwrap.fill(row.measure, room)
    axes.set_title(f"{title}\n({row.better.value} is better{scale})", loc="left", fontsize=9)
    # The figures stand beside the bars.
    axes.xaxis.set_major_formatter(NullFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="both", length=0)
    axes.tick_params(axis="y", labelsize=8)


def _bar_picture(found: list[Table], paper: Paper, names: tuple[str, ...], *, wide: int) -> Figure:
    """A field for each row of these names; for every row where none is named."""
    [table] = found
    rows = [row for row in table.rows if not names or row.name in names]
    deep = -(-len(rows) // wide)
    figure = Figure(figsize=(8.4, deep * (0.8 + 0.22 * len(table.columns))))
    for number, row in enumerate(rows, start=1):
        axes = figure.add_subplot(deep, wide, number)
        _bars(axes, paper, table, row, 80 // wide)
    return figure


def _touch(found: list[Table], paper: Paper) -> Figure:
    return _bar_picture(found, paper, ("attach", "cold", "warm", "fork"), wide=2)


def _speed(found: list[Table], paper: Paper) -> Figure:
    return _bar_picture(found, paper, ("write-1", "random-1"), wide=2)


def _control(found: list[Table], paper: Paper) -> Figure:
    """The middle as a bar, the slowest in a hundred as the end of a thin line."""
    [control] = found
    figure = Figure(figsize=(8.4, 7.2))
    for place, clients in enumerate(("1", "16"), start=1):
        axes = figure.add_subplot(1, 2, place)
        rows = [row for row in control.rows if row.name.split("-")[1:] == [clients, "p50"]]
        height = 0.8 / len(control.columns)
        for number, column in enumerate(control.columns):
            colour = paper.ours if column.name == "msharefs" else paper.curves[number]
            for line, row in enumerate(rows):
                middle = row.cell(column.name).value
                slow = control.row(row.name.replace("p50", "p99")).cell(column.name).value
                if middle is None or slow is None:
                    continue
                at = line + number * height
                axes.barh(
                    at, middle, height, color=colour, label=column.head if line == 0 else None
                )
                axes.plot([middle, slow], [at, at], color=colour, linewidth=1)
        axes.set_yticks(
            [line + 0.3 for line in range(len(rows))],
            [row.measure.rsplit(", ", 2)[0] for row in rows],
        )
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: amount(value, Unit.SECONDS)))
        axes.grid(visible=True, axis="x", alpha=0.5)
        axes.set_title("alone" if clients == "1" else f"{clients} clients at once", loc="left")
        if place == 1:
            axes.legend(fontsize=8, loc="lower right")
        else:
            axes.set_yticklabels([])
    return figure


def _growth(found: list[Table], paper: Paper) -> Figure:
    """Each measure of each table as a curve, with its exponent."""
    figure = Figure(figsize=(8.4, 6.4))
    for place, unit in enumerate(("seconds", "bytes")):
        for number, table in enumerate(found):
            rows = [row for row in table.rows if row.unit.value == unit]
            axes = figure.add_subplot(2, len(found), place * len(found) + number + 1)
            for turn, row in enumerate(rows):
                points = [
                    (int(name), cell.value)
                    for name, cell in row.cells.items()
                    if name.isdigit() and cell.value
                ]
                words = textwrap.shorten(row.measure, 34, placeholder=" ...")
                label = f"{words}: {row.cell('fitted').words}"
                if points:
                    axes.plot(
                        *zip(*points, strict=True),
                        marker=MARKERS[turn],
                        color=(paper.ours, *paper.curves)[turn],
                        label=label,
                    )
            _logarithmic(axes, rows[0], room=4)
            axes.tick_params(labelsize=7)
            axes.set_title(
                table.title.partition("number of ")[2] if place == 0 else "", loc="left", fontsize=9
            )
            axes.legend(fontsize=6, title="exponent", title_fontsize=6, loc="upper left")
    return figure


def _postgres(found: list[Table], paper: Paper) -> Figure:
    return _bar_picture(found, paper, (), wide=3)


def _numpy(found: list[Table], paper: Paper) -> Figure:
    return _bar_picture(found, paper, (), wide=1)


Picture = Callable[[list[Table], Paper], Figure]

PICTURES: dict[str, tuple[tuple[str, ...], Picture]] = {
    "page-tables": (("memory",), _tables),
    "touch": (("memory",), _touch),
    "speed": (("memory",), _speed),
    "control": (("control",), _control),
    "growth": (("growth-regions", "growth-mappings", "growth-processes"), _growth),
    "numpy": (("numpy",), _numpy),
    "postgres": (("postgres",), _postgres),
}
"""By the name of the file: the tables that it needs, and what draws it."""
