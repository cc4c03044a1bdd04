"""Counters of the requests served: how many, how many refused, how long.

Owns numbers only. It knows no opcode's meaning.
"""

from __future__ import annotations

from typing import Any

from msharefs.fuse.protocol import Opcode


class Counter:
    """One kind of request; `seconds` from its reading to its answer, summed."""

    __slots__ = ("count", "errors", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.seconds = 0.0


class Metrics:
    """A counter for each opcode that was seen."""

    def __init__(self) -> None:
        self._counters: dict[int, Counter] = {}

    def record(self, opcode: int, *, failed: bool, seconds: float) -> None:
        """One request was answered."""
        counter = self._counters.get(opcode)
        if counter is None:
            counter = self._counters[opcode] = Counter()
        counter.count += 1
        counter.errors += failed
        counter.seconds += seconds

    def report(self) -> dict[str, Any]:
        """By the name of the operation."""
        return {
            _name(opcode): {
                "count": counter.count,
                "errors": counter.errors,
                "seconds": round(counter.seconds, 6),
            }
            for opcode, counter in sorted(self._counters.items())
        }


def _name(opcode: int) -> str:
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"OPCODE_{opcode}"
