"""The address range of a region, drawn as one line of characters.

Owns which character and colour stands for what. It knows mappings and widths, and no terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from msharefs.client.layout import Mapping

_LEVELS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587"
_ASCII_PART = "+"


class Kind(Enum):
    """What a byte of a region may be: what it says, its character, in ASCII, its colour."""

    MEMORY = ("memory", "\u2588", "#", "green")
    HUGE = ("2 MiB pages", "\u2593", "H", "magenta")
    FILE = ("bytes of a file", "\u2591", "F", "blue")
    LATER = ("memory at first touch", "\u2592", "~", "yellow")
    HOLE = ("hole", "\u00b7", ".", "dim")

    def __init__(self, label: str, block: str, plain: str, style: str) -> None:
        self.label = label
        self.block = block
        self.plain = plain
        self.style = style


@dataclass(frozen=True, slots=True)
class Cell:
    """One character of the drawing."""

    kind: Kind
    eighths: int
    """How much of its range is mapped, 1 to 8; 0 is a hole."""

    def drawn(self, *, unicode: bool) -> str:
        """The character that stands for it."""
        if self.eighths in {0, 8}:
            return self.kind.block if unicode else self.kind.plain
        return _LEVELS[self.eighths - 1] if unicode else _ASCII_PART


def kind_of(mapping: Mapping) -> Kind:
    """What a mapping is made of."""
    if mapping.file is not None:
        return Kind.FILE
    if not mapping.reserve:
        return Kind.LATER
    return Kind.HUGE if mapping.huge else Kind.MEMORY


def cells(mappings: Iterable[Mapping], size: int, width: int) -> list[Cell]:
    """The region in `width` parts as equal as can be, or fewer if it has fewer bytes."""
    width = min(width, size)
    bounds = [size * number // width for number in range(width + 1)] if width else [0]
    covered: list[dict[Kind, int]] = [{} for _ in range(width)]
    for mapping in mappings:
        cell = _cell_of(mapping.offset, size, width)
        while cell < width and bounds[cell] < mapping.end:
            shared = min(bounds[cell + 1], mapping.end) - max(bounds[cell], mapping.offset)
            kinds = covered[cell]
            kinds[kind_of(mapping)] = kinds.get(kind_of(mapping), 0) + shared
            cell += 1
    return [
        _cell(kinds, length=bounds[number + 1] - bounds[number])
        for number, kinds in enumerate(covered)
    ]


def runs(row: Sequence[Cell], *, unicode: bool) -> list[tuple[str, str]]:
    """The characters and their colours, as few parts as possible."""
    parts: list[tuple[str, str]] = []
    for cell in row:
        character, style = cell.drawn(unicode=unicode), cell.kind.style
        if parts and parts[-1][1] == style:
            parts[-1] = (parts[-1][0] + character, style)
        else:
            parts.append((character, style))
    return parts


def legend(row: Sequence[Cell], *, unicode: bool) -> list[tuple[str, str]]:
    """What the characters in a drawing mean, those alone that are in it."""
    parts: list[tuple[str, str]] = []
    for kind in Kind:
        whole = Cell(kind, 0 if kind is Kind.HOLE else 8)
        if any(cell.kind is kind for cell in row):
            parts += [(whole.drawn(unicode=unicode), kind.style), (f" {kind.label}   ", "")]
    for cell in row:
        if 0 < cell.eighths < 8:
            return [*parts, (f"{cell.drawn(unicode=unicode)} in part", "")]
    return parts


def _cell_of(offset: int, size: int, width: int) -> int:
    """The cell whose range holds the byte: the last whose bound is not beyond it."""
    cell = offset * width // size
    return cell + 1 if size * (cell + 1) // width <= offset else cell


def _cell(kinds: dict[Kind, int], *, length: int) -> Cell:
    """What there is most of gives the colour. Any byte shows, and only the whole looks whole."""
    mapped = sum(kinds.values())
    if not mapped:
        return Cell(Kind.HOLE, 0)
    kind = max(kinds, key=lambda each: kinds[each])
    return Cell(kind, 8 if mapped >= length else min(max(8 * mapped // length, 1), 7))
