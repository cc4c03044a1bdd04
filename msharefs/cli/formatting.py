"""Sizes, times and names as people read and write them.

Pure text in, text out: this module knows no file, no terminal and no mount.
"""

from __future__ import annotations

import re

_UNITS = ("", "K", "M", "G", "T", "P", "E")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGTPE])(IB|B)?|B)?", re.IGNORECASE)
# More digits than any size has; also keeps int() away from its limit for long texts.
_LONGEST = 40


def parse_size(text: str) -> int:
    """Bytes from "4096", "64K", "64M", "64MiB" or "1.5 GiB". ValueError with a sentence."""
    match = _SIZE.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"'{text}' is not a size such as 4096, 64K, 64M or 1.5GiB")
    number, unit, suffix = match[1], (match[2] or "").upper(), (match[3] or "").upper()
    if suffix == "B":
        # 64MB may mean either power, and half of the readers would be surprised.
        raise ValueError(f"'{text}' is not clear: {number}{unit}iB counts in powers of 1024")
    whole, _, decimals = number.partition(".")
    scaled = int(whole + decimals) << 10 * _UNITS.index(unit)
    size, rest = divmod(scaled, int("1" + "0" * len(decimals)))
    if rest:
        raise ValueError(f"'{text}' is not a whole number of bytes")
    return size


def size(count: int) -> str:
    """A size in three digits or so: "0 B", "4 KiB", "1.1 GiB"."""
    value, unit = float(count), 0
    # 1023.9 KiB would be shown as 1024 KiB.
    while value >= 1023.5 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    digits = f"{value:.1f}" if value < 99.95 and not value.is_integer() else f"{value:.0f}"
    return f"{digits.removesuffix('.0')} {_unit_name(unit)}"


def exact_size(count: int) -> str:
    """A size in the largest unit that leaves no remainder: "4100 KiB"; parse_size reads it."""
    unit = 0
    while count and count % 1024 == 0 and unit < len(_UNITS) - 1:
        count //= 1024
        unit += 1
    return f"{count} {_unit_name(unit)}"


def _unit_name(unit: int) -> str:
    return f"{_UNITS[unit]}iB" if unit else "B"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """ "1 region", "3,085 regions"."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def duration(seconds: float) -> str:
    """How long something has run: "7 s", "2 min 5 s", "3 d 4 h"."""
    whole = int(seconds)
    parts: list[str] = []
    for length, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        if whole >= length or (length == 1 and not parts):
            parts.append(f"{whole // length} {name}")
            whole %= length
    return " ".join(parts[:2])


def latency(seconds: float) -> str:
    """How long a request took: "91 us", "1.2 ms", "2.0 s"."""
    if seconds < 0.0009995:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.1f} s"


def percent(part: int, whole: int) -> str:
    """ "0%" and "100%" only where it is none and all."""
    if part <= 0 or whole <= 0:
        return "0%"
    if part >= whole:
        return "100%"
    return f"{min(max(round(100 * part / whole), 1), 99)}%"


def name(text: str) -> str:
    """A file name or command line that cannot disturb a terminal or break a line."""
    plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


def prot(text: str) -> str:
    """The protection of a mapping, "---" spelt out."""
    return "none" if not text.strip("-") else text
