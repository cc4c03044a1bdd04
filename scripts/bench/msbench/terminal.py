"""Tables as plain text and as Markdown. Knows the frame, not what is measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .frame import Row, Table, beside_best, beside_usual, shown

GAP = 2
WIDE, ROWS_BESIDE = 8, 5
"""A page has room for so many columns; of a table that is turned so many rows stand side by side."""

Lines = list[tuple[str, ...]]


def cells(table: Table) -> Lines:
    """The head, and a line for each row. A table that has ours and a usual way says at the end of
    each row who is better."""
    judged = bool(table.ours)
    head = ["", *(column.head for column in table.columns)]
    if judged:
        head += [f"beside {table.head(table.usual)}", "beside the best other"]
    lines: Lines = [tuple(head)]
    for row in table.rows:
        words = [row.measure]
        words += [shown(row.cell(column.name), row.unit) for column in table.columns]
        if judged:
            words += [beside_usual(table, row) or "-", beside_best(table, row) or "-"]
        lines.append(tuple(words))
    return lines


def below(table: Table) -> Iterator[str]:
    """What is said below a table: its remark, those of the rows, and why figures are missing."""
    if table.remark:
        yield table.remark
    for row in table.rows:
        if row.remark:
            yield f"{row.measure}: {row.remark}"
    for why, places in _reasons(table).items():
        yield f"{', '.join(dict.fromkeys(places))}: {why}"


def _reasons(table: Table) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for row in table.rows:
        for name, cell in row.cells.items():
            if cell.computed:
                place = f"{table.head(name)} (~)"
                reasons.setdefault(cell.computed, []).append(place)
            elif cell.why:
                place = _place(table, row, name)
                reasons.setdefault(cell.why, []).append(place)
    return reasons


def _place(table: Table, row: Row, name: str) -> str:
    """A column that has nothing at all is named once, another with its row."""
    whole = all(other.cells[name].value is None for other in table.rows if name in other.cells)
    return table.head(name) if whole else f"{row.measure}, {table.head(name)}"


def text(table: Table, width: int | None) -> str:
    """The table for a terminal; with a `width` the columns go into as many blocks as they need."""
    lines = cells(table)
    columns = list(zip(*lines, strict=True))
    blocks = _blocks([max(map(len, _wrapped(column))) for column in columns], width)
    out = [f"== {table.title} =="]
    for block in blocks:
        chosen = [columns[0], *(columns[number] for number in block)]
        out += [*_drawn(list(zip(*chosen, strict=True))), ""]
    return "\n".join([*out[:-1], *below(table)])


def _wrapped(column: Sequence[str]) -> list[str]:
    """The words of a head one below the other, then the cells."""
    return [*column[0].split(), *column[1:]]


def _blocks(widths: Sequence[int], width: int | None) -> list[list[int]]:
    """Which columns beside the first go into each block."""
    blocks: list[list[int]] = [[]]
    taken = widths[0]
    for number, wide in enumerate(widths[1:], start=1):
        if width is not None and blocks[-1] and taken + GAP + wide > width:
            blocks.append([])
            taken = widths[0]
        blocks[-1].append(number)
        taken += GAP + wide
    return blocks


def _drawn(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    heads = [cell.split() or [""] for cell in lines[0]]
    deep = max(map(len, heads))
    top = [[""] * (deep - len(words)) + words for words in heads]
    head = [tuple(words[level] for words in top) for level in range(deep)]
    body = [tuple(line) for line in lines[1:]]
    widths = [max(map(len, column)) for column in zip(*head, *body, strict=True)]
    yield from (_line(line, widths) for line in head)
    yield (" " * GAP).join("-" * wide for wide in widths)
    yield from (_line(line, widths) for line in body)


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(line, widths, strict=True)
    words = [first[0].ljust(first[1]), *(cell.rjust(wide) for cell, wide in others)]
    return (" " * GAP).join(words).rstrip()


def markdown(table: Table) -> str:
    """The table for a page, with what is said below it as a list. One with many columns would be cut off by the
    page: it is turned, and its rows go side by side, some at a time."""
    lines = cells(table)
    blocks = [lines]
    if len(table.columns) > WIDE:
        heads, *turned = zip(*lines, strict=True)
        starts = range(1, len(heads), ROWS_BESIDE)
        blocks = [
            [(line[0], *line[start : start + ROWS_BESIDE]) for line in (heads, *turned)]
            for start in starts
        ]
    notes = [f"- {note}" for note in below(table)]
    text = "\n\n".join("\n".join(_grid(block)) for block in blocks)
    return "\n".join([text, *(["", *notes] if notes else [])])


def _grid(lines: Lines) -> Iterator[str]:
    head, *others = lines
    yield _markdown(head)
    yield _markdown(["---"] * len(head))
    yield from map(_markdown, others)


def _markdown(words: Sequence[str]) -> str:
    return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"
