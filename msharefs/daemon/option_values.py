"""What the value of an option may be: one parser for each kind of value.

Owns ranges and the sentences about values out of them. Which option has which kind is in
options.py. Each parser takes the text and the machine's memory in bytes, of which a size may
be a part, and raises UsageError.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable
from typing import Any

from msharefs import notation
from msharefs.abi import MAX_ALIGN, MAX_FILE_SIZE, PAGE_SIZE

CAPABILITIES = ("passthrough", "direct_io_mmap", "resend")
LOOPBACK = "127.0.0.1"
OFF = "off"
LARGEST_NUMBER = (1 << 31) - 1
LARGEST_ID = (1 << 32) - 2
LONGEST_NUMBER = 20
"""Digits of 2**64; Python refuses to read thousands of them."""
_POLICY = re.compile(
    r"(default|local|(prefer|bind|interleave|weighted interleave|prefer \(many\))"
    r"(=(static|relative))?(:[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?)"
)

Parser = Callable[[str, int], Any]


class UsageError(Exception):
    """The user's mistake, as one sentence."""


def parse_size(text: str, memory: int) -> int:
    """Bytes from "4096", "64K", "64MiB", "1.5G" or "50%" (of `memory`)."""
    number = text.strip()
    if number.endswith("%"):
        return memory * _percentage(text, number[:-1]) // 100
    try:
        return notation.parse_size(number)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _percentage(text: str, digits: str) -> int:
    if not digits.isascii() or not digits.isdigit() or len(digits) > LONGEST_NUMBER:
        raise UsageError(f"'{text}' is not a percentage such as 50%")
    return int(digits)


def pages(text: str, memory: int) -> int:
    """Bytes, rounded down to whole pages, at least one; the largest size that there is stays
    what it is."""
    size = parse_size(text, memory)
    if size != MAX_FILE_SIZE:
        size = size // PAGE_SIZE * PAGE_SIZE
    if not PAGE_SIZE <= size <= MAX_FILE_SIZE:
        raise UsageError(f"size {text} is not between {PAGE_SIZE} and {MAX_FILE_SIZE} bytes")
    return size


def alignment(text: str, memory: int) -> int:
    """Bytes: a power of two."""
    align = parse_size(text, memory)
    if not PAGE_SIZE <= align <= MAX_ALIGN or align & (align - 1):
        raise UsageError(f"{text} is not a power of two from 4K to 512G")
    return align


def count(text: str, memory: int) -> int:
    """A number of things, at least one."""
    number = parse_size(text, memory)
    if not 1 <= number <= LARGEST_NUMBER:
        raise UsageError(f"{text} is not between 1 and {LARGEST_NUMBER}")
    return number


def unless_off(parse: Parser) -> Parser:
    """The parser of a limit that may be "off": None."""

    def parse_limit(text: str, memory: int) -> Any:
        return None if text == OFF else parse(text, memory)

    return parse_limit


def inodes(text: str, memory: int) -> int:
    """A number of inodes; 0 is no limit, as on tmpfs (tmpfs(5))."""
    if text == "0":
        return LARGEST_NUMBER
    # The root directory and mshare_info are always there.
    return max(2, count(text, memory))


def mode(text: str, memory: int) -> int:
    """Permission bits, in octal."""
    try:
        return notation.parse_mode(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def user(text: str, memory: int) -> int:
    """A user's id, from the number or his name."""
    return _id(text, lambda name: pwd.getpwnam(name).pw_uid)


def group(text: str, memory: int) -> int:
    """A group's id, from the number or its name."""
    return _id(text, lambda name: grp.getgrnam(name).gr_gid)


def _id(text: str, lookup: Callable[[str], int]) -> int:
    short = len(text) <= LONGEST_NUMBER
    if short and text.isascii() and text.isdigit() and int(text) <= LARGEST_ID:
        return int(text)
    try:
        return lookup(text)
    except KeyError:
        raise UsageError(f"there is no '{text}' here") from None


def one_of(choices: tuple[str, ...]) -> Parser:
    """The parser of a word that is one of these."""

    def parse(text: str, memory: int) -> str:
        if text not in choices:
            raise UsageError(f"{text} is none of {', '.join(choices)}")
        return text

    return parse


def anything(text: str, memory: int) -> str:
    """The text as it is; who uses it will judge."""
    return text


def memory_policy(text: str, memory: int) -> str:
    """A NUMA policy as tmpfs(5) has it. Whether the machine has those nodes, the kernel says."""
    if not _POLICY.fullmatch(text):
        raise UsageError(
            f"'{text}' is not a policy such as default, local, interleave, prefer:0 or bind:0,2-3"
        )
    return text


def capabilities(text: str, memory: int) -> tuple[str, ...]:
    """Names of what a kernel can do, with colons between them."""
    names = tuple(text.split(":"))
    for name in names:
        if name not in CAPABILITIES:
            raise UsageError(f"{name} is none of {', '.join(CAPABILITIES)}")
    return names


def shown_endpoint(endpoint: tuple[str, int]) -> str:
    """As -o metrics= has it."""
    address, port = endpoint
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def endpoint(text: str, memory: int) -> tuple[str, int] | None:
    """ADDRESS:PORT, or a port of the loopback interface; an IPv6 address in brackets. None
    for "off"."""
    if text == OFF:
        return None
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{text} is not ADDRESS:PORT, :PORT or off")
    return address.strip("[]") or LOOPBACK, int(port)
