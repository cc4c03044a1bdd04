"""Who has a region attached, told from /proc; servers only work on it."""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator

import pytest

from msharefs.inspect import processes
from tests.helpers.waiting import eventually

SIZE = 1 << 20


@pytest.fixture
def memory() -> Iterator[int]:
    """What stands for a region's memory."""
    fd = os.memfd_create("segment")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def attached(memory: int) -> Iterator[int]:
    """A child that has it mapped."""
    child = os.fork()
    if child == 0:
        try:
            window = mmap.mmap(memory, SIZE)
            signal.pause()
            window.close()
        finally:
            os._exit(0)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_child_of_the_supervisor_is_no_client(memory: int, attached: int) -> None:
    """Nor is a child of its child; everybody else is, also where nobody knows who serves."""
    facts = os.fstat(memory)
    region = {(facts.st_dev, facts.st_ino): 7}

    def seen(supervisor: int) -> bool:
        return attached in processes.scan((), region, supervisor).attached[7]

    eventually(lambda: seen(0), what="the child has mapped it")
    assert seen(attached)
    assert not seen(os.getpid())
    assert not seen(os.getppid())
