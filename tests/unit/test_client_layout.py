"""Reading a layout: one part or many, while it changes, and when it is no layout at all."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs import Creator, Layout, MappedFile, Mapping, MshareError
from msharefs.client.layout import mappings_within, read_layout

NAME = "user.msharefs.layout"
PAGE = 4096


def document(
    mappings: list[Mapping],
    *,
    following: int | None = None,
    maps: int = 7,
    count: int | None = None,
) -> bytes:
    """One part as the mount writes it."""
    value: dict[str, Any] = {
        "version": 1,
        "size": 1 << 30,
        "mapped": 5 * PAGE,
        "reserved": 4 * PAGE,
        "mapping_count": len(mappings) if count is None else count,
        "mappings": [
            {
                "offset": m.offset,
                "size": m.size,
                "prot": m.prot,
                "reserve": m.reserve,
                "huge": m.huge,
            }
            for m in mappings
        ],
        "next": following,
        "creator": {"pid": 41, "uid": 42, "gid": 43},
        "open_handles": 2,
        "counters": {"maps": maps, "unmaps": 3},
    }
    return json.dumps(value).encode()


def at(page: int, *, pages: int = 1, prot: str = "rw-") -> Mapping:
    """A mapping of whole pages."""
    return Mapping(page * PAGE, pages * PAGE, prot, reserve=True, huge=False)


class Mount:
    """Answers attribute reads from a list of (name, value) that must be asked in this order."""

    def __init__(self, *answers: tuple[str, bytes]) -> None:
        self.answers = list(answers)

    def read(self, name: str) -> bytes:
        expected, value = self.answers.pop(0)
        assert name == expected
        return value


def test_layout_in_one_part() -> None:
    """Every fact of the JSON is in the Layout."""
    noreserve = Mapping(PAGE * 8, PAGE, "r--", reserve=False, huge=True)
    mount = Mount((NAME, document([at(0), noreserve])))
    assert read_layout(mount.read) == Layout(
        size=1 << 30,
        mapped=5 * PAGE,
        reserved=4 * PAGE,
        mappings=(at(0), noreserve),
        creator=Creator(pid=41, uid=42, gid=43),
        open_handles=2,
        maps=7,
        unmaps=3,
    )


def test_a_mapping_of_a_file() -> None:
    """With all that is told of it; what a later version tells besides is passed over."""
    text = json.loads(document([at(0), at(2)]))
    file = {"path": "/tmp/f\udcff", "device": 1, "inode": 2, "offset": PAGE, "uid": 3}
    text["mappings"][1]["file"] = file | {"colour": "blue"}
    mappings = read_layout(Mount((NAME, json.dumps(text).encode())).read).mappings
    assert mappings[0].file is None
    assert mappings[1].file == MappedFile("/tmp/f\udcff", 1, 2, PAGE, 3)


def test_layout_in_several_parts() -> None:
    """The parts are read one after the other where "next" says, and joined."""
    mount = Mount(
        (NAME, document([at(0), at(2)], following=4 * PAGE, count=4)),
        (f"{NAME}.{4 * PAGE}", document([at(4)], following=6 * PAGE, count=4)),
        (f"{NAME}.{6 * PAGE}", document([at(6)], count=4)),
    )
    assert read_layout(mount.read).mappings == (at(0), at(2), at(4), at(6))
    assert mount.answers == []


def test_layout_that_changes_between_parts_is_read_again() -> None:
    """Parts of two moments are never joined: the reading starts over."""
    mount = Mount(
        (NAME, document([at(0)], following=2 * PAGE, count=2, maps=7)),
        (f"{NAME}.{2 * PAGE}", document([at(3)], count=2, maps=8)),
        (NAME, document([at(1)], following=3 * PAGE, count=2, maps=8)),
        (f"{NAME}.{3 * PAGE}", document([at(3)], count=2, maps=8)),
    )
    layout = read_layout(mount.read)
    assert (layout.mappings, layout.maps) == ((at(1), at(3)), 8)


def test_layout_that_never_stands_still_is_given_up() -> None:
    """A layout that changes at every read ends in EAGAIN, not in a wrong answer or for ever."""
    changes = 0

    def read(name: str) -> bytes:
        nonlocal changes
        changes += 1
        following = 2 * PAGE if name == NAME else None
        return document([at(changes)], following=following, count=2, maps=changes)

    with pytest.raises(MshareError) as caught:
        read_layout(read)
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        document([]).replace(b'"version": 1', b'"version": 2'),
        document([]).replace(b'"next"', b'"onward"'),
        document([at(0)]).replace(b'"prot"', b'"rights"'),
    ],
)
def test_answer_that_is_no_layout(text: bytes) -> None:
    """What cannot be understood, a later version too, is EPROTO."""
    with pytest.raises(MshareError) as caught:
        read_layout(lambda _: text)
    assert caught.value.errno == errno.EPROTO


def test_continuation_that_goes_back_is_refused() -> None:
    """A mount that names the same continuation for ever does not hang its client."""
    with pytest.raises(MshareError) as caught:
        read_layout(lambda _: document([at(0)], following=PAGE, count=2))
    assert caught.value.errno == errno.EPROTO


def test_window_reads_no_further_than_it_reaches() -> None:
    """Only mappings that share a byte with the window come, and later parts are not fetched."""
    part = document([at(0, pages=2), at(2, pages=2), at(5), at(6)], following=9 * PAGE)
    mount = Mount((f"{NAME}.{3 * PAGE}", part), (f"{NAME}.{2 * PAGE}", part))
    assert list(mappings_within(mount.read, 3 * PAGE, 6 * PAGE)) == [at(2, pages=2), at(5)]
    assert list(mappings_within(mount.read, 2 * PAGE, 5 * PAGE)) == [at(2, pages=2)]
    assert mount.answers == []


@given(
    pages=st.lists(st.integers(0, 10_000), unique=True).map(sorted),
    cut=st.integers(1, 7),
)
def test_any_cut_gives_the_same_mappings(pages: list[int], cut: int) -> None:
    """However a mount cuts a layout, the mappings that come out are the same."""
    mappings = [at(page) for page in pages]

    def read(name: str) -> bytes:
        start = int(name.removeprefix(NAME).removeprefix(".") or 0)
        rest = [m for m in mappings if m.end > start]
        following = rest[cut].offset if len(rest) > cut else None
        return document(rest[:cut], following=following, count=len(mappings))

    assert list(read_layout(read).mappings) == mappings
