"""The terminal: tables, bars, things that take a while, and screens that renew themselves.

Owns when there is colour, how wide a line may be, and what is drawn with when the terminal
knows no Unicode. What is shown is the commands' business. rich is imported only when something
is drawn, because half of the commands print nothing.
"""

from __future__ import annotations

import itertools
import os
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from msharefs import notation

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

PATIENCE = 1.0
"""Seconds after which a command says what it is doing."""
_PIPE_WIDTH = 100_000
"""Into a pipe nothing is cut."""
_GAP = 2
"""Between two columns of a table."""
_READABLE = 20
"""What words that may be cut or go on in the next line are given before other columns."""
_BAR_WIDTH = 80
"""How wide a drawing is where there is no terminal to fill."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False
    flexible: bool = False
    """Whether it may be cut to make the table fit."""
    folds: bool = False
    """Whether it takes more lines instead, and is never cut."""
    rank: int = 0
    """Where a terminal is too narrow for all, those of the highest rank are left out first; 0
    always stays."""
    style: str = ""


@cache
def console(*, stderr: bool = False) -> Console:
    """The console on stdout or stderr. rich itself heeds NO_COLOR, TERM and FORCE_COLOR."""
    from rich.console import Console  # noqa: PLC0415 - see above

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
        width=None if stream.isatty() else _pipe_width(),
    )


def is_live() -> bool:
    """Whether stdout is a terminal on which lines can be drawn over."""
    return console().is_terminal and not console().is_dumb_terminal


def has_unicode() -> bool:
    """Whether blocks can be drawn with more than ASCII."""
    return console().encoding.lower().startswith("utf")


def drawing_width() -> int:
    """How many characters wide a drawing may be."""
    return min(console().width, _BAR_WIDTH) if not is_live() else console().width


def show(*parts: RenderableType) -> None:
    """Print to stdout. Piped, no line ends in blanks."""
    screen = console()
    if screen.is_terminal:
        for part in parts:
            screen.print(part)
        return
    with screen.capture() as captured:
        for part in parts:
            screen.print(part)
    for line in captured.get().splitlines():
        print(line.rstrip())


def note(sentence: str) -> None:
    """A remark on stderr, so that what is on stdout stays a table. It comes after that table
    also where both go into one pipe."""
    sys.stdout.flush()
    console(stderr=True).print(text(sentence, "dim"), soft_wrap=True)


def text(words: str, style: str = "") -> Text:
    """Words as they are, with a style."""
    from rich.text import Text  # noqa: PLC0415 - see above

    return Text(words, style=style)


def line(*parts: str | Text | tuple[str, str]) -> Text:
    """One line of words and (words, style), cut where the terminal ends."""
    from rich.text import Text  # noqa: PLC0415 - see above

    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def table(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]]) -> Table:
    """A table without lines. A flexible column's cells are cut if it would be too wide."""
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415 - see above

    made = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    columns, rows = _fitting(columns, list(rows), console().width)
    for column in columns:
        made.add_column(
            Text(column.title),
            justify="right" if column.right else "left",
            no_wrap=not (column.flexible or column.folds),
            overflow="fold" if column.folds else "ellipsis",
            style=column.style,
            min_width=min(len(column.title), 8) if column.flexible or column.folds else None,
        )
    for row in rows:
        made.add_row(*(_cell(value, column) for value, column in zip(row, columns, strict=True)))
    return made


