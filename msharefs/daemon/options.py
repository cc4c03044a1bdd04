"""-o options: parsed and checked once, here.

Owns names, defaults, ranges and the sentences about mistakes. What an option means is
decided where it is used; this module touches nothing outside but the amount of memory.
"""

from __future__ import annotations

import difflib
import grp
import logging
import os
import pwd
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from msharefs import notation
from msharefs.abi import DEFAULT_ALIGN, MAX_ALIGN, MAX_FILE_SIZE, PAGE_SIZE

HUGE_POLICIES = ("always", "within_size", "advise", "never")
DATA_PLANES = ("auto", "passthrough", "paged")
LOG_LEVELS = ("debug", "info", "warning", "error")
CAPABILITIES = ("passthrough", "direct_io_mmap", "resend")
DEFAULT_SIZE = "50%"
DEFAULT_MAX_MAPPINGS = 65530
"""vm.max_map_count's default."""
LOOPBACK = "127.0.0.1"
LARGEST_NUMBER = (1 << 31) - 1
LARGEST_ID = (1 << 32) - 2
LONGEST_NUMBER = 20
"""Digits of 2**64; Python refuses to read thousands of them."""

PASSED_ON = frozenset(
    [
        "rw",
        "ro",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "sync",
        "async",
        "dirsync",
        "noatime",
        "nodiratime",
    ]
)
"""Generic options that fusermount3 hands to mount(2)."""
TAKEN_SILENTLY = frozenset(
    [
        "defaults",
        "atime",
        "diratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "auto",
        "noauto",
        "nofail",
        "_netdev",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "silent",
        "loud",
        "default_permissions",
    ]
)
"""Options of mount(8) and systemd that are done elsewhere, or that are always so here."""
SWITCHES = frozenset({"noswap", "allow_other", "fresh"})
SILENT_PREFIXES = ("x-", "X-", "comment=")
PRIVATE_PREFIX = "x-msharefs."
"""Ours in the space that mount(8) leaves to everybody. All of it is for tests:
x-msharefs.without=A:B does without capabilities of the kernel, so that tests reach every
branch; x-msharefs.crash=STEP:N kills a process of the mount when it comes to a step for the
Nth time (failpoint.py)."""
TESTING = "MSHAREFS_TESTING"
"""The environment variable that tests set to 1. Without it nobody's fstab can name what is
for tests alone."""

Parser = Callable[[str, int], Any]
"""From the text of a value and the machine's memory in bytes. Raises UsageError."""


