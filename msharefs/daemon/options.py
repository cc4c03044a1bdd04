"""-o options: parsed and checked once, here.

Owns names, defaults and the sentences about unknown options. What a value may be is in
option_values.py, what becomes of the options of others in foreign_options.py, and what an
option means is decided where it is used. This module touches nothing outside but the amount
of memory.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from msharefs.abi import DEFAULT_ALIGN, MAX_FILE_SIZE, PAGE_SIZE
from msharefs.core.inode import Automap
from msharefs.daemon import foreign_options, option_values
from msharefs.daemon.foreign_options import PASSED_ON, TAKEN_BACK
from msharefs.daemon.option_values import Parser, UsageError
from msharefs.linux.cgroup import memory_limit

HUGE_POLICIES = ("always", "within_size", "advise", "never")
DATA_PLANES = ("auto", "passthrough", "paged", "direct")
LOG_LEVELS = ("debug", "info", "warning", "error")
SECCOMP = ("auto", "on", "off")
DEFAULT_SIZE = "50%"
DEFAULT_MAX_MAPPINGS = 65530
"""vm.max_map_count's default."""
DEFAULT_MAX_MAPPINGS_TOTAL = 1 << 20
MEMORY_A_MAPPING = 16 << 10
"""Bytes of the machine's memory for each mapping that there may be by default; the daemon needs
some 200 for it."""
DEFAULT_MAX_FILES = 16384
"""Mappings of files: what is kept of one that is written back are two descriptors of the supervisor."""

BARE = {"automap": str(Automap.ON)}
"""What an option means that may stand without its value."""
SWITCHES = frozenset({"noswap", "overcommit", "allow_other", "fresh"})
PRIVATE_PREFIX = "x-msharefs."
"""Ours in the space that mount(8) leaves to everybody. All of it is for tests:
x-msharefs.without=A:B does without capabilities of the kernel, so that tests reach every
branch; x-msharefs.crash=STEP:N kills a process of the mount when it comes to a step for the
Nth time (failpoint.py)."""
TESTING = "MSHAREFS_TESTING"
"""The environment variable that tests set to 1. Without it nobody's fstab can name what is
for tests alone."""

