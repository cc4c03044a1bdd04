"""What a process may do with each byte that it has attached: a layout as protections of pages.

Owns the way from mappings to mprotect(2), for attachments with `enforce`. It knows neither
regions nor where a layout comes from.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msharefs.abi import PROT_READ, PROT_WRITE
from msharefs.client.arguments import prot_bits
from msharefs.linux import syscalls

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from msharefs.client.layout import Mapping

PROT_NONE = 0


@dataclass(frozen=True, slots=True)
class Run:
    """A part of an attached range with one protection. `offset` counts from the range's start."""

    offset: int
    size: int
    prot: int


def runs(mappings: Iterable[Mapping], start: int, size: int, *, writable: bool) -> tuple[Run, ...]:
    """The range of `size` bytes at `start`, cut where the protection changes; holes have none.

    `mappings` are those within the range, in order. With `writable` false none may be written.
    """
    end = start + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    merged: list[Run] = []
    for first, last, prot in _pieces(mappings, start, end, writable=writable):
        offset = first - start
        if merged and merged[-1].prot == prot:
            # Neighbours that are alike are one area of the process, of which it has not so many.
            offset = merged.pop().offset
        merged.append(Run(offset, last - start - offset, prot))
    return tuple(merged)


def apply(address: int, wanted: Iterable[Run]) -> None:
    """Give the pages from `address` on these protections. OSError; what was done so far stays."""
    for run in wanted:
        # Each page goes from its old protection to the new one directly, so that who uses it
        # meanwhile in another thread is not hit where both of them allow it.
        syscalls.protect(address + run.offset, run.size, run.prot)


def _pieces(
    mappings: Iterable[Mapping], start: int, end: int, *, writable: bool
) -> Iterator[tuple[int, int, int]]:
    """Mappings and the holes between them as (first, last, prot), without a gap."""
    position = start
    for mapping in mappings:
        first, last = max(mapping.offset, start), min(mapping.end, end)
        if first > position:
            yield position, first, PROT_NONE
        yield first, last, _allowed(mapping.prot, writable=writable)
        position = last
    if position < end:
        yield position, end, PROT_NONE


def _allowed(prot: str, *, writable: bool) -> int:
    bits = prot_bits(prot)
    if writable or not bits & PROT_WRITE:
        return bits
    # A processor that can write a page can read it.
    return bits & ~PROT_WRITE | PROT_READ
