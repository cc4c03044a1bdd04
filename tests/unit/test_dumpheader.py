"""The header of a dump: what was written is read, and nothing that no dump writes."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs import MappedFile, Mapping
from msharefs.inspect import dumpheader
from msharefs.inspect.dumpheader import Header, HeaderError

PAGE = 4096
FACTS: dict[str, Any] = {
    "saved": "2026-11-26T00:00:00Z",
    "name": "r",
    "size": 2 << 20,
    "mode": 0o640,
    "uid": 1000,
    "gid": 1000,
}
FIRST = Mapping(0, PAGE, "rw-", reserve=True, huge=False)
SECOND = Mapping(4 * PAGE, 2 * PAGE, "---", reserve=False, huge=True)
FILE: dict[str, Any] = {
    "path": "/srv/table",
    "device": 2049,
    "inode": 77,
    "offset": 8 * PAGE,
    "uid": 1001,
    "write_back": "failed",
    "unwritten": PAGE,
    "error": "No space left on device",
}


def text(layout: object = None, **facts: Any) -> bytes:
    """A header with some of its facts changed."""
    one = {"offset": 0, "size": PAGE, "prot": "rw-", "reserve": True, "huge": False}
    return json.dumps(FACTS | facts | {"layout": [one] if layout is None else layout}).encode()


def mapping(**changed: Any) -> list[dict[str, Any]]:
    """A layout of one mapping, with some of its facts changed."""
    one = {"offset": 0, "size": PAGE, "prot": "rw-", "reserve": True, "huge": False}
    return [one | changed]


@pytest.mark.parametrize("name", ["r", '"layout": [', "a\n\udcff\u20ac", '\\"layout": []}'])
@pytest.mark.parametrize("mappings", [[], [FIRST], [FIRST, SECOND]])
def test_what_was_written_is_read(name: str, mappings: list[Mapping]) -> None:
    """Also if a region is called like a part of it."""
    written = Header.of(mappings, **FACTS | {"name": name})
    read = Header.parse(written.encode())
    assert read == written
    assert list(read.mappings()) == mappings


@pytest.mark.parametrize(
    "path",
    ["/srv/table", "/a } and {", '"]}', '/"layout": [{}]}, {', "/\udcff\n", "\U0001f600" * 200],
)
def test_the_files_of_mappings_are_named(path: str) -> None:
    """As the layout had them, whatever a name looks like, the longest too; the others are memory."""
    file = MappedFile(**FILE | {"path": path})
    for_reading = MappedFile("/lib", 1, (1 << 64) - 1, 0, 0)
    mappings = [
        replace(FIRST, file=file),
        SECOND,
        replace(FIRST, offset=9 * PAGE, file=for_reading),
    ]
    written = Header.of(mappings, **FACTS)
    read = Header.parse(written.encode())
    assert list(read.mappings()) == mappings
    assert [found for _, found in read.of_files()] == [file, for_reading]


def test_a_name_that_no_load_would_take_is_not_written() -> None:
    """A mount of another version may have longer ones."""
    file = MappedFile("x" * 4096, 1, 2, 0, 0)
    with pytest.raises(HeaderError, match="too long for a dump"):
        Header.of([replace(FIRST, file=file)], **FACTS)


def test_a_dump_of_before_there_were_files() -> None:
    """Says nothing of them."""
    assert list(Header.parse(text()).mappings()) == [FIRST]
    assert list(Header.parse(text(mapping(file=None))).of_files()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{}",
        b"[" * 60_000,
        b'{"a":' * 10_000 + b'"layout": []}',
        b"[" * 60_000 + b'"layout": []}',
        b"\xff\xfe\x00" + text(),
        text().decode().encode("utf-16"),
        text(size=0),
        text(size=-1),
        text(size=True),
        text(size=2.0),
        text(size=float("inf")),
        text(size=float("nan")),
        text(size=1 << 63),
        text(size="4096"),
        text(uid=-1),
        text(uid=(1 << 32) - 1),
        text(gid=1 << 40),
        text(mode=0o10000),
        text(mode=None),
        text().replace(b"1000", b"9" * 4000),
        text().replace(b"1000", b"9" * 5000),
        text(name="x" * 70_000),
        text("abc"),
        text({}),
        text([1, 2]),
        text([[]]),
        text(mapping(offset=-PAGE, size=2 * PAGE)),
        text(mapping(offset=1)),
        text(mapping(size=0)),
        text(mapping(size=-PAGE)),
        text(mapping(size=PAGE + 1)),
        text(mapping(offset=2 << 20)),
        text(mapping(offset=1 << 62, size=1 << 62)),
        text(mapping(prot="zz\x1b[31m")),
        text(mapping(prot=["r"])),
        text(mapping(prot="rw")),
        text(mapping(huge=1)),
        text(mapping(reserve=None)),
        text(mapping(more="x" * 5000)),
        text(mapping(more=1)).replace(b"1}", b"[" * 2000 + b"}"),
        text(mapping(file="/srv/table")),
        text(mapping(file=[FILE])),
        text(mapping(file={})),
        text(mapping(file=FILE | {"path": None})),
        text(mapping(file=FILE | {"path": "x" * 5000})),
        text(mapping(file=FILE | {"path": "\xe4"})).replace(b"\\u00e4", "\xe4".encode()),
        text(mapping(file=FILE | {"path": "\x1b"})).replace(b"\\u001b", b"\x1b"),
        text(mapping(file=FILE | {"device": -1})),
        text(mapping(file=FILE | {"inode": 1 << 64})),
        text(mapping(file=FILE | {"inode": True})),
        text(mapping(file=FILE | {"offset": 1 << 63})),
        text(mapping(file=FILE | {"offset": 1.0})),
        text(mapping(file=FILE | {"uid": -1})),
        text(mapping(file=FILE | {"write_back": "yes"})),
        text(mapping(file=FILE | {"write_back": ["on"]})),
        text(mapping(file=FILE | {"unwritten": -1})),
        text(mapping(file=FILE | {"error": 5})),
        text(mapping(file=FILE)).replace(b"}]}", b"]}"),
        text(mapping(file=FILE)).replace(b"}}", b"}, }"),
        text(mapping() * 2),
        text(mapping(offset=PAGE) + mapping()),
        text([{}]),
        text().replace(b"]}", b", ]}"),
        text().replace(b"]}", b"}]}"),
        text().replace(b'[{"off', b'[ {"off'),
        text() + b" ",
    ],
)
def test_whatever_no_dump_writes_is_refused(wrong: bytes) -> None:
    """By one kind of exception, however odd it is."""
    with pytest.raises(HeaderError):
        Header.parse(wrong)


@given(st.binary())
def test_any_bytes_are_a_header_or_none(noise: bytes) -> None:
    """Never another exception."""
    for wrong in (noise, noise + text(), text().replace(b'"offset": 0', noise)):
        try:
            assert Header.parse(wrong).size == FACTS["size"]
        except HeaderError:
            continue


def test_a_long_layout_takes_no_more_memory_than_its_text() -> None:
    """However many mappings it has, they are never there all at once."""
    many = [Mapping(2 * n * PAGE, PAGE, "rw-", reserve=True, huge=False) for n in range(20_000)]
    encoded = Header.of(many, **FACTS | {"size": 1 << 40}).encode()
    many.clear()
    tracemalloc.start()
    try:
        assert sum(1 for _ in Header.parse(encoded).mappings()) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 3 * len(encoded)
    finally:
        tracemalloc.stop()


def test_a_region_with_too_many_mappings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a byte is written that no load would take."""
    monkeypatch.setattr(dumpheader, "LARGEST", 128 << 10)
    with pytest.raises(HeaderError, match="1000 mappings are too many for a dump"):
        Header.of([FIRST] * 1000, **FACTS)
