"""Counters of requests."""

from __future__ import annotations

import errno

from msharefs.fuse.kernel import Opcode
from msharefs.fuse.metrics import BOUNDS, Metrics


def test_counts_errors_and_seconds_add_up() -> None:
    """By the name of the operation, in the order of its number."""
    metrics = Metrics()
    metrics.record(Opcode.OPEN, error=0, seconds=0.25)
    metrics.record(Opcode.LOOKUP, error=errno.EINVAL, seconds=0.5)
    metrics.record(Opcode.OPEN, error=errno.EINVAL, seconds=1.0)
    report = metrics.report()
    assert list(report) == ["LOOKUP", "OPEN"]
    sums = {
        name: [each[k] for k in ("count", "errors", "seconds")] for name, each in report.items()
    }
    assert sums == {"LOOKUP": [1, 1, 0.5], "OPEN": [2, 1, 1.25]}


def test_what_says_that_something_is_not_there_is_no_error() -> None:
    """ls asks files for attributes and labels, and who makes a name asks for it first."""
    metrics = Metrics()
    expected = (errno.ENODATA, errno.ENOSYS, errno.ENOENT, errno.EOPNOTSUPP, errno.ERANGE)
    for error in (*expected, errno.EACCES):
        metrics.record(Opcode.GETXATTR, error=error, seconds=0)
    report = metrics.report()["GETXATTR"]
    assert (report["count"], report["errors"]) == (6, 1)


def test_buckets_count_all_that_took_at_most_so_long() -> None:
    """A histogram as Prometheus has it; what took longer than all bounds is in the count."""
    metrics = Metrics()
    for seconds in (0.00001, 0.00002, 0.0015, 2.0):
        metrics.record(Opcode.OPEN, error=0, seconds=seconds)
    report = metrics.report()["OPEN"]
    assert report["count"] == 4
    assert list(report["buckets"].values()) == [2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]
    assert [float(bound) for bound in report["buckets"]] == list(BOUNDS)


def test_unknown_opcodes_have_a_name_too() -> None:
    """A newer kernel may send them."""
    metrics = Metrics()
    metrics.record(4096, error=errno.EINVAL, seconds=0)
    assert list(metrics.report()) == ["OPCODE_4096"]


def test_nothing_is_reported_before_it_happened() -> None:
    """No zeros for operations that nobody used."""
    assert Metrics().report() == {}
