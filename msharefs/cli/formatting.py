"""Counts, times and names as people read them; sizes are msharefs.notation's.

Pure text in, text out: this module knows no file, no terminal and no mount.
"""

from __future__ import annotations


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
