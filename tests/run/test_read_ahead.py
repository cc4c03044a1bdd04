"""mshare run on a user's mount: first touches of large ranges read far ahead."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers.mount import Mount, as_a_user_has_it
from tests.run.programs import MIB, run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=64M,data=paged"

SIZE = 16 * MIB
SYSTEM_V = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
shm = libc.shmget(0, int(sys.argv[1]), 0o1600)
at = libc.shmat(shm, None, 0)
libc.shmctl(shm, 0, None)
for page in range(0, int(sys.argv[1]), 4096): ctypes.memset(at + page, 1, 1)
"""
ANONYMOUS = """
import mmap, sys
memory = mmap.mmap(-1, int(sys.argv[1]))
for page in range(0, len(memory), 4096): memory[page] = 1
"""


@pytest.mark.parametrize("program", [ANONYMOUS, SYSTEM_V])
def test_a_large_range_is_read_far_ahead(mounted: Mount, place: Path, program: str) -> None:
    """By 1 MiB a request, and not by 128 KiB as the kernel does by itself."""
    as_a_user_has_it(mounted.path)
    before = mounted.requests("READ")
    done = run(
        place, sys.executable, "-c", program, str(SIZE), options=("--shm", "--min-size", "1M")
    )
    assert (done.returncode, done.stderr) == (0, "")
    asked = mounted.requests("READ") - before
    assert SIZE // MIB <= asked <= 2 * SIZE // MIB
