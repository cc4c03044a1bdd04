"""The drawn address range of a region."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from msharefs import MappedFile, Mapping
from msharefs.cli import drawing

GIB = 1 << 30


def mapping(offset: int, size: int, *, reserve: bool = True, huge: bool = False) -> Mapping:
    """A mapping for reading and writing."""
    return Mapping(offset, size, "rw-", reserve=reserve, huge=huge)


def text(mappings: list[Mapping], size: int, width: int, *, unicode: bool = False) -> str:
    """The drawing without its colours."""
    row = drawing.cells(mappings, size, width)
    return "".join(part for part, _ in drawing.runs(row, unicode=unicode))


def test_an_empty_region_is_all_hole() -> None:
    """Every character says so."""
    assert text([], GIB, 10) == ".........."


def test_kinds_have_characters_of_their_own() -> None:
    """Memory, huge pages, memory at first touch and holes differ without colour, too."""
    mappings = [
        mapping(0, 2048),
        mapping(2048, 2048, huge=True),
        mapping(4096, 2048, reserve=False),
    ]
    assert text(mappings, 8192, 8) == "##HH~~.."
    assert (
        text(mappings, 8192, 8, unicode=True) == "\u2588\u2588\u2593\u2593\u2592\u2592\u00b7\u00b7"
    )


def test_bytes_of_a_file_are_drawn_as_such() -> None:
    """In a character of their own, and in the legend."""
    file = MappedFile("/tmp/file", 1, 2, 0, 0)
    row = drawing.cells([replace(mapping(0, 4096), file=file)], 8192, 2)
    assert "".join(part for part, _ in drawing.runs(row, unicode=False)) == "F."
    assert "bytes of a file" in "".join(part for part, _ in drawing.legend(row, unicode=False))


def test_a_single_page_of_a_huge_region_shows() -> None:
    """What is mapped in part is drawn as a part, however small it is."""
    assert text([mapping(300 * GIB, 4096)], 512 * GIB, 8) == "....+..."
    assert text([mapping(300 * GIB, 4096)], 512 * GIB, 8, unicode=True)[4] == "\u2581"


def test_a_missing_page_shows() -> None:
    """A cell is drawn whole only if no byte of it is a hole."""
    assert text([mapping(0, GIB - 4096)], GIB, 4) == "###+"


def test_the_legend_names_what_is_drawn_and_no_more() -> None:
    """No word about huge pages where there are none."""
    row = drawing.cells([mapping(0, GIB)], 2 * GIB, 10)
    words = "".join(part for part, _ in drawing.legend(row, unicode=False))
    assert "memory" in words
    assert "hole" in words
    assert "2 MiB" not in words
    assert "part" not in words


@st.composite
def layouts(draw: st.DrawFn) -> tuple[int, list[Mapping]]:
    """A size in bytes and mappings that do not overlap, in order."""
    size = draw(st.integers(1, 1 << 45))
    bounds = sorted(draw(st.lists(st.integers(0, size), unique=True, max_size=12)))
    pairs = list(zip(bounds[::2], bounds[1::2], strict=False))
    return size, [mapping(start, end - start) for start, end in pairs]


@given(layouts(), st.integers(1, 200))
def test_each_cell_tells_whether_its_range_is_a_hole_whole_or_in_between(
    layout: tuple[int, list[Mapping]], width: int
) -> None:
    """Compared with the plain definition, for any layout and width."""
    size, mappings = layout
    cells = drawing.cells(mappings, size, width)
    width = min(width, size)
    assert len(cells) == width
    for number, cell in enumerate(cells):
        start, end = size * number // width, size * (number + 1) // width
        mapped = sum(max(0, min(end, m.end) - max(start, m.offset)) for m in mappings)
        expected = {0: "hole", end - start: "whole"}.get(mapped, "part")
        assert {0: "hole", 8: "whole"}.get(cell.eighths, "part") == expected
