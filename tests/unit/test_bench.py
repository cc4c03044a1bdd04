"""The frame of the bench: what a row says of itself, how a run is kept, and how it gets into pages."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from msbench import pages, plots
from msbench.effort import QUICK, WHOLE
from msbench.frame import (
    Better,
    Cell,
    Column,
    Row,
    Table,
    Unit,
    amount,
    beside_best,
    beside_usual,
    exponent,
    missing,
)
from msbench.main import TABLES
from msbench.record import Run, read, sentence, write
from msbench.tables import arrays, control, growth, memory
from msbench.tables.postgres import table as postgres
from msbench.terminal import markdown, text
from msbench.ways import MSHARE, OURS, USUAL, WAYS

PROJECT = Path(__file__).resolve().parents[2]
COLUMNS = (
    Column("shm", "POSIX shm", rival=True),
    Column("best", "the best", rival=True),
    Column("msharefs", "msharefs"),
)
MACHINE = {
    "processor": "a processor",
    "cpus": "2",
    "memory": "24 GiB",
    "kernel": "6.18",
    "architecture": "x86_64",
    "python": "3.11 (PGO)",
    "load": "0.0 at the beginning",
    "effort": "the whole, 800 s",
}


def table_of(better: Better, *values: float) -> Table:
    """A table of one row over the three columns."""
    cells = {column.name: Cell((value,)) for column, value in zip(COLUMNS, values, strict=False)}
    row = Row("row", "a measure", Unit.SECONDS, better, cells)
    return Table("table", "A table", COLUMNS, (row,), "msharefs", "shm")


@pytest.mark.parametrize(
    ("better", "values", "usual", "best"),
    [
        (Better.LESS, (10.0, 4.0, 2.0), "WINS 5.0 times", "WINS 2.0 times, the best"),
        (Better.LESS, (10.0, 1.0, 2.0), "WINS 5.0 times", "LOSES 2.0 times, the best"),
        (Better.LESS, (1.0, 3.0, 41.0), "LOSES 41 times", "LOSES 41 times, POSIX shm"),
        (Better.MORE, (1.0, 8.0, 2.0), "WINS 2.0 times", "LOSES 4.0 times, the best"),
        (Better.LESS, (1.0, 3.0, 1.04), "LEVEL", "LEVEL, POSIX shm"),
        (Better.LESS, (5.0, 0.0, 1.0), "WINS 5.0 times", "LOSES, the best"),
        (Better.MORE, (5.0, 0.0, 0.0), "LOSES", "LOSES, POSIX shm"),
        (Better.NEITHER, (1.0, 2.0, 3.0), "", ""),
    ],
)
def test_a_row_says_who_wins_and_who_loses(
    better: Better, values: tuple[float, ...], usual: str, best: str
) -> None:
    table = table_of(better, *values)
    assert beside_usual(table, table.rows[0]) == usual
    assert beside_best(table, table.rows[0]) == best


def test_what_was_computed_is_marked_and_wins_against_nobody() -> None:
    cells = {
        "shm": Cell((2.0,)),
        "best": Cell((1.0,), computed="from its definition"),
        "msharefs": Cell((2.0,)),
    }
    table = Table(
        "table",
        "A table",
        COLUMNS,
        (Row("row", "m", Unit.SECONDS, cells=cells),),
        "msharefs",
        "shm",
    )
    assert beside_best(table, table.rows[0]) == "LEVEL, POSIX shm"
    shown = text(table, None)
    assert "~1 s" in shown
    assert "the best (~): from its definition" in shown


def test_a_figure_that_is_missing_has_its_reason_below_the_table() -> None:
    cells = {"shm": Cell((2.0,)), "best": missing("no pool"), "msharefs": Cell((1.0,))}
    table = Table("table", "T", COLUMNS, (Row("row", "m", Unit.SECONDS, cells=cells),))
    assert "- the best: no pool" in markdown(table)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_that_power(power: float) -> None:
    sizes = [10, 100, 1_000, 60_000]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.00025, Unit.SECONDS, "250 us"),
        (3e-9, Unit.SECONDS, "3 ns"),
        (0, Unit.BYTES, "0"),
        (4096, Unit.BYTES, "4 KiB"),
        (3 << 30, Unit.BYTES_PER_SECOND, "3.0 GiB/s"),
        (14_152_419, Unit.PER_SECOND, "14.2 M/s"),
        (22_912, Unit.PER_SECOND, "22,912 /s"),
    ],
)
def test_amounts_are_said_as_people_say_them(value: float, unit: Unit, words: str) -> None:
    assert amount(value, unit) == words


def test_a_narrow_terminal_gets_every_column_in_blocks_that_fit() -> None:
    shown = text(table_of(Better.LESS, 1.0, 2.0, 3.0), 40)
    assert all(len(line) <= 40 for line in shown.splitlines())
    for word in ("POSIX", "best", "msharefs", "LOSES"):
        assert word in shown


def test_a_table_with_many_columns_is_turned_for_a_page() -> None:
    columns = tuple(Column(f"c{number}", f"way {number}") for number in range(12))
    cells = {column.name: Cell((number + 1.0,)) for number, column in enumerate(columns)}
    rows = tuple(
        Row(f"r{number}", f"measure {number}", Unit.COUNT, cells=cells) for number in range(9)
    )
    lines = markdown(Table("table", "T", columns, rows)).splitlines()
    assert lines[0] == "|  | measure 0 | measure 1 | measure 2 | measure 3 | measure 4 |"
    assert lines.count("| way 11 | 12 | 12 | 12 | 12 |") == 1
    assert lines.count("| way 11 | 12 | 12 | 12 | 12 | 12 |") == 1


def a_run() -> Run:
    """Every table that is drawn, with figures in each cell."""
    tables = [
        _filled("memory", memory.rows(WHOLE), (*WAYS, MSHARE), OURS, USUAL),
        _filled("control", _control_rows(), control.COLUMNS, control.OURS, control.PYTHON),
        _filled(
            "numpy", (Row("job", "a job", Unit.SECONDS),), arrays.COLUMNS, "msharefs", "pickled"
        ),
        _filled(
            "postgres",
            (Row("tps-100", "q, 100", Unit.COUNT),),
            postgres.COLUMNS,
            "msharefs",
            "default",
        ),
    ]
    counts = (*(Column(str(10**n), str(10**n)) for n in range(1, 4)), growth.FITTED)
    lines = (Row("one", "time", Unit.SECONDS), Row("memory", "memory", Unit.BYTES))
    tables += [
        _filled(f"growth-{name}", lines, counts, "", "")
        for name in ("regions", "mappings", "processes")
    ]
    return Run(MACHINE, tuple(tables))


def _control_rows() -> tuple[Row, ...]:
    return tuple(
        Row(f"{name}-{clients}-{percentile}", f"{name}, x, {percentile}", Unit.SECONDS)
        for name in control.OPERATIONS
        for clients in (1, control.CROWD)
        for percentile in control.PERCENTILES
    )


def _filled(
    name: str, rows: tuple[Row, ...], columns: tuple[Column, ...], ours: str, usual: str
) -> Table:
    cells = {column.name: Cell((number + 1.0,)) for number, column in enumerate(columns)}
    if "fitted" in cells:
        cells["fitted"] = Cell(words="0.50")
    lines = tuple(Row(row.name, row.measure, row.unit, row.better, cells) for row in rows)
    return Table(name, f"Growth with the number of {name}", columns, lines, ours, usual)


def test_a_run_is_the_same_after_json(tmp_path: Path) -> None:
    write(tmp_path / "run.json", a_run())
    assert read(tmp_path / "run.json") == a_run()


def test_a_file_that_is_no_run_is_said_to_be_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text('{"version": 1, "rows": []}')
    with pytest.raises(SystemExit) as ended:
        read(tmp_path / "other.json")
    assert ended.value.code == 2
    assert "is of version 1" in capsys.readouterr().err


def test_the_pages_get_the_tables_and_the_machine_between_their_marks(tmp_path: Path) -> None:
    for name in pages.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((PROJECT / name).read_text())
    pages.fill(tmp_path, a_run())
    page = (tmp_path / "docs/performance.md").read_text()
    assert sentence(a_run()) in page
    for table in a_run().tables:
        assert markdown(table) in page
    short = (tmp_path / "README.md").read_text()
    assert "| POSIX shm | tmpfs huge | msharefs | without root | without root, direct |" in short
    assert "LOSES 11.0 times" in short
    assert sentence(a_run()) in short
    # A second run leaves no trace of the first.
    pages.fill(tmp_path, a_run())
    assert (tmp_path / "docs/performance.md").read_text() == page


def test_a_table_that_was_not_measured_stays_in_the_page(tmp_path: Path) -> None:
    for name in pages.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("<!-- bench: memory -->\nold\n<!-- bench: end -->\n")
    pages.fill(tmp_path, Run(MACHINE, ()))
    assert "old" in (tmp_path / "README.md").read_text()


def test_the_goals_say_by_themselves_of_which_run_they_are(tmp_path: Path) -> None:
    goals = _filled("goals", (Row("stat", "stat", Unit.SECONDS),), COLUMNS, "", "")
    for name in pages.PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("<!-- bench: goals -->\nold\n<!-- bench: end -->\n")
    pages.fill(tmp_path, Run(MACHINE, (goals,)))
    page = (tmp_path / "docs/performance.md").read_text()
    assert f"{markdown(goals)}\n\n{sentence(Run(MACHINE, ()))}\n" in page
    # A run without them leaves theirs.
    pages.fill(tmp_path, Run(MACHINE | {"effort": "another"}, ()))
    assert (tmp_path / "docs/performance.md").read_text() == page


def test_every_picture_of_the_page_is_drawn(tmp_path: Path) -> None:
    plots.draw(tmp_path, a_run(), [plots.DARK])
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}-dark.svg" for name in plots.PICTURES
    }
    for path in tmp_path.iterdir():
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert plots.DARK.ground in path.read_text()


def test_the_page_shows_every_picture_for_light_and_for_dark() -> None:
    page = (PROJECT / "docs/performance.md").read_text()
    shown = set(re.findall(r"_static/bench/([a-z-]+\.svg)", page))
    wanted = {f"{name}-{paper}.svg" for name in plots.PICTURES for paper in ("light", "dark")}
    assert shown == wanted
    assert wanted == {path.name for path in (PROJECT / "docs/_static/bench").iterdir()}


def test_the_page_has_a_place_for_every_table_of_the_bench() -> None:
    page = (PROJECT / "docs/performance.md").read_text()
    marked = set(re.findall(r"<!-- bench: ([a-z-]+) -->", page)) - {"end", "machine"}
    assert {name.partition("-")[0] for name in marked} == {*TABLES, "left"}


def test_the_quick_run_does_all_that_the_whole_does() -> None:
    assert {row.measure.split(",")[0] for row in memory.rows(QUICK)} == {
        row.measure.replace("4 GiB", "512 MiB").replace("1 GiB", "256 MiB").split(",")[0]
        for row in memory.rows(WHOLE)
        if "800" not in row.measure
    }
