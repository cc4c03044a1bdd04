"""What a mount's counters of requests tell: how often, how long, and how that changes.

Pure arithmetic on the status documents of a mount (user.msharefs.status), whatever daemon wrote
them: what a document does not have counts as nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from msharefs.inspect import mounts
from msharefs.inspect.listing import Listing, document, look
from msharefs.inspect.probe import Asker

Counter = dict[str, Any]
"""Of one kind of request: "count", "errors", "seconds" and, by upper bounds, "buckets"."""


@dataclass(frozen=True, slots=True)
class Total:
    """What counters come to."""

    count: int
    errors: int
    seconds: float

    @classmethod
    def of(cls, counters: Sequence[Counter]) -> Total:
        """The sum of some."""
        return cls(
            sum(counter["count"] for counter in counters),
            sum(counter["errors"] for counter in counters),
            sum(counter["seconds"] for counter in counters),
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """One kind of request between two looks."""

    name: str
    per_second: float
    mean: float
    """Seconds that one took."""


def by_frequency(status: dict[str, Any]) -> list[tuple[str, Counter]]:
    """The counters of a status, the most frequent kind first."""
    counters: dict[str, Counter] = status.get("operations", {})
    return sorted(counters.items(), key=lambda item: -item[1]["count"])


def bound_within(share: float, counters: Sequence[Counter]) -> float | None:
    """The smallest bound of the histograms, in seconds, within which that share of the requests
    was done; infinite if it is beyond all bounds, None without histograms."""
    within: dict[float, int] = {}
    for counter in counters:
        for bound, number in counter.get("buckets", {}).items():
            within[float(bound)] = within.get(float(bound), 0) + number
    wanted = share * sum(counter["count"] for counter in counters)
    enough = (bound for bound, number in sorted(within.items()) if number >= wanted)
    return next(enough, math.inf) if within else None


def largest_bound(counters: Sequence[Counter]) -> float:
    """The last bound of the histograms, in seconds; there must be some."""
    return max(float(bound) for counter in counters for bound in counter.get("buckets", {}))


def rates(before: dict[str, Any], now: dict[str, Any], seconds: float) -> list[Rate]:
    """What was done in `seconds` between two status documents, the most frequent kind first."""
    past = before.get("operations", {})
    found: list[Rate] = []
    for name, counter in now.get("operations", {}).items():
        old = past.get(name, {"count": 0, "seconds": 0.0})
        # A server that was restarted may count from zero again.
        done = counter["count"] - old["count"]
        if done > 0:
            spent = max(counter["seconds"] - old["seconds"], 0.0)
            found.append(Rate(name, done / seconds, spent / done))
    return sorted(found, key=lambda each: -each.per_second)


@dataclass(frozen=True, slots=True)
class Sample:
    """A mount at one moment (time.monotonic), and what happened since the sample before."""

    taken: float
    status: dict[str, Any]
    """Empty for who may not read it."""
    listing: Listing
    before: Sample | None

    @property
    def seconds(self) -> float:
        """Since the sample before; there must be one."""
        assert self.before is not None
        return max(self.taken - self.before.taken, 1e-9)

    def rates(self) -> list[Rate]:
        """The requests since the sample before, none without one."""
        if self.before is None:
            return []
        return rates(self.before.status, self.status, self.seconds)

    def change_rates(self) -> dict[int, float]:
        """How often a second each region was mapped and unmapped since the sample before, by its
        inode; regions that are new or may not be read are not in it."""
        if self.before is None:
            return {}
        old = _changes(self.before.listing)
        return {
            inode: max(count - old[inode], 0) / self.seconds
            for inode, count in _changes(self.listing).items()
            if inode in old
        }

    def document(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "time": round(time.time(), 3),
            "status": self.status,
            "operations_per_second": {
                rate.name: round(rate.per_second, 3) for rate in self.rates()
            },
            **document([self.listing]),
        }


class Meter:
    """Takes samples of one mount."""

    def __init__(self, directory: str | None) -> None:
        """Look at the mount that `directory` lies on, or at the only one. OSError, InspectError."""
        self._asker = Asker()
        self._last: Sample | None = None
        if directory is None:
            self.mount = mounts.only(None)
        else:
            self.mount = self._asker.ask(directory, partial(mounts.only, directory))
        self._top = directory or self.mount.path

    def take(self) -> Sample:
        """The next sample. TimeoutError if the mount does not answer."""
        before = self._last
        status, listing = self._asker.ask(self.mount.path, self._look)
        self._last = Sample(
            time.monotonic(),
            status,
            listing,
            # Not the whole past.
            None if before is None else Sample(before.taken, before.status, before.listing, None),
        )
        return self._last

    def _look(self) -> tuple[dict[str, Any], Listing]:
        return mounts.status_or_nothing(self.mount), look(self.mount, self._top)


def _changes(listing: Listing) -> dict[int, int]:
    """How often each region that may be read was ever mapped and unmapped."""
    return {region.inode: region.changes for region in listing.found if region.changes is not None}
