"""What the header of a dump says of its region: JSON, written and read in bounded memory.

    {"saved": ..., "name": ..., "size": ..., "mode": ..., "uid": ..., "gid": ..., "layout": [MAPPING, MAPPING]}

Owns what such a header may say. A dump may come from anybody: the layout, which may be long, is
taken apart one mapping after the other and never held as objects all at once, and whatever no
dump writes is a HeaderError.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from msharefs import notation
from msharefs.abi import MAX_FILE_SIZE, PAGE_SIZE
from msharefs.client.layout import Mapping

LARGEST = 64 << 20
"""Bytes of a header: some 600,000 mappings."""
_LARGEST_FACTS = 64 << 10
_LARGEST_MAPPING = 256
_LARGEST_ID = (1 << 32) - 2
_LAYOUT = b'"layout": ['
_END = b"]}"


class HeaderError(Exception):
    """What is no header of a dump, or cannot be one."""


@dataclass(frozen=True, slots=True)
class Header:
    """A region as it was saved. Sizes are bytes."""

    saved: str
    """When, in UTC."""
    name: str
    size: int
    mode: int
    uid: int
    gid: int
    layout: bytes
    """The mappings, as they stand in the header."""

    @classmethod
    def of(cls, mappings: Sequence[Mapping], **facts: Any) -> Self:
        """The header of a region with these mappings. HeaderError if they are too many."""
        layout = b", ".join(json.dumps(_saved(mapping)).encode() for mapping in mappings)
        if len(layout) > LARGEST - _LARGEST_FACTS:
            raise HeaderError(f"{len(mappings)} mappings are too many for a dump")
        return cls(layout=layout, **facts)

    @classmethod
    def parse(cls, text: bytes) -> Self:
        """Read one, every mapping of it too. Raises HeaderError."""
        try:
            return cls._parse(text)
        except ValueError as error:
            raise HeaderError(str(error)) from error

    @classmethod
    def _parse(cls, text: bytes) -> Self:
        # A quotation mark in a name is escaped, so that this is not found in one.
        head, found, layout = text.partition(_LAYOUT)
        if not found or len(head) > _LARGEST_FACTS or not layout.endswith(_END):
            raise ValueError("no layout")
        facts = _loads(head.rstrip().removesuffix(b",") + b"}")
        header = cls(
            saved=str(facts.get("saved")),
            name=str(facts.get("name")),
            size=_number(facts, "size", 1, MAX_FILE_SIZE),
            mode=_number(facts, "mode", 0, 0o7777),
            uid=_number(facts, "uid", 0, _LARGEST_ID),
            gid=_number(facts, "gid", 0, _LARGEST_ID),
            layout=layout.removesuffix(_END),
        )
        header._check_layout()
        return header

    def encode(self) -> bytes:
        """The text of it, which `parse` reads."""
        facts = {key: value for key, value in asdict(self).items() if key != "layout"}
        head = json.dumps(facts).encode().removesuffix(b"}")
        return head + b", " + _LAYOUT + self.layout + _END

    def mappings(self) -> Iterator[Mapping]:
        """In order of their offsets."""
        position = 0
        while position < len(self.layout):
            if position:
                if self.layout[position : position + 2] != b", ":
                    raise ValueError("no list of mappings")
                position += 2
            end = self.layout.find(b"}", position, position + _LARGEST_MAPPING) + 1
            if not end or self.layout[position : position + 1] != b"{":
                raise ValueError("no mapping")
            yield _mapping(_loads(self.layout[position:end]))
            position = end

    def _check_layout(self) -> None:
        """Whether the mappings lie in the region, in order."""
        position = 0
        for mapping in self.mappings():
            if mapping.offset < position or (mapping.offset | mapping.size) % PAGE_SIZE:
                raise ValueError("mappings overlap")
            position = mapping.end
        if position > self.size:
            raise ValueError("a mapping beyond the end")


def _saved(mapping: Mapping) -> dict[str, Any]:
    """What comes back: bytes of a file are memory like all others then."""
    facts = asdict(mapping)
    del facts["file"]
    return facts


def _mapping(facts: dict[str, Any]) -> Mapping:
    prot = facts.get("prot")
    if not isinstance(prot, str) or len(prot) != 3:
        raise ValueError("no protection")
    notation.prot_bits(prot)
    flags = [facts.get(key) for key in ("reserve", "huge")]
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError("no flag")
    return Mapping(
        offset=_number(facts, "offset", 0, MAX_FILE_SIZE),
        size=_number(facts, "size", 1, MAX_FILE_SIZE),
        prot=prot,
        reserve=bool(flags[0]),
        huge=bool(flags[1]),
    )


def _number(facts: dict[str, Any], key: str, low: int, high: int) -> int:
    value = facts.get(key)
    # A bool is an int, too.
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"no {key}")
    return value


def _loads(text: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(text.decode("utf-8"))
    except RecursionError:
        facts = None
    if not isinstance(facts, dict):
        raise ValueError("no object")
    return facts
