"""How sizes, modes and protections are written, for everybody who reads or shows them.

Owns that grammar once, for mount options, the command line and messages alike. Text in, numbers
out, and back: this module knows no file, no option and no terminal.
"""

from __future__ import annotations

import re

from msharefs.abi import PROT_EXEC, PROT_READ, PROT_WRITE

_UNITS = ("", "K", "M", "G", "T", "P", "E")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGTPE])(IB|B)?|B)?", re.IGNORECASE)
_MODE = re.compile(r"[0-7]{1,5}")
# More digits than any size has; also keeps int() away from its limit for long texts.
_LONGEST = 40
_PROT_BITS = {"r": PROT_READ, "w": PROT_WRITE, "x": PROT_EXEC, "-": 0}


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


def parse_mode(text: str) -> int:
    """Permission bits from "660" or "01777", always octal. ValueError with a sentence."""
    if _MODE.fullmatch(text) is None or int(text, 8) > 0o7777:
        raise ValueError(f"'{text}' is not an octal mode such as 660")
    return int(text, 8)


def prot_bits(letters: str) -> int:
    """PROT_* bits of letters such as "rw", or "rw-" as in /proc/PID/maps; of none, PROT_NONE.

    ValueError with a sentence.
    """
    bits = 0
    for letter in letters:
        if letter not in _PROT_BITS:
            raise ValueError(f'prot is made of "r", "w" and "x", not {letters!r}')
        bits |= _PROT_BITS[letter]
    return bits


def _unit_name(unit: int) -> str:
    return f"{_UNITS[unit]}iB" if unit else "B"