_PARSERS: dict[str, Parser] = {
    "size": option_values.pages,
    "max_region": option_values.pages,
    "align": option_values.alignment,
    "nr_inodes": option_values.inodes,
    "max_mappings": option_values.count,
    "max_mappings_total": option_values.count,
    "max_files": option_values.count,
    "user_size": option_values.unless_off(option_values.pages),
    "user_inodes": option_values.unless_off(option_values.count),
    "user_mappings": option_values.unless_off(option_values.count),
    "user_files": option_values.unless_off(option_values.count),
    "mode": option_values.mode,
    "uid": option_values.user,
    "gid": option_values.group,
    "automap": option_values.one_of(tuple(Automap)),
    "huge": option_values.one_of(HUGE_POLICIES),
    "data": option_values.one_of(DATA_PLANES),
    "log_level": option_values.one_of(LOG_LEVELS),
    "seccomp": option_values.one_of(SECCOMP),
    "mpol": option_values.memory_policy,
    "metrics": option_values.endpoint,
    "fsname": option_values.anything,
}
_PRIVATE_PARSERS: dict[str, Parser] = {
    f"{PRIVATE_PREFIX}without": option_values.capabilities,
    f"{PRIVATE_PREFIX}crash": option_values.anything,
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What a mount was asked for. Sizes in bytes."""

    size: int
    nr_inodes: int
    align: int = DEFAULT_ALIGN
    max_region: int = MAX_FILE_SIZE
    max_mappings: int = DEFAULT_MAX_MAPPINGS
    max_mappings_total: int = DEFAULT_MAX_MAPPINGS_TOTAL
    max_files: int = DEFAULT_MAX_FILES
    user_size: int | None = None
    user_inodes: int | None = None
    user_mappings: int | None = None
    user_files: int | None = None
    mode: int = 0o1777
    uid: int = field(default_factory=os.getuid)
    gid: int = field(default_factory=os.getgid)
    automap: str = "off"
    huge: str = "always"
    mpol: str | None = None
    noswap: bool = False
    overcommit: bool = False
    data: str = "auto"
    log_level: str = "info"
    seccomp: str = "auto"
    allow_other: bool = False
    fresh: bool = False
    fsname: str | None = None
    without: tuple[str, ...] = ()
    crash: str = ""
    metrics: tuple[str, int] | None = None
    passed_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What a text names, without what it leaves to the defaults."""

    values: dict[str, Any]
    """msharefs' own options, by the names of MountOptions; of several the last."""
    words: tuple[str, ...]
    """The same as they are written."""
    passed_on: tuple[str, ...]


def parse_options(
    text: str, *, memory: int, sloppy: bool = False, testing: bool = False
) -> MountOptions:
    """Options as `mount -o` has them, for a new mount. The rest is that of `parse_given`."""
    given = parse_given(text, memory=memory, sloppy=sloppy, testing=testing)
    return replace(_defaults(memory), passed_on=given.passed_on, **given.values)


def parse_given(text: str, *, memory: int, sloppy: bool = False, testing: bool = False) -> Given:
    """Options as `mount -o` has them, separated by commas. `memory` is the machine's, in
    bytes. An option that is unknown or cannot be had is a UsageError unless `sloppy`; those
    for tests are known only while `testing`."""
    parsers = _PARSERS | _PRIVATE_PARSERS if testing else _PARSERS
    values: dict[str, Any] = {}
    words: list[str] = []
    passed_on: list[str] = []
    for word in map(_whole, _words(text)):
        name, has_value, value = word.partition("=")
        if name in parsers:
            if not value:
                raise UsageError(f"option '{name}' needs a value: {name}=...")
            values[name.removeprefix(PRIVATE_PREFIX)] = _value(parsers[name], name, value, memory)
            words.append(word)
        elif word in SWITCHES:
            values[word] = True
            words.append(word)
        elif name in PASSED_ON and not has_value:
            passed_on.append(word)
        elif word in TAKEN_BACK:
            passed_on = [each for each in passed_on if each != TAKEN_BACK[word]]
        elif not (_is_silent(word) or sloppy):
            raise UsageError(_refusal(word))
    return Given(values, tuple(words), tuple(passed_on))


def _defaults(memory: int) -> MountOptions:
    return MountOptions(
        size=option_values.pages(DEFAULT_SIZE, memory),
        nr_inodes=memory // PAGE_SIZE // 2,
        max_mappings_total=max(DEFAULT_MAX_MAPPINGS, memory // MEMORY_A_MAPPING),
    )


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


def _whole(word: str) -> str:
    return f"{word}={BARE[word]}" if word in BARE else word


def _value(parser: Parser, name: str, text: str, memory: int) -> Any:
    try:
        return parser(text, memory)
    except UsageError as error:
        raise UsageError(f"option '{name}': {error}") from error


def _is_silent(word: str) -> bool:
    return foreign_options.is_taken_silently(word) and not word.startswith(PRIVATE_PREFIX)


def _refusal(word: str) -> str:
    """The sentence about a word that is not taken."""
    name, has_value, _ = word.partition("=")
    if name.startswith(PRIVATE_PREFIX):
        return f"unknown option '{name}'; names with {PRIVATE_PREFIX} are for the tests alone"
    if (obstacle := foreign_options.obstacle(name)) is not None:
        return f"option '{name}' cannot be had: {obstacle}"
    known = {*_PARSERS, *SWITCHES, *PASSED_ON, *TAKEN_BACK, *foreign_options.SILENT}
    if has_value and name in known:
        return f"option '{name}' takes no value"
    nearest = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0)[0]
    return f"unknown option '{name}'; the nearest known one is '{nearest}'"


def total_memory(root: str = "/") -> int:
    """The machine's memory in bytes, or what the control groups of this process allow of it. The
    groups' files are below `root`."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    group = memory_limit(root)
    return machine if group is None else min(machine, group)


def log_level(options: MountOptions) -> int:
    """The level as the logging module has it."""
    return logging.getLevelNamesMapping()[options.log_level.upper()]
