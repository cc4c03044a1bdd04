"""The record of a file that is written back: who mapped it, and a digest of each page.

Owns the form of a record, a file of memory that outlives the processes that write it, and what its digests say:
which pages of a region have been changed since region and file were last in step, and which of those have
been changed in the file as well. Nothing here touches a file or a region; pages are bytes.

A digest that was never noted is that of a page of zeros: so holes of a file are holes of its record, which takes no
memory for them.

Digests have 128 bits (XXH3) with a seed that is the record's own. They tell changes, nobody is trusted for them: who
finds two pages with the same digest can keep his own change from the file, and that he can as well by
not making it.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from typing import NamedTuple

from xxhash import xxh3_128_digest

PAGE = 4096
DIGEST = 16
HEAD = 16 * PAGE
"""Bytes before the first digest: some thousands of groups."""
_NEVER = bytes(DIGEST)


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
    """A record in a file of memory."""

    def __init__(self, fd: int) -> None:
        """Its descriptor, which stays the caller's. Raises OSError, and ValueError for what is no record."""
        self.owner = Owner(**json.loads(os.pread(fd, HEAD, 0).rstrip(b"\0")))
        self._fd = fd
        self._of_zeros = xxh3_128_digest(bytes(PAGE), self.owner.seed)

    @classmethod
    def begin(cls, fd: int, owner: Owner, size: int) -> Record:
        """A new one in an empty file, of so many bytes, which are zeros as long as nothing else is noted. Raises OSError,
        and ValueError where there are too many groups to be written down."""
        head = json.dumps(owner._asdict()).encode()
        if len(head) > HEAD:
            raise ValueError(f"{len(owner.groups)} groups are too many")
        os.ftruncate(fd, size_of(size))
        os.pwrite(fd, head, 0)
        return cls(fd)

    def digests(self, pages: memoryview) -> bytes:
        """Those of whole pages, one behind the other."""
        seed = self.owner.seed
        return b"".join(
            [xxh3_128_digest(pages[at : at + PAGE], seed) for at in range(0, len(pages), PAGE)]
        )

    def noted(self, offset: int, size: int) -> bytes:
        """The digests of so many bytes of the file from `offset` on, as they were last in step."""
        digests = os.pread(self._fd, size // PAGE * DIGEST, self._place(offset))
        if _NEVER not in digests:
            return digests
        parts = [digests[at : at + DIGEST] for at in range(0, len(digests), DIGEST)]
        return b"".join([self._of_zeros if part == _NEVER else part for part in parts])

    def note(self, offset: int, digests: bytes) -> None:
        """Region and file have what has these digests, from `offset` on. Raises OSError where there is no memory for
        that."""
        if os.pwrite(self._fd, digests, self._place(offset)) < len(digests):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def next_noted(self, offset: int) -> int | None:
        """Where in the file, from `offset` on and not before it, digests may be that were noted; None where all are of
        zeros."""
        place = self._place(offset)
        found = next_data(self._fd, place)
        return None if found is None else offset + (found - place) // DIGEST * PAGE

    def _place(self, offset: int) -> int:
        return HEAD + (offset - self.owner.offset) // PAGE * DIGEST


def next_data(fd: int, start: int) -> int | None:
    """Where in a file of memory of our own, from `start` on, there is something else than a hole; None where there
    is nothing more."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def differing(some: bytes, others: bytes) -> list[int]:
    """Where the pages are, in bytes, whose digests are not the same in both, in order."""
    if some == others:
        return []
    if _NEVER not in _xor(some, others):
        # Where all was changed no page needs a look of its own.
        return list(range(0, len(some) // DIGEST * PAGE, PAGE))
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
    return Verdict(written, [place for place in written if place in elsewhere] if elsewhere else [])


def runs(places: Sequence[int]) -> list[tuple[int, int]]:
    """Places of pages, in order, as (start, size) of those that lie side by side, in bytes."""
    if places and places[-1] - places[0] == (len(places) - 1) * PAGE:
        return [(places[0], len(places) * PAGE)]
    found: list[tuple[int, int]] = []
    for place in places:
        if found and sum(found[-1]) == place:
            found[-1] = (found[-1][0], found[-1][1] + PAGE)
        else:
            found.append((place, PAGE))
    return found


def _xor(some: bytes, others: bytes) -> bytes:
    """Zeros where both are the same; of the same length."""
    number = int.from_bytes(some, "little") ^ int.from_bytes(others, "little")
    return number.to_bytes(len(some), "little")
