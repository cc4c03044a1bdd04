"""How sizes, modes and protections are read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs import notation

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
    assert notation.parse_size(text) == size


@pytest.mark.parametrize("text", BAD_SIZES)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    """The sentence quotes what was written; the unclear MB is refused too."""
    with pytest.raises(ValueError, match=r"size|clear|whole") as caught:
        notation.parse_size(text)
    assert f"'{text}'" in str(caught.value)


@given(st.integers(0, 1 << 62))
def test_exact_sizes_are_read_back_as_they_were(size: int) -> None:
    """What mshare stat prints can be given to mshare map."""
    assert notation.parse_size(notation.exact_size(size)) == size


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
    assert notation.size(size) == text


@given(st.integers(0, 1 << 63))
def test_a_shown_size_is_near_and_short(size: int) -> None:
    """It is never further off than a twentieth, and fits a column of eight."""
    text = notation.size(size)
    assert len(text) <= 8
    number, unit = text.split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].index(unit)
    assert abs(float(number) * factor - size) <= size / 20


@pytest.mark.parametrize(
    ("text", "mode"), [("660", 0o660), ("0", 0), ("01777", 0o1777), ("7777", 0o7777)]
)
def test_modes_are_octal(text: str, mode: int) -> None:
    """With or without a zero before."""
    assert notation.parse_mode(text) == mode


@pytest.mark.parametrize(
    "text", ["", "8", "10000", "-1", "0o755", "7_5", " 755", "rwx", "7" * 5000]
)
def test_what_is_no_mode_is_refused(text: str) -> None:
    """Python would take some of these."""
    with pytest.raises(ValueError, match="octal mode"):
        notation.parse_mode(text)


@pytest.mark.parametrize(
    ("letters", "bits"),
    [("", 0), ("---", 0), ("r", 1), ("rw-", 3), ("rwx", 7), ("x", 4), ("rr", 1)],
)
def test_protections_are_letters(letters: str, bits: int) -> None:
    """As PROT_READ, PROT_WRITE and PROT_EXEC."""
    assert notation.prot_bits(letters) == bits


@pytest.mark.parametrize("letters", ["R", "rq", "rw-s", "none", "\x1b"])
def test_other_letters_are_refused(letters: str) -> None:
    """By name, with what does no harm on a terminal."""
    with pytest.raises(ValueError, match='"r", "w" and "x"'):
        notation.prot_bits(letters)
