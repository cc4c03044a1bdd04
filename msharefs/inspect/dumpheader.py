"""What the header of a dump says of its region: JSON, written and read in bounded memory.

    {"saved": ..., "name": ..., "size": ..., "mode": ..., "uid": ..., "gid": ..., "layout": [MAPPING, MAPPING]}

A mapping of a file has "file", which is what the layout said of it: for people, nothing is opened by it.

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
from msharefs.client.layout import MappedFile, Mapping

LARGEST = 64 << 20
"""Bytes of a header: some 600,000 mappings of memory, 200,000 of files."""
_LARGEST_FACTS = 64 << 10
_LARGEST_MAPPING = 4 << 10
"""Of a file with 200 characters in its name that take twelve bytes each: that is how long the layout has them."""
_LARGEST_ID = (1 << 32) - 2
_LARGEST_WORD = (1 << 64) - 1
_WRITE_BACK = (None, "on", "failed", "lost")
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
        """The header of a region with these mappings. HeaderError if they are too many, or say too much."""
        parts = [json.dumps(_saved(mapping)).encode() for mapping in mappings]
        if max(map(len, parts), default=0) > _LARGEST_MAPPING:
            raise HeaderError("the name of a mapped file is too long for a dump")
        layout = b", ".join(parts)
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
            facts, length = _begin_with(self.layout[position : position + _LARGEST_MAPPING])
            yield _mapping(facts)
            position += length

    def of_files(self) -> Iterator[tuple[Mapping, MappedFile]]:
        """Those of files, with them."""
        for mapping in self.mappings():
            if mapping.file is not None:
                yield mapping, mapping.file

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
    facts = asdict(mapping)
    if mapping.file is None:
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
        file=None if facts.get("file") is None else _file(facts["file"]),
    )


def _file(facts: object) -> MappedFile:
    if not isinstance(facts, dict) or facts.get("write_back") not in _WRITE_BACK:
        raise ValueError("no file")
    path, error = facts.get("path"), facts.get("error")
    if not isinstance(path, str) or not isinstance(error, str | None):
        raise ValueError("no words")
    return MappedFile(
        path=path,
        device=_number(facts, "device", 0, _LARGEST_WORD),
        inode=_number(facts, "inode", 0, _LARGEST_WORD),
        offset=_number(facts, "offset", 0, MAX_FILE_SIZE),
        uid=_number(facts, "uid", 0, _LARGEST_ID),
        write_back=facts["write_back"],
        unwritten=_number(facts, "unwritten", 0, MAX_FILE_SIZE),
        error=error,
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
    return _object(facts)


def _begin_with(text: bytes) -> tuple[dict[str, Any], int]:
    """The object that a text begins with, and how long it is. Names of files may have any brackets, so that JSON alone
    tells where it ends; whatever is not ASCII is escaped in what a dump writes."""
    try:
        facts, length = json.JSONDecoder().raw_decode(text.decode("ascii"))
    except RecursionError:
        raise ValueError("no mapping") from None
    return _object(facts), length


def _object(facts: object) -> dict[str, Any]:
    if not isinstance(facts, dict):
        raise ValueError("no object")
    return facts
