"""First touches of large attachments on a user's mount read as far ahead as on root's."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

import msharefs
from msharefs.shared_memory import SharedMemory
from tests.helpers import raw
from tests.helpers.mount import Mount, as_a_user_has_it
from tests.helpers.raw import HUGE, MIB

MOUNT_OPTIONS = "size=64M,data=paged"

SIZE = 16 * MIB
LARGEST_READ = MIB


@pytest.fixture(autouse=True)
def _as_a_user_has_it(mounted: Mount) -> None:
    as_a_user_has_it(mounted.path)


def touch(memory: memoryview) -> None:
    """Each page in order."""
    for offset in range(0, len(memory), mmap.PAGESIZE):
        memory[offset] = 1


def test_the_library_reads_far_ahead(mounted: Mount, place: Path) -> None:
    """A plain mmap of the same bytes asks eight times as often."""
    with msharefs.Region.create(place, SIZE, map=True) as region:
        place.unlink()
        before = mounted.requests("READ")
        with region.attach() as attachment:
            touch(attachment.buf)
        far = mounted.requests("READ") - before
        region.unmap(0, SIZE)
        region.map(0, SIZE)
        before = mounted.requests("READ")
        with mmap.mmap(region.fileno(), SIZE) as plain, memoryview(plain) as memory:
            touch(memory)
        near = mounted.requests("READ") - before
    assert far <= SIZE // LARGEST_READ + 1
    assert near >= SIZE // (128 << 10)


def test_shared_memory_reads_far_ahead(mounted: Mount) -> None:
    """SharedMemory, too; its footer and what is looked at beforehand are a few more."""
    memory = SharedMemory(create=True, size=SIZE, directory=mounted.path)
    try:
        before = mounted.requests("READ")
        touch(memory.buf)
        assert mounted.requests("READ") - before <= SIZE // LARGEST_READ + 4
    finally:
        memory.close()
        memory.unlink()


def test_what_is_told_to_other_programs(place: Path) -> None:
    """R11: the advice is an attribute of each region."""
    with raw.region(place, HUGE) as fd:
        assert int(os.getxattr(fd, "user.msharefs.advice")) == mmap.MADV_HUGEPAGE
