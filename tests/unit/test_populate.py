"""The system call that a thread is in, where it makes pages present."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from msharefs.linux.populate import RUNNING, populating_call
from tests.helpers.waiting import eventually


@pytest.fixture
def waiting_thread() -> Iterator[int]:
    """A thread that waits in a system call of another kind."""
    known, over = threading.Event(), threading.Event()
    ids = []

    def wait() -> None:
        ids.append(threading.get_native_id())
        known.set()
        over.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    known.wait()
    yield ids[0]
    over.set()
    thread.join()


def test_other_calls_do_not_count(waiting_thread: int) -> None:
    """A thread that waits, and this one, which reads."""
    eventually(lambda: populating_call(waiting_thread) == "")
    assert populating_call(threading.get_native_id()) == ""


def test_one_that_runs() -> None:
    """It may be in any call, or in none."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            eventually(lambda: populating_call(spinning.pid) == RUNNING)
        finally:
            spinning.kill()


def test_one_that_cannot_be_seen() -> None:
    """It has ended, or was never in our pid namespace."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert populating_call(done.pid) is None
    assert populating_call(0) is None
