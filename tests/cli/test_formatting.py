"""How sizes, times and names are read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs.cli import formatting

GOOD_SIZES = [
    ("4096", 4096),
    ("0", 0),
    ("64K", 64 << 10),
    ("64k", 64 << 10),
    ("64M", 64 << 20),
    ("64MiB", 64 << 20),
    ("64 MiB", 64 << 20),
    ("64mib", 64 << 20),
    ("1.5G", 3 << 29),
    ("0.5KiB", 512),
    ("16T", 16 << 40),
    ("7B", 7),
    (" 8 K ", 8 << 10),
]
BAD_SIZES = ["", "M", "-1", "1e3", "0x10", "64MB", "64 kb", "0.3K", "1.5", "1.2.3G", "4Q", "1" * 50]


@pytest.mark.parametrize(("text", "size"), GOOD_SIZES)
def test_sizes_are_read_with_every_unit(text: str, size: int) -> None:
    """K, KiB, M ... are powers of 1024; a fraction is fine if whole bytes come out."""
    assert formatting.parse_size(text) == size


@pytest.mark.parametrize("text", BAD_SIZES)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    """The sentence quotes what was written; the unclear MB is refused too."""
    with pytest.raises(ValueError, match=r"size|clear|whole") as caught:
        formatting.parse_size(text)
    assert f"'{text}'" in str(caught.value)


@given(st.integers(0, 1 << 62))
def test_exact_sizes_are_read_back_as_they_were(size: int) -> None:
    """What mshare stat prints can be given to mshare map."""
    assert formatting.parse_size(formatting.exact_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (4096, "4 KiB"),
        (1 << 20, "1 MiB"),
        ((1 << 20) - 1, "1 MiB"),
        (1536, "1.5 KiB"),
        (99 << 20, "99 MiB"),
        (1166020608, "1.1 GiB"),
        (512 << 30, "512 GiB"),
        (1 << 62, "4 EiB"),
    ],
)
def test_sizes_are_shown_in_few_digits(size: int, text: str) -> None:
    """At most one digit behind the point, and never 1024 of a unit."""
    assert formatting.size(size) == text


@given(st.integers(0, 1 << 63))
def test_a_shown_size_is_near_and_short(size: int) -> None:
    """It is never further off than a twentieth, and fits a column of eight."""
    text = formatting.size(size)
    assert len(text) <= 8
    number, unit = text.split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert abs(float(number) * factor - size) <= size / 20


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
