"""What counters of requests come to, between two looks and in all."""

from __future__ import annotations

import math
from typing import Any

import pytest

from msharefs.inspect.operations import (
    Rate,
    Total,
    bound_within,
    by_frequency,
    largest_bound,
    rates,
)


def counter(count: int, seconds: float = 0.0, **buckets: int) -> dict[str, Any]:
    """Buckets by the power of ten of their bound: b3=5 are 5 within a millisecond."""
    within = {str(10.0 ** -int(name[1:])): number for name, number in buckets.items()}
    return {"count": count, "errors": 1, "seconds": seconds, "buckets": within}


def test_totals_and_order() -> None:
    """The most frequent first."""
    status = {"operations": {"OPEN": counter(3, 0.5), "IOCTL": counter(7, 1.0)}}
    assert [name for name, _ in by_frequency(status)] == ["IOCTL", "OPEN"]
    assert Total.of([each for _, each in by_frequency(status)]) == Total(10, 2, 1.5)
    assert by_frequency({}) == []


@pytest.mark.parametrize(
    ("share", "bound"), [(0.5, 1e-4), (0.9, 1e-4), (0.95, 1e-3), (0.99, 1e-3), (1.0, math.inf)]
)
def test_the_bound_within_which_a_share_was_done(share: float, bound: float) -> None:
    """The smallest of the bounds that is enough; beyond the last one it is unknown."""
    assert bound_within(share, [counter(100, b4=90, b3=99)]) == pytest.approx(bound)


def test_bounds_of_several_counters_add_up() -> None:
    """As of one; without histograms there is none."""
    both = [counter(10, b4=10, b3=10), counter(10, b4=0, b3=10)]
    assert bound_within(0.6, both) == pytest.approx(1e-3)
    assert largest_bound(both) == pytest.approx(1e-3)
    assert bound_within(0.5, [{"count": 1, "errors": 0, "seconds": 1.0}]) is None


def test_rates_between_two_looks() -> None:
    """Only what happened since counts, and a server that counts from zero again is not negative."""
    before = {"operations": {"OPEN": counter(10, 1.0), "IOCTL": counter(50, 9.0)}}
    now = {"operations": {"OPEN": counter(30, 2.0), "IOCTL": counter(5, 1.0), "FLUSH": counter(4)}}
    assert rates(before, now, 2.0) == [Rate("OPEN", 10.0, 0.05), Rate("FLUSH", 2.0, 0.0)]
    assert rates({}, {}, 1.0) == []
