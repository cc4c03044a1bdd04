"""A mount whose server dies at a step of one request, and the time until the next serves.

Owns the order file of x-msharefs.crash=@NAME, and the supervisor's stop and go, so that a
test decides how long the gap lasts and what happens in it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.helpers.mount import Mount
from tests.helpers.waiting import eventually

T = TypeVar("T")

CRASH_OPTION = "x-msharefs.crash=@order"
"""The server looks for the step at which to die in a file of its state directory."""
DEATHS = r"the server ended with -9; starting a new one"
"""What the log says of it."""


def has_ended(pid: int) -> bool:
    """Whether a process runs no more; its parent may not have looked yet."""
    try:
        return state_of(pid) == "Z"
    except (FileNotFoundError, ProcessLookupError):
        # The latter where it ends between the open and the read.
        return True


def state_of(pid: int) -> str:
    """Of a process, as /proc has it. Raises OSError where there is none."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def held(pid: int) -> Iterator[None]:
    """The process does nothing in the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def through_a_crash(
    mounted: Mount, step: str, act: Callable[[], T], meanwhile: Callable[[], object] | None = None
) -> T:
    """What `act` returns, while the server dies at `step` of its request. `meanwhile` is
    called when the server is dead and no other runs yet."""
    assert mounted.state is not None
    order = mounted.state / "order"
    before = mounted.status()
    server = before["pids"]["server"]
    with ThreadPoolExecutor(1) as executor:
        with held(mounted.pid):
            draft = order.with_suffix(".draft")
            draft.write_text(f"{step}:1", encoding="ascii")
            draft.rename(order)
            result: Future[T] = executor.submit(act)
            try:
                eventually(lambda: has_ended(server), what=f"the server died at {step}")
                if meanwhile is not None:
                    meanwhile()
            finally:
                order.unlink(missing_ok=True)
        returned = result.result(timeout=20)
    assert mounted.status()["restarts"] == before["restarts"] + 1
    return returned
