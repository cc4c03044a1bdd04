"""How times, shares and names are shown."""

from __future__ import annotations

import pytest

from msharefs.cli import formatting


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59, "59 s"), (125, "2 min 5 s"), (3600, "1 h"), (273_000, "3 d 3 h")],
)
def test_durations_have_two_parts_at_most(seconds: float, text: str) -> None:
    """As a person would say it."""
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 us"), (91e-6, "91 us"), (0.0012, "1.2 ms"), (2.04, "2.0 s")]
)
def test_latencies_have_a_fitting_unit(seconds: float, text: str) -> None:
    """Microseconds for most requests."""
    assert formatting.latency(seconds) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 10, "0%"), (1, 10_000, "1%"), (9_999, 10_000, "99%"), (10, 10, "100%"), (1, 0, "0%")],
)
def test_percentages_say_none_and_all_only_where_it_is_so(part: int, whole: int, text: str) -> None:
    """A little is 1% and nearly all is 99%."""
    assert formatting.percent(part, whole) == text


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain name", "plain name"),
        ("Gr\u00fc\u00dfe".encode(), "Gr\u00fc\u00dfe"),
        (b"\xff", "\\xff"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"two\nlines", "two\\nlines"),
    ],
)
def test_names_cannot_disturb_a_terminal(raw: bytes, shown: str) -> None:
    """Control characters and bytes that are no UTF-8 are escaped."""
    assert formatting.name(raw.decode("utf-8", "surrogateescape")) == shown
