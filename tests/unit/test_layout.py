"""Layout against the simplest thing that could be right: a dict of pages.

The model knows for each page which insertion it came from; mappings are the runs of
pages of one insertion. Nothing of layout.py is used in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs.core.layout import Layout, MappedFile, Mapping, Range

PAGE = 4096
PAGES = 24


@dataclass(frozen=True, slots=True)
class Insertion:
    """Pages `first` to `last` (exclusive) were mapped so; each is itself and no other."""

    serial: int
    first: int
    last: int
    prot: int
    reserve: bool
    huge: bool

    def cut(self, first: int, last: int) -> Mapping:
        """The mapping that its pages `first` to `last` should be."""
        return Mapping(first * PAGE, last * PAGE, self.prot, self.reserve, self.huge)


class PageModel:
    """Which insertion each page belongs to."""

    def __init__(self) -> None:
        self.pages: dict[int, Insertion] = {}

    def insert(self, new: Insertion) -> None:
        """Page by page."""
        for page in range(new.first, new.last):
            self.pages[page] = new

    def remove(self, first: int, last: int) -> None:
        """Page by page."""
        for page in range(first, last):
            self.pages.pop(page, None)

    def runs(
        self, first: int = 0, last: int = PAGES
    ) -> Iterator[tuple[Insertion | None, int, int]]:
        """The pages from `first` to `last` as runs of one insertion, or of none."""
        start = first
        for page in range(first, last + 1):
            ends = page == last or self.pages.get(page) is not self.pages.get(start)
            if ends and page > start:
                yield self.pages.get(start), start, page
                start = page

    def mappings(self, first: int = 0, last: int = PAGES) -> list[Mapping]:
        """What is mapped there, cut to the range."""
        return [run.cut(low, high) for run, low, high in self.runs(first, last) if run]

    def gaps(self, first: int, last: int) -> list[Range]:
        """Where nothing is mapped."""
        return [Range(a * PAGE, b * PAGE) for run, a, b in self.runs(first, last) if not run]

    def overlapping(self, first: int, last: int) -> list[Mapping]:
        """Whole runs that share a page with the range."""
        return [
            run.cut(low, high)
            for run, low, high in self.runs()
            if run and low < last and high > first
        ]


@st.composite
def ranges(draw: st.DrawFn) -> tuple[int, int]:
    """A range of pages that is not empty."""
    first = draw(st.integers(0, PAGES - 1))
    return first, draw(st.integers(first + 1, PAGES))


changes = st.tuples(
    ranges(), st.sampled_from(["insert", "remove"]), st.integers(0, 7), st.booleans(), st.booleans()
)


def filled(steps: list[tuple[tuple[int, int], str, int, bool, bool]]) -> tuple[Layout, PageModel]:
    """A layout and its model after the same changes."""
    layout, model = Layout(), PageModel()
    for serial, ((first, last), what, prot, reserve, huge) in enumerate(steps):
        if what == "insert":
            new = Insertion(serial, first, last, prot, reserve, huge)
            layout.insert(new.cut(first, last))
            model.insert(new)
        else:
            layout.remove(first * PAGE, last * PAGE)
            model.remove(first, last)
    return layout, model


@given(st.lists(changes, max_size=12))
def test_layout_is_the_runs_of_pages(
    steps: list[tuple[tuple[int, int], str, int, bool, bool]],
) -> None:
    """After any changes: the same mappings in order, and the sums of their bytes."""
    layout, model = filled(steps)
    expected = model.mappings()
    assert list(layout) == expected
    assert len(layout) == len(expected)
    assert layout.mapped == sum(m.size for m in expected)
    assert layout.reserved == sum(m.size for m in expected if m.reserve)


@given(st.lists(changes, max_size=10), ranges())
def test_questions_about_a_range(
    steps: list[tuple[tuple[int, int], str, int, bool, bool]], window: tuple[int, int]
) -> None:
    """What overlaps it, what is in it, where its gaps are, what comes from its start on."""
    layout, model = filled(steps)
    first, last = window
    start, end = first * PAGE, last * PAGE
    assert layout.overlapping(start, end) == model.overlapping(first, last)
    assert layout.clipped(start, end) == model.mappings(first, last)
    assert list(layout.gaps(start, end)) == model.gaps(first, last)
    assert list(layout.from_offset(start)) == model.overlapping(first, PAGES)


@given(st.lists(changes, max_size=10), ranges())
def test_growth_foretells_the_count(
    steps: list[tuple[tuple[int, int], str, int, bool, bool]], window: tuple[int, int]
) -> None:
    """How many mappings an insertion or a removal will add is known before it happens."""
    layout, _model = filled(steps)
    start, end = window[0] * PAGE, window[1] * PAGE
    for added in (0, 1):
        changed, _ = filled(steps)
        if added:
            changed.insert(Mapping(start, end, 3))
        else:
            changed.remove(start, end)
        assert len(layout) + layout.cut(start, end).growth(added=added) == len(changed)


@given(st.lists(changes, max_size=10), ranges(), st.booleans())
def test_filling_leaves_no_hole(
    steps: list[tuple[tuple[int, int], str, int, bool, bool]],
    window: tuple[int, int],
    reserve: bool,
) -> None:
    """What was mapped stays as it was, but for being reserved; the rest gets what was asked for. What
    has to be done is told beforehand."""
    layout, model = filled(steps)
    first, last = window
    fill = layout.fill(first * PAGE, last * PAGE, 3, reserve=reserve)
    assert fill.fresh == model.gaps(first, last)
    late = [m for m in model.mappings(first, last) if reserve and not m.reserve]
    assert fill.late == [Range(m.start, m.end) for m in late]
    expected = {}
    for page in range(PAGES):
        run = model.pages.get(page)
        inside = first <= page < last
        if run or inside:
            kind = (run.prot, run.reserve, run.huge) if run else (3, reserve, False)
            expected[page] = (kind[0], kind[1] or (inside and reserve), kind[2])
    layout.apply(fill.cut, fill.mappings)
    pages = {
        page: (m.prot, m.reserve, m.huge)
        for m in layout
        for page in range(m.start // PAGE, m.end // PAGE)
    }
    assert pages == expected
    assert layout.mapped == len(expected) * PAGE
    assert layout.reserved == PAGE * sum(reserved for _, reserved, _ in expected.values())
    for one, other in itertools.pairwise(fill.mappings):
        assert one.end < other.start or one[2:] != other[2:]


def test_filling_nothing_changes_nothing() -> None:
    """An empty range, beside mappings that could be one."""
    layout = Layout()
    layout.insert(Mapping(0, PAGE, 3))
    layout.insert(Mapping(PAGE, 2 * PAGE, 3))
    fill = layout.fill(PAGE, PAGE, 3, reserve=True)
    assert (fill.cut.old, fill.mappings, fill.fresh, fill.late) == ([], [], [], [])


def test_what_grows_piece_by_piece_stays_one() -> None:
    """The count of mappings is limited."""
    layout = Layout()
    for page in (0, 1, 3, 2):
        fill = layout.fill(page * PAGE, (page + 1) * PAGE, 3, reserve=True)
        layout.apply(fill.cut, fill.mappings)
    assert list(layout) == [Mapping(0, 4 * PAGE, 3)]


def test_neighbours_are_not_merged() -> None:
    """Two mappings side by side stay two, so that a listing shows what was asked for."""
    layout = Layout()
    layout.insert(Mapping(0, PAGE, 3))
    layout.insert(Mapping(PAGE, 2 * PAGE, 3))
    assert list(layout) == [Mapping(0, PAGE, 3), Mapping(PAGE, 2 * PAGE, 3)]


def test_a_removal_inside_splits_a_mapping() -> None:
    """Both parts keep protection and kind."""
    layout = Layout()
    layout.insert(Mapping(0, 5 * PAGE, 1, reserve=False, huge=True))
    layout.remove(2 * PAGE, 3 * PAGE)
    assert list(layout) == [
        Mapping(0, 2 * PAGE, 1, reserve=False, huge=True),
        Mapping(3 * PAGE, 5 * PAGE, 1, reserve=False, huge=True),
    ]


def test_the_same_range_again_replaces() -> None:
    """One mapping, the newer one."""
    layout = Layout()
    layout.insert(Mapping(0, PAGE, 1))
    layout.insert(Mapping(0, PAGE, 3, reserve=False))
    assert list(layout) == [Mapping(0, PAGE, 3, reserve=False)]
    assert (layout.mapped, layout.reserved) == (PAGE, 0)


def test_touching_ranges_do_not_overlap() -> None:
    """The end is exclusive."""
    layout = Layout()
    layout.insert(Mapping(PAGE, 2 * PAGE, 3))
    assert layout.overlapping(0, PAGE) == []
    assert layout.overlapping(2 * PAGE, 3 * PAGE) == []
    assert list(layout.from_offset(2 * PAGE)) == []


def test_offsets_near_the_end_of_64_bits() -> None:
    """Python's integers do not wrap; nor do the sums."""
    layout = Layout()
    end = (1 << 63) - PAGE
    layout.insert(Mapping(0, end, 3))
    layout.remove(PAGE, end - PAGE)
    assert list(layout) == [Mapping(0, PAGE, 3), Mapping(end - PAGE, end, 3)]
    assert layout.mapped == 2 * PAGE


