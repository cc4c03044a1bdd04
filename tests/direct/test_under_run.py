"""Programs under mshare run have the memory of a region itself, on an ordinary user's mount."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.raw import MIB

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=direct"
SIZE = 64 * MIB

BEYOND = f"""
import ctypes, os, sys
mmap = ctypes.CDLL(None).mmap
mmap.restype = ctypes.c_void_p
mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_EXCL)
os.ftruncate(fd, {SIZE})
byte = ctypes.c_ubyte.from_address(mmap(None, {2 * SIZE}, 3, 1, fd, 0) + {SIZE + 5})
print(byte.value)
byte.value = 7
os.ftruncate(fd, {2 * SIZE})
print(byte.value)
byte.value = 8
print(byte.value, sys.argv[1] in open("/proc/self/maps").read())
os.unlink(sys.argv[1])
"""


@pytest.mark.user_only("a touch finds no memory on root's mount")
def test_what_is_beyond_the_end_of_a_segment(place: Path) -> None:
    """Reads as zeros, and what is written is lost: zeros are there when the segment grows."""
    name = f"/dev/shm/msharefs-test-beyond-{os.getpid()}"
    run = [
        sys.executable,
        "-m",
        "msharefs.cli.run",
        "--region",
        str(place),
        "--shm",
        "--strict",
        "--",
    ]
    done = subprocess.run(
        [*run, sys.executable, "-c", BEYOND, name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0\n0\n8 False\n", "")
