"""The checks of memory in a real arena: a program, because it enters a mount namespace.

`python -m tests.unit.support.arena_child DIRECTORY` mounts a tmpfs on DIRECTORY and binds it over
/dev/shm, both in a namespace that ends with the process. It prints JSON: the traceback of
each check, or null where it passed. Exit code 3 and the reason on stderr where the system
does not allow a private namespace.
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
import sys
import traceback
from collections.abc import Callable

import pytest

from msharefs.core.ports import Segment
from msharefs.linux import syscalls
from msharefs.memory import objects, private
from msharefs.memory.private import Arena, ArenaOptions
from tests.unit.support.memory_checks import (
    HUGE,
    HUGE_CHECKS,
    MEMORY_CHECKS,
    PAGE,
    SEGMENT_CHECKS,
    Bench,
    KernelClient,
)

EXIT_NOT_ALLOWED = 3
CAPACITY = 32 << 20


def check_what_was_mounted(bench: Bench) -> None:
    """A tmpfs of root alone, without devices and set-user-ID, and the options asked for."""
    with open("/proc/self/mountinfo", encoding="ascii") as lines:
        words = [line.split() for line in lines]
    (own,) = (line for line in words if line[4] == objects.SHM and "msharefs" in line)
    assert {"nosuid", "nodev"} <= set(own[5].split(","))
    assert os.stat(objects.SHM).st_mode & 0o7777 == 0o700
    assert os.listdir(objects.SHM) == [private.BALLAST_NAME]
    assert (bench.memory.capacity, bench.memory.huge) == (CAPACITY, "never")


def check_an_aligned_range_becomes_huge_at_once(bench: Bench) -> None:
    """huge=always: 2 MiB that fit the limit exactly come as one huge page, 4 KiB do not."""
    bench.memory.set_limit(HUGE + PAGE)
    with bench.segment(2 * HUGE) as segment:
        segment.open().reserve(0, HUGE)
        assert mapped_as_huge(segment, 2 * HUGE) == HUGE
        segment.open().reserve(HUGE, PAGE)
        assert segment.allocated() == HUGE + PAGE


def mapped_as_huge(segment: Segment, size: int) -> int:
    """How many of the segment's first `size` bytes a process maps by huge pages, in bytes."""
    opened = segment.open()
    with mmap.mmap(opened.fileno(), size, prot=mmap.PROT_READ) as memory:
        # The touch makes the entry; the kernel has placed the map where it can be a huge one.
        assert memory[0] == 0
        with open("/proc/self/smaps", encoding="ascii") as lines:
            inode = f" {os.fstat(opened.fileno()).st_ino} "
            ours = itertools.dropwhile(lambda line: inode not in line, lines)
            entry = next(line for line in ours if line.startswith("ShmemPmdMapped:"))
    return int(entry.split()[1]) * 1024


def run(
    checks: list[Callable[[Bench], None]], bench: Bench, results: dict[str, str | None]
) -> None:
    """Run each, whatever the others say; each starts with a limit that allows all.

    `pytest.raises` fails with an exception that derives from BaseException alone."""
    for check in checks:
        bench.memory.set_limit(CAPACITY)
        try:
            check(bench)
            assert os.listdir(objects.SHM) == [private.BALLAST_NAME], "something is left"
        except (AssertionError, OSError, pytest.fail.Exception):
            results[check.__name__] = traceback.format_exc()
        else:
            results[check.__name__] = None


def in_arena(directory: str, huge: str) -> Bench:
    """Mount one and enter it."""
    options = ArenaOptions(CAPACITY, huge)
    private.provide(directory, options)
    private.enter(directory)
    return Bench(Arena(options), KernelClient())


def main() -> int:
    """Print the results."""
    directory = sys.argv[1]
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    except OSError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent reads it
        return EXIT_NOT_ALLOWED
    results: dict[str, str | None] = {}
    bench = in_arena(directory, "never")
    run([check_what_was_mounted, *SEGMENT_CHECKS, *MEMORY_CHECKS, *HUGE_CHECKS], bench, results)
    syscalls.umount(objects.SHM)
    syscalls.umount(directory)
    run([check_an_aligned_range_becomes_huge_at_once], in_arena(directory, "always"), results)
    json.dump(results, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
