"""A layout as protections of pages: every page of the window has one, and it is the right one."""

from __future__ import annotations

import mmap
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs import Mapping
from msharefs.client.protection import Run, runs

PAGE = mmap.PAGESIZE
NONE, READ, WRITE, EXEC = 0, 1, 2, 4


def mapping(page: int, pages: int, prot: str) -> Mapping:
    """A mapping of whole pages."""
    return Mapping(page * PAGE, pages * PAGE, prot, reserve=True, huge=False)


def run(page: int, pages: int, prot: int) -> Run:
    """A run of whole pages."""
    return Run(page * PAGE, pages * PAGE, prot)


def test_holes_have_no_protection() -> None:
    """Before, between and behind the mappings nothing is allowed."""
    found = runs([mapping(1, 1, "rw-"), mapping(3, 1, "r--")], 0, 5 * PAGE, writable=True)
    assert found == (
        run(0, 1, NONE),
        run(1, 1, READ | WRITE),
        run(2, 1, NONE),
        run(3, 1, READ),
        run(4, 1, NONE),
    )


def test_nothing_mapped_is_one_run() -> None:
    """The whole window is a hole."""
    assert runs([], 7 * PAGE, 3 * PAGE, writable=True) == (run(0, 3, NONE),)


def test_window_cuts_its_mappings() -> None:
    """Offsets count from the window; what reaches out of it is cut off on both sides."""
    assert runs([mapping(0, 10, "rw-")], 4 * PAGE, 2 * PAGE, writable=True) == (run(0, 2, 3),)


def test_last_page_is_whole() -> None:
    """A window that ends inside a page has the protection up to the end of the page."""
    assert runs([mapping(0, 2, "rw-")], 0, PAGE + 1, writable=True) == (run(0, 2, READ | WRITE),)


def test_neighbours_that_are_alike_are_one_run() -> None:
    """A process has only so many areas: those of one protection are joined, no protection too."""
    alike = [mapping(0, 1, "rw-"), mapping(1, 1, "rw-"), mapping(3, 1, "---")]
    assert runs(alike, 0, 5 * PAGE, writable=True) == (run(0, 2, READ | WRITE), run(2, 3, NONE))


@pytest.mark.parametrize(
    ("prot", "writable", "expected"),
    [
        ("---", True, NONE),
        ("r--", True, READ),
        ("-w-", True, WRITE),
        ("rwx", True, READ | WRITE | EXEC),
        ("--x", True, EXEC),
        ("---", False, NONE),
        ("rw-", False, READ),
        ("-w-", False, READ),
        ("rwx", False, READ | EXEC),
        ("r-x", False, READ | EXEC),
    ],
)
def test_protection_of_a_mapping(prot: str, expected: int, *, writable: bool) -> None:
    """It is the mapping's own, less the right to write in a window for reading only."""
    found = runs([mapping(0, 1, prot)], 0, PAGE, writable=writable)
    assert found == (run(0, 1, expected),)


@given(
    pages=st.lists(st.sampled_from(["", "r--", "rw-", "---"]), min_size=1, max_size=12),
    data=st.data(),
)
def test_every_page_has_its_protection(pages: list[str], data: st.DataObject) -> None:
    """Whatever the layout and the window: no gap, no overlap, neighbours differ, pages right."""
    first = data.draw(st.integers(0, len(pages) - 1))
    last = data.draw(st.integers(first + 1, len(pages)))
    layout = [mapping(i, 1, prot) for i, prot in enumerate(pages) if prot and first <= i < last]
    found = runs(layout, first * PAGE, (last - first) * PAGE, writable=True)
    bits = {"": NONE, "---": NONE, "r--": READ, "rw-": READ | WRITE}
    by_page = [each.prot for each in found for _ in range(each.size // PAGE)]
    assert by_page == [bits[prot] for prot in pages[first:last]]
    assert found[0].offset == 0
    for before, behind in pairwise(found):
        assert before.offset + before.size == behind.offset
        assert before.prot != behind.prot
