"""What a change of the journal consists of: rows that are put and taken away, as statements and as bytes.

Owns the statements and the form that their values have in the tail of the journal. A later version reads
the tail that an earlier one has left: a form that changes gets a new number, and the old one stays
to be read. Which statements a change needs is not known here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

Values = tuple[Any, ...]
_NOT_A_BYTE = 256
"""The number of what concerns rows that it does not name, so that it must not be kept for later."""


class Kind:
    """One kind of statement. The bytes of its values begin with its number.

    Of two that have the same key the later one alone counts; one without a key is about rows that
    came before it.
    """

    __slots__ = ("_form", "_key", "_table", "number", "pack", "sql")

    def __init__(self, number: int, sql: str, form: str, *, table: str = "", key: int = 0) -> None:
        """`form` as struct has it, of the values; `key` is how many of the values name a
        row of the table."""
        self.number = number
        self.sql = sql
        self._form = struct.Struct(f"<B{form}")
        self.pack: Callable[..., bytes] = self._form.pack
        self._table = table
        self._key = key

    def key(self, values: Values) -> Values | None:
        """What of several with the same key the last one is kept of."""
        return (self._table, *values[: self._key]) if self._key else None

    def encode(self, values: Values) -> bytes:
        """Raises struct.error for what has no form: an unusual time is longer than 64 bits."""
        return self.pack(self.number, *values)

    def decode(self, record: bytes, place: int) -> tuple[Values, int]:
        """The values that are at a place of a record, and the place behind them."""
        _number, *values = self._form.unpack_from(record, place)
        return tuple(values), place + self._form.size


class NamedKind(Kind):
    """One whose second value is a name, whose bytes come last."""

    __slots__ = ()

    def encode(self, values: Values) -> bytes:
        """The same."""
        name = values[1]
        return self.pack(self.number, values[0], len(name), *values[2:]) + bytes(name)

    def decode(self, record: bytes, place: int) -> tuple[Values, int]:
        """The same."""
        (parent, length, *others), place = super().decode(record, place)
        end = place + length
        return (parent, record[place:end], *others), end


class InodeKind(Kind):
    """One whose second value is a letter."""

    __slots__ = ()

    def encode(self, values: Values) -> bytes:
        """The same."""
        return self.pack(self.number, values[0], values[1].encode("ascii"), *values[2:])

    def decode(self, record: bytes, place: int) -> tuple[Values, int]:
        """The same."""
        (ino, letter, *others), place = super().decode(record, place)
        return (ino, letter.decode("ascii"), *others), place


class MappingKind(Kind):
    """One whose last value is a text of ASCII letters, or None."""

    __slots__ = ()

    def encode(self, values: Values) -> bytes:
        """The same."""
        text = values[-1]
        last = b"" if text is None else text.encode("ascii")
        return self.pack(self.number, *values[:-1], len(last)) + last

    def decode(self, record: bytes, place: int) -> tuple[Values, int]:
        """The same."""
        (*others, length), place = super().decode(record, place)
        end = place + length
        return (*others, record[place:end].decode("ascii") if length else None), end


class RangeKind(Kind):
    """One of rows whose second value is in a range; of the rows that a key names where that is one."""

    __slots__ = ()

    def key(self, values: Values) -> Values | None:
        """The same."""
        ino, first, last = values
        return (self._table, ino, first) if first == last else None


PUT_INODE = InodeKind(
    1,
    "REPLACE INTO inode VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
    "q1s15q",
    table="inode",
    key=1,
)
DROP_INODE = Kind(2, "DELETE FROM inode WHERE ino = ?", "q", table="inode", key=1)
PUT_NAME = NamedKind(3, "REPLACE INTO name VALUES (?, ?, ?, ?)", "qHqq", table="name", key=2)
DROP_NAME = NamedKind(
    4, "DELETE FROM name WHERE parent = ? AND name = ?", "qH", table="name", key=2
)
PUT_MAPPING = MappingKind(
    5, "REPLACE INTO mapping VALUES (?, ?, ?, ?, ?, ?, ?)", "qqqq??H", table="mapping", key=2
)
DROP_MAPPINGS = RangeKind(
    6, "DELETE FROM mapping WHERE ino = ? AND start BETWEEN ? AND ?", "qqq", table="mapping"
)
DROP_ALL_MAPPINGS = Kind(7, "DELETE FROM mapping WHERE ino = ?", "q")
PUT_APPLIED = Kind(8, "REPLACE INTO applied VALUES (?, ?, ?, ?)", "qqqq", table="applied", key=1)

FORGET_APPLIED = Kind(_NOT_A_BYTE, "DELETE FROM applied", "")
FORGET_REGISTRATIONS = Kind(_NOT_A_BYTE, "UPDATE inode SET registration = 0 WHERE registration", "")

_KINDS = {
    kind.number: kind
    for kind in (
        PUT_INODE,
        DROP_INODE,
        PUT_NAME,
        DROP_NAME,
        PUT_MAPPING,
        DROP_MAPPINGS,
        DROP_ALL_MAPPINGS,
        PUT_APPLIED,
    )
}


def decode(record: bytes) -> Iterator[tuple[Kind, Values]]:
    """What a change consisted of. Raises KeyError or struct.error for what is no record."""
    place = 0
    while place < len(record):
        kind = _KINDS[record[place]]
        values, place = kind.decode(record, place)
        yield kind, values
