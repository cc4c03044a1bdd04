"""The record of a file that is written back: who mapped it, and a digest of each page.

Owns the form of a record, which is memory that outlives the processes that write it, and what its digests say:
which pages of a region have been changed since region and file were last in step, and which of those have
been changed in the file as well. Nothing here touches a file or a region; pages are bytes.

Digests have 128 bits (XXH3) with a seed that is the record's own. They tell changes, nobody is trusted for them: who
finds two pages with the same digest can keep his own change from the file, and that he can as well by
not making it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from xxhash import xxh3_128_digest

PAGE = 4096
DIGEST = 16
HEAD = 16 * PAGE
"""Bytes before the first digest: some thousands of groups."""


class Owner(NamedTuple):
    """With whose rights the file is written, from which offset on (bytes), and the seed of the digests."""

    uid: int
    gid: int
    groups: Sequence[int]
    offset: int
    seed: int


def size_of(size: int) -> int:
    """Bytes of the record of so many bytes of a file."""
    return HEAD + -(-size // PAGE) * DIGEST


class Record:
    """A record in memory that the caller has for it."""

    def __init__(self, memory: memoryview) -> None:
        """`memory` is writable, and stays the caller's. Raises ValueError for what is no record."""
        self.owner = Owner(**json.loads(bytes(memory[:HEAD]).rstrip(b"\0")))
        self._digests = memory[HEAD:]

    @classmethod
    def begin(cls, memory: memoryview, owner: Owner) -> Record:
        """A new one, whose digests are to be noted. Raises ValueError where there are too many groups
        to be written down."""
        head = json.dumps(owner._asdict()).encode()
        if len(head) > HEAD:
            raise ValueError(f"{len(owner.groups)} groups are too many")
        memory[: len(head)] = head
        return cls(memory)

    def digests(self, pages: memoryview) -> bytes:
        """Those of whole pages, one behind the other."""
        seed = self.owner.seed
        return b"".join(
            [xxh3_128_digest(pages[at : at + PAGE], seed) for at in range(0, len(pages), PAGE)]
        )

    def noted(self, offset: int, size: int) -> bytes:
        """The digests of so many bytes of the file from `offset` on, as they were last in step."""
        place = self._place(offset)
        return bytes(self._digests[place : place + size // PAGE * DIGEST])

    def note(self, offset: int, digests: bytes) -> None:
        """Region and file have what has these digests, from `offset` on."""
        place = self._place(offset)
        self._digests[place : place + len(digests)] = digests

    def _place(self, offset: int) -> int:
        return (offset - self.owner.offset) // PAGE * DIGEST


def differing(some: bytes, others: bytes) -> list[int]:
    """Where the pages are, in bytes, whose digests are not the same in both, in order."""
    if some == others:
        return []
    return [
        at // DIGEST * PAGE
        for at in range(0, len(some), DIGEST)
        if some[at : at + DIGEST] != others[at : at + DIGEST]
    ]


class Verdict(NamedTuple):
    """What is to become of pages that were changed in a region: which are to be `written`, and which of
    those were changed in the file, too (`both`). The others are in the file already. Places in bytes,
    in order."""

    written: list[int]
    both: list[int]


def judge(noted: bytes, region: bytes, file: bytes) -> Verdict:
    """By the digests of the same pages: when region and file were last in step, in the region now,
    and in the file now. What somebody has written there that is not the region's is lost."""
    written = differing(region, file)
    elsewhere = set(differing(noted, file))
    return Verdict(written, [place for place in written if place in elsewhere])


def runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Places of pages, in order, as (start, size) of those that lie side by side, in bytes."""
    found: list[tuple[int, int]] = []
    for place in places:
        if found and sum(found[-1]) == place:
            found[-1] = (found[-1][0], found[-1][1] + PAGE)
        else:
            found.append((place, PAGE))
    return found