def gauge(part: int, whole: int, width: int, style: str = "green") -> Text:
    """A bar that is filled as far as `part` is of `whole`."""
    full, empty = ("\u2588", "\u2591") if has_unicode() else ("#", ".")
    filled = 0 if whole <= 0 else min(width, -(-part * width // whole))
    return line((full * filled, style), (empty * (width - filled), "dim"))


@contextmanager
def working(what: str) -> Iterator[None]:
    """While something takes more than a moment, say on a terminal's stderr what it is."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()

    def speak() -> None:
        if not ended.wait(PATIENCE):
            with console(stderr=True).status(text(what)):
                ended.wait()

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        ended.set()
        speaker.join()


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal's stderr; call what is yielded with each number of bytes."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    bar = _progress()
    with bar:
        task = bar.add_task(what, total=total)

        def advance(count: int) -> None:
            bar.update(task, advance=count)

        yield advance


def repeat(frame: Callable[[], RenderableType], interval: float, count: int | None = None) -> None:
    """Show `frame()` every so many seconds until q or Ctrl-C, on a terminal over the last one.

    Into a pipe the frames follow one another, a blank line between them.
    """
    try:
        if is_live():
            _repeat_live(frame, interval, _numbers(count))
        else:
            _repeat_plain(frame, interval, _numbers(count))
    except KeyboardInterrupt:
        return


def repeat_lines(give: Callable[[], str], interval: float, count: int | None = None) -> None:
    """Print `give()`, one line, every so many seconds until Ctrl-C: for programs that read on."""
    pause = threading.Event()
    try:
        for number in _numbers(count):
            if number:
                pause.wait(interval)
            print(give(), flush=True)
    except KeyboardInterrupt:
        return


def _numbers(count: int | None) -> Iterator[int]:
    return iter(range(count)) if count is not None else itertools.count()


def _repeat_live(
    frame: Callable[[], RenderableType], interval: float, numbers: Iterator[int]
) -> None:
    from rich.live import Live  # noqa: PLC0415 - see above

    with _keys() as keys:
        # An alternate screen, so that what was on the terminal before comes back; what does not
        # fit on it is cut.
        with Live(console=console(), screen=True, auto_refresh=False) as live:
            for _ in numbers:
                live.update(frame(), refresh=True)
                if keys.quits_within(interval):
                    return


def _repeat_plain(
    frame: Callable[[], RenderableType], interval: float, numbers: Iterator[int]
) -> None:
    pause = threading.Event()
    for number in numbers:
        if number:
            pause.wait(interval)
            show("")
        show(frame())
        sys.stdout.flush()


class _Keys:
    """The keyboard, while a screen renews itself."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def quits_within(self, seconds: float) -> bool:
        """Wait; true at once for q or Escape, false at once for another key."""
        if self._fd is None:
            threading.Event().wait(seconds)
            return False
        if not select.select([self._fd], [], [], seconds)[0]:
            return False
        return os.read(self._fd, 64)[:1] in {b"q", b"Q", b"\x1b", b""}


@contextmanager
def _keys() -> Iterator[_Keys]:
    """Single keys from the terminal, without echo; the terminal is put back at the end."""
    if not sys.stdin.isatty():
        yield _Keys(None)
        return
    import termios  # noqa: PLC0415 - only here
    import tty  # noqa: PLC0415 - only here

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield _Keys(fd)
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _progress() -> Progress:
    from rich.progress import (  # noqa: PLC0415 - see above
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )

    class Speed(ProgressColumn):
        """Bytes per second, in the units of everything else; rich's own counts in thousands."""

        def render(self, task: Task) -> Text:
            return text("" if task.speed is None else f"{notation.size(int(task.speed))}/s")

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        Speed(),
        TimeRemainingColumn(),
        console=console(stderr=True),
        transient=True,
    )


def _cell(value: str | Text, column: Column) -> Text:
    from rich.text import Text  # noqa: PLC0415 - see above

    cell = Text(value) if isinstance(value, str) else value
    cell.no_wrap = not column.folds
    # Not "ignore": rich does not justify what it ignores.
    cell.overflow = "fold" if column.folds else "ellipsis" if column.flexible else "crop"
    return cell


def _fitting(
    columns: Sequence[Column], rows: list[Sequence[str | Text]], width: int
) -> tuple[list[Column], list[list[str | Text]]]:
    """The columns for which there is room, and the rows without the others. A number that is cut
    is worse than one that is not there."""
    needs = [
        _need(column, [row[index] for row in rows]) + _GAP for index, column in enumerate(columns)
    ]
    # The last column has no gap behind it.
    kept = list(range(len(columns)))
    while sum(needs[index] for index in kept) - _GAP > width:
        least = max(kept, key=lambda index: (columns[index].rank, index))
        if columns[least].rank == 0:
            break
        kept.remove(least)
    return [columns[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _need(column: Column, cells: Iterable[str | Text]) -> int:
    """How wide a column is, or may become so that its cells can be read."""
    widest = max((cell_width(cell) for cell in cells), default=0)
    if column.flexible or column.folds:
        widest = min(widest, _READABLE)
    return max(widest, len(column.title))


def cell_width(cell: str | Text) -> int:
    """In columns of the terminal."""
    from rich.cells import cell_len  # noqa: PLC0415 - see above

    return cell_len(cell if isinstance(cell, str) else cell.plain)


def _pipe_width() -> int:
    """Without a terminal: what COLUMNS says, else as wide as it takes."""
    given = os.environ.get("COLUMNS", "")
    return int(given) if given.isascii() and given.isdigit() and int(given) else _PIPE_WIDTH
