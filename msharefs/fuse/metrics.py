"""Counters of the requests served: how many, how many refused, how long.

Owns numbers, and which answers are no errors. It knows no opcode's meaning.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from itertools import accumulate
from typing import Any

from msharefs.fuse.kernel import Opcode

BOUNDS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 0.1, 1.0)
"""Upper bounds of the latency histogram in seconds; what takes longer is in the count."""


EXPECTED = frozenset({0, errno.ENOENT, errno.ENODATA, errno.ENOSYS, errno.EOPNOTSUPP, errno.ERANGE})
"""What says that something is not there, which is what was asked: a name before it is made, an
attribute or a label that ls looks for in every file, a request that the kernel tries once. And
what says how much room a value takes, to who asks again with as much."""


class Counter:
    """One kind of request; `seconds` from its turn to its answer, summed, and how many
    took how long, by the bounds above and one more for the rest."""

    __slots__ = ("buckets", "count", "errors", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.errors = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(BOUNDS) + 1)


class Metrics:
    """A counter for each opcode that was seen."""

    def __init__(self) -> None:
        self._counters: dict[int, Counter] = {}

    def record(self, opcode: int, *, error: int, seconds: float) -> None:
        """One request was answered, with this errno or 0, so many seconds after its turn came."""
        counter = self._counters.get(opcode)
        if counter is None:
            counter = self._counters[opcode] = Counter()
        counter.count += 1
        counter.errors += error not in EXPECTED
        counter.seconds += seconds
        counter.buckets[bisect_left(BOUNDS, seconds)] += 1

    def report(self) -> dict[str, Any]:
        """By the name of the operation; buckets count all that took at most so long."""
        return {
            _name(opcode): {
                "count": counter.count,
                "errors": counter.errors,
                "seconds": round(counter.seconds, 6),
                "buckets": dict(zip(map(str, BOUNDS), accumulate(counter.buckets), strict=False)),
            }
            for opcode, counter in sorted(self._counters.items())
        }


def _name(opcode: int) -> str:
    try:
        return Opcode(opcode).name
    except ValueError:
        return f"OPCODE_{opcode}"
