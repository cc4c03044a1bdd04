"""What a change consists of, as bytes."""

from __future__ import annotations

import struct

import pytest

from msharefs.core import records
from msharefs.core.records import Kind, Values

LARGE = (1 << 63) - 1
CASES: list[tuple[Kind, Values]] = [
    (records.PUT_INODE, (5, "R", 0o100640, 1, 2, 3, -1, LARGE, 17, 1, -1, 99, 7, 101, 102, 103, 3)),
    (records.DROP_INODE, (LARGE,)),
    (records.PUT_NAME, (1, b"n" * 255, 5, 17)),
    (records.DROP_NAME, (1, b"\xff\n")),
    (records.PUT_MAPPING, (5, 0, LARGE, 3, True, False, None)),
    (records.PUT_MAPPING, (5, 0, LARGE, 3, True, False, '[1, "/a\\udcff"]')),
    (records.DROP_MAPPINGS, (5, 0, 1 << 40)),
    (records.DROP_ALL_MAPPINGS, (5,)),
    (records.PUT_APPLIED, (70_000, LARGE, 35, 5)),
]


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_a_statement_comes_back(kind: Kind, values: Values) -> None:
    """The kind and its values, of the same types."""
    assert list(records.decode(kind.encode(values))) == [(kind, values)]


def test_a_change_comes_back_in_order() -> None:
    """All of its statements."""
    record = b"".join(kind.encode(values) for kind, values in CASES)
    assert list(records.decode(record)) == CASES


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (records.PUT_INODE, (5, "R", 0, 0, 0, 1, (1 << 63).to_bytes(16, "little"), *[0] * 10)),
        (records.FORGET_APPLIED, ()),
        (records.FORGET_REGISTRATIONS, ()),
    ],
)
def test_some_have_no_form(kind: Kind, values: Values) -> None:
    """Times far away, and what does not say which rows it is about."""
    with pytest.raises(struct.error):
        kind.encode(values)


@pytest.mark.parametrize("record", [b"\x63", records.DROP_INODE.encode((5,))[:-1]])
def test_what_is_no_record_is_refused(record: bytes) -> None:
    """An unknown kind, and values that break off."""
    with pytest.raises((KeyError, struct.error)):
        list(records.decode(record))


@pytest.mark.parametrize(("kind", "values"), CASES)
def test_a_key_is_what_a_row_is_replaced_by(kind: Kind, values: Values) -> None:
    """Those of one table with the same first values; a range of rows has none, unless it is one."""
    assert (kind.key(values) is None) == (
        kind in {records.DROP_MAPPINGS, records.DROP_ALL_MAPPINGS}
    )
    put = records.PUT_MAPPING.key((5, 4, 8, 3, True, False, None))
    assert records.DROP_MAPPINGS.key((5, 4, 4)) == put
    assert put not in {records.DROP_MAPPINGS.key((5, 5, 5)), records.DROP_MAPPINGS.key((6, 4, 4))}
    assert records.PUT_INODE.key(CASES[0][1]) == records.DROP_INODE.key((5,))
    assert records.PUT_NAME.key((1, b"n", 5, 17)) == records.DROP_NAME.key((1, b"n"))
    assert records.DROP_NAME.key((2, b"n")) != records.DROP_NAME.key((1, b"n"))
    assert records.DROP_INODE.key((1,)) != records.PUT_APPLIED.key((1, 2, 3, 4))