@pytest.mark.parametrize(
    ("prot", "text"),
    [
        (0, "---"),
        (1, "r--"),
        (2, "-w-"),
        (3, "rw-"),
        (4, "--x"),
        (5, "r-x"),
        (6, "-wx"),
        (7, "rwx"),
    ],
)
def test_protection_as_in_proc_maps(prot: int, text: str) -> None:
    """Each bit has its letter and its place."""
    assert Mapping(0, PAGE, prot).prot_text == text


def test_sizes() -> None:
    """End minus start."""
    assert Mapping(PAGE, 4 * PAGE, 3).size == 3 * PAGE
    assert Range(PAGE, 4 * PAGE).size == 3 * PAGE


def test_filling_leaves_mappings_of_files_apart() -> None:
    """A file that is mapped twice, side by side, begins twice."""
    file = MappedFile(1, 2, 0, 3, "/tmp/file")
    layout = Layout()
    twice = [Mapping(0, PAGE, 3, file=file), Mapping(PAGE, 2 * PAGE, 3, file=file)]
    for mapping in twice:
        layout.append(mapping)
    fill = layout.fill(0, 4 * PAGE, 3, reserve=True)
    assert fill.mappings == [*twice, Mapping(2 * PAGE, 4 * PAGE, 3)]
    layout.apply(fill.cut, fill.mappings)
    assert (layout.files, list(layout)) == (2, fill.mappings)