class UsageError(Exception):
    """The user's mistake, as one sentence."""


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What a mount was asked for. Sizes in bytes."""

    size: int
    nr_inodes: int
    align: int = DEFAULT_ALIGN
    max_region: int = MAX_FILE_SIZE
    max_mappings: int = DEFAULT_MAX_MAPPINGS
    mode: int = 0o1777
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    huge: str = "always"
    mpol: str | None = None
    noswap: bool = False
    data: str = "auto"
    log_level: str = "info"
    allow_other: bool = False
    fresh: bool = False
    without: tuple[str, ...] = ()
    crash: str = ""
    metrics: tuple[str, int] | None = None
    passed_on: tuple[str, ...] = ()


def parse_options(
    text: str, *, memory: int, sloppy: bool = False, testing: bool = False
) -> MountOptions:
    """Options as `mount -o` has them, separated by commas. `memory` is the machine's, in
    bytes. An unknown option is a UsageError unless `sloppy`; those for tests are known only
    while `testing`."""
    parsers = _PARSERS | _PRIVATE_PARSERS if testing else _PARSERS
    options = MountOptions(
        size=_size(DEFAULT_SIZE, memory, low=PAGE_SIZE), nr_inodes=memory // PAGE_SIZE // 2
    )
    for word in _words(text):
        name, has_value, value = word.partition("=")
        if name in PASSED_ON and not has_value:
            options = replace(options, passed_on=(*options.passed_on, name))
        elif name in parsers:
            if not value:
                raise UsageError(f"option '{name}' needs a value: {name}=...")
            field_name = name.removeprefix(PRIVATE_PREFIX)
            options = _with(options, field_name, _value(parsers[name], name, value, memory))
        elif word in SWITCHES:
            options = _with(options, word, True)
        elif not (_is_taken_silently(word) or sloppy):
            raise UsageError(_unknown(name))
    return options


def _is_taken_silently(word: str) -> bool:
    if word.startswith(PRIVATE_PREFIX):
        return False
    return word in TAKEN_SILENTLY or word.startswith(SILENT_PREFIXES)


def _value(parser: Parser, name: str, text: str, memory: int) -> Any:
    try:
        return parser(text, memory)
    except UsageError as error:
        raise UsageError(f"option '{name}': {error}") from error


def _with(options: MountOptions, name: str, value: Any) -> MountOptions:
    changes: dict[str, Any] = {name: value}
    return replace(options, **changes)


def parse_size(text: str, memory: int) -> int:
    """Bytes from "4096", "64K", "64MiB", "1.5G" or "50%" (of `memory`). UsageError."""
    number = text.strip()
    if number.endswith("%"):
        return memory * _percentage(text, number[:-1]) // 100
    try:
        return notation.parse_size(number)
    except ValueError as error:
        raise UsageError(str(error)) from None


def total_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _words(text: str) -> Iterator[str]:
    """Split at commas; the node list of mpol= keeps its own ("bind:0,2-3", tmpfs(5))."""
    pending = ""
    for word in text.split(","):
        if pending.startswith("mpol=") and word[:1].isdigit():
            pending += "," + word
            continue
        if pending:
            yield pending
        pending = word
    if pending:
        yield pending


def _percentage(text: str, digits: str) -> int:
    if not digits.isascii() or not digits.isdigit() or len(digits) > LONGEST_NUMBER:
        raise UsageError(f"'{text}' is not a percentage such as 50%")
    return int(digits)


def _size(text: str, memory: int, *, low: int) -> int:
    size = parse_size(text, memory) // PAGE_SIZE * PAGE_SIZE
    if not low <= size <= MAX_FILE_SIZE:
        raise UsageError(f"size {text} is not between {low} and {MAX_FILE_SIZE} bytes")
    return size


def _parse_bytes(text: str, memory: int) -> int:
    return _size(text, memory, low=PAGE_SIZE)


def _parse_align(text: str, memory: int) -> int:
    align = parse_size(text, memory)
    if not PAGE_SIZE <= align <= MAX_ALIGN or align & (align - 1):
        raise UsageError(f"{text} is not a power of two from 4K to 512G")
    return align


def _parse_count(text: str, memory: int) -> int:
    count = parse_size(text, memory)
    if not 1 <= count <= LARGEST_NUMBER:
        raise UsageError(f"{text} is not between 1 and {LARGEST_NUMBER}")
    return count


def _parse_inodes(text: str, memory: int) -> int:
    # The root directory and mshare_info are always there.
    return max(2, _parse_count(text, memory))


def _parse_mode(text: str, memory: int) -> int:
    try:
        return notation.parse_mode(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _id_parser(lookup: Callable[[str], int]) -> Parser:
    def parse(text: str, memory: int) -> int:
        short = len(text) <= LONGEST_NUMBER
        if short and text.isascii() and text.isdigit() and int(text) <= LARGEST_ID:
            return int(text)
        try:
            return lookup(text)
        except KeyError:
            raise UsageError(f"there is no '{text}' here") from None

    return parse


def _choice_parser(choices: tuple[str, ...]) -> Parser:
    def parse(text: str, memory: int) -> str:
        if text not in choices:
            raise UsageError(f"{text} is none of {', '.join(choices)}")
        return text

    return parse


def _parse_text(text: str, memory: int) -> str:
    return text


def _parse_without(text: str, memory: int) -> tuple[str, ...]:
    names = tuple(text.split(":"))
    for name in names:
        if name not in CAPABILITIES:
            raise UsageError(f"{name} is none of {', '.join(CAPABILITIES)}")
    return names


def _parse_metrics(text: str, memory: int) -> tuple[str, int]:
    """ADDRESS:PORT, or a port of the loopback interface; an IPv6 address in brackets."""
    address, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"{text} is not ADDRESS:PORT")
    return address.strip("[]") or LOOPBACK, int(port)


_PARSERS: dict[str, Parser] = {
    "size": _parse_bytes,
    "max_region": _parse_bytes,
    "align": _parse_align,
    "nr_inodes": _parse_inodes,
    "max_mappings": _parse_count,
    "mode": _parse_mode,
    "uid": _id_parser(lambda name: pwd.getpwnam(name).pw_uid),
    "gid": _id_parser(lambda name: grp.getgrnam(name).gr_gid),
    "huge": _choice_parser(HUGE_POLICIES),
    "data": _choice_parser(DATA_PLANES),
    "log_level": _choice_parser(LOG_LEVELS),
    "mpol": _parse_text,
    "metrics": _parse_metrics,
}
_PRIVATE_PARSERS: dict[str, Parser] = {
    f"{PRIVATE_PREFIX}without": _parse_without,
    f"{PRIVATE_PREFIX}crash": _parse_text,
}


def _unknown(name: str) -> str:
    if name.startswith(PRIVATE_PREFIX):
        return f"unknown option '{name}'; names with {PRIVATE_PREFIX} are for the tests alone"
    known = [*_PARSERS, *SWITCHES, *PASSED_ON, *TAKEN_SILENTLY]
    nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0)[0]
    return f"unknown option '{name}'; the nearest known one is '{nearest}'"


def log_level(options: MountOptions) -> int:
    """The level as the logging module has it."""
    return logging.getLevelNamesMapping()[options.log_level.upper()]
