"""What is mapped in a region, as a mount reports it.

Owns `Layout` and the reading of the attribute `user.msharefs.layout` with its
continuations. How an attribute is fetched is the caller's: this module does no
I/O of its own and knows no descriptor.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msharefs.abi import LAYOUT_ATTRIBUTE
from msharefs.client.errors import MshareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    ReadAttribute = Callable[[str], bytes]
    """Gives the value of the extended attribute of that name, or raises OSError."""

Generation = tuple[int, int, int]
"""The size and both counters: they name one state of a region among all that it ever has."""

_ATTRIBUTE = LAYOUT_ATTRIBUTE.decode("ascii")
_VERSION = 1
_FILE = frozenset({"path", "device", "inode", "offset", "uid", "write_back", "unwritten", "error"})
# A layout of more than one part is read again if it changed meanwhile. So many changes in a
# row mean that somebody maps all the time, and no reading of it would be true for long.
_ATTEMPTS = 16


@dataclass(frozen=True, slots=True)
class MappedFile:
    """The file that a mapping's bytes were read from, as it was then."""

    path: str
    """What the kernel called it; of a long one the end, after "..."."""
    device: int
    """Its st_dev."""
    inode: int
    """Its st_ino."""
    offset: int
    """Where in it the mapping begins, in bytes."""
    uid: int
    """Who mapped it."""
    write_back: str | None = None
    """Whether what is changed goes back to it: None where it was mapped for reading, "on",
    "failed" where the last time did not succeed, "lost" since its daemon was killed."""
    unwritten: int = 0
    """Bytes that could not be written the last time."""
    error: str | None = None
    """Why, in the system's words."""


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapped range of a region; `offset` and `size` are bytes."""

    offset: int
    size: int
    prot: str
    """The protection asked for, as in /proc/PID/maps: "rw-", "r--"..."""
    reserve: bool
    """False if its pages come at first touch."""
    huge: bool
    """True if huge pages were asked for."""
    file: MappedFile | None = None
    """The file that its bytes came from; None for memory that began as zeros."""

    @property
    def end(self) -> int:
        """The offset of the first byte behind the mapping."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Creator:
    """Who made a region; the pid is of that time and may be another process by now."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What is mapped in a region at one moment. Sizes are bytes."""

    size: int
    """The region's size; 0 while it is not set."""
    mapped: int
    """How many bytes are mapped."""
    reserved: int
    """How many of them have memory set aside."""
    mappings: tuple[Mapping, ...]
    """In order of their offsets; they never overlap."""
    creator: Creator
    open_handles: int
    """How many open files there are of the region."""
    maps: int
    """How many times something was mapped, ever."""
    unmaps: int
    """How many times something was unmapped, ever."""
    collapsed: int = field(default=0, compare=False)
    """How many bytes were in pages of 2 MiB when the mount looked, which it does a moment after each
    change; it changes by itself, and layouts that differ in nothing else are equal."""

    segment: tuple[int, int] | None = field(default=None, compare=False)
    """Where processes have the memory itself: device (st_dev) and inode number of what they map."""

    @property
    def generation(self) -> Generation:
        """What differs between any two states of one region, and is equal for the same state."""
        return self.size, self.maps, self.unmaps


def read_layout(read: ReadAttribute) -> Layout:
    """Read the whole layout, however many parts it comes in, as it was at one moment.

    Raises what `read` raises; MshareError with EPROTO for an answer that is no layout, and with
    EAGAIN for a layout in several parts that never stands still while they are read.
    """
    for _ in range(_ATTEMPTS):
        parts = list(_parts(read))
        if all(part.generation == parts[0].generation for part in parts):
            return _whole(parts)
    raise MshareError(errno.EAGAIN, "the layout changes faster than it can be read")


def mappings_within(read: ReadAttribute, start: int, end: int) -> Iterator[Mapping]:
    """The mappings that share a byte with `start` to `end`, read no further than needed."""
    for part in _parts(read, start):
        for mapping in part.mappings:
            if mapping.offset >= end:
                return
            if mapping.end > start:
                yield mapping


def holes(mappings: Iterable[Mapping], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where nothing is mapped between `start` and `end`; `mappings` are in order."""
    position = start
    for mapping in mappings:
        if mapping.offset > position:
            yield position, min(mapping.offset, end)
        position = max(position, mapping.end)
        if position >= end:
            return
    if position < end:
        yield position, end


def read_generation(read: ReadAttribute, size: int) -> Generation:
    """The state of a region of `size` bytes, without its mappings: the answer stays short."""
    # From the last byte on there is one mapping at most.
    facts = _decode(read(f"{_ATTRIBUTE}.{size - 1}" if size else _ATTRIBUTE)).facts
    counters = facts["counters"]
    return facts["size"], counters["maps"], counters["unmaps"]


@dataclass(frozen=True, slots=True)
class _Part:
    """One attribute value: the facts of the region and a run of its mappings."""

    facts: dict[str, Any]
    mappings: tuple[Mapping, ...]
    following: int | None

    @property
    def generation(self) -> tuple[object, ...]:
        """Two parts of which this is equal show the same state of the region."""
        return self.facts["size"], self.facts["mapping_count"], self.facts["counters"]


def _whole(parts: list[_Part]) -> Layout:
    facts = parts[0].facts
    creator, counters = facts["creator"], facts["counters"]
    return Layout(
        size=facts["size"],
        mapped=facts["mapped"],
        reserved=facts["reserved"],
        mappings=tuple(mapping for part in parts for mapping in part.mappings),
        creator=Creator(creator["pid"], creator["uid"], creator["gid"]),
        open_handles=facts["open_handles"],
        maps=counters["maps"],
        unmaps=counters["unmaps"],
        # A daemon of an earlier version does not look.
        collapsed=facts.get("collapsed", 0),
        segment=tuple(facts["segment"]) if facts.get("segment") else None,
    )


def _parts(read: ReadAttribute, start: int = 0) -> Iterator[_Part]:
    """What is mapped from `start` on, then each continuation that its predecessor names."""
    position = start
    while True:
        part = _decode(read(f"{_ATTRIBUTE}.{position}" if position else _ATTRIBUTE))
        yield part
        if part.following is None:
            return
        if part.following <= position:
            raise _no_layout(f"it goes on at {part.following} after {position}")
        position = part.following


def _decode(text: bytes) -> _Part:
    try:
        facts = json.loads(text)
        if facts["version"] != _VERSION:
            raise _no_layout(f"it has version {facts['version']}, known is {_VERSION}")
        return _Part(
            facts=facts,
            mappings=tuple(map(_mapping, facts["mappings"])),
            following=facts["next"],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise _no_layout(repr(error)) from error


def _mapping(facts: dict[str, Any]) -> Mapping:
    # A daemon of an earlier version knows no files.
    file = facts.get("file")
    return Mapping(
        facts["offset"],
        facts["size"],
        facts["prot"],
        facts["reserve"],
        facts["huge"],
        None if file is None else MappedFile(**{n: v for n, v in file.items() if n in _FILE}),
    )


def _no_layout(why: str) -> MshareError:
    return MshareError(errno.EPROTO, f"the layout that the mount gives is not understood: {why}")
