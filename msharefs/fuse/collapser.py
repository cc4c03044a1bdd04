"""Puts memory into pages of 2 MiB in the background, a few at a time.

Owns when that is done and how much at once, so that nobody is held up: a change waits only where it
touches the very range that is being worked on, and as long as one step took nothing is done
afterwards. What is to be collapsed, and when the kernel is not asked any more, is core's.

It has no lower priority than others: whoever touches the range meanwhile waits for it, and a thread
that nobody lets run would make him wait for long.
"""

from __future__ import annotations

import errno
import math
import time

import trio

from msharefs.core.collapsing import Collapsing, Step
from msharefs.fuse.changes import Changes

STEP_SECONDS = 0.01
"""What a step should take at most; one huge page may take longer on a busy machine."""
MOST = 32
"""Huge pages in a step, where they are huge already, which costs next to nothing."""
CHANGING_SECONDS = 0.05
"""After that long a region that is being changed is looked at again."""
FIRST_RETRY, LAST_RETRY = 1.0, 600.0
"""Seconds until what was left is tried again; twice as long each time, but no longer than that."""


class Collapser:
    """One for a mount."""

    def __init__(self, collapsing: Collapsing, changes: Changes) -> None:
        self._collapsing = collapsing
        self._changes = changes
        self._work = trio.Event()
        self._most = 1
        collapsing.call_for_work(self._wake)

    async def run(self) -> None:
        """As long as the server runs."""
        pause, retry_at = FIRST_RETRY, math.inf
        while True:
            with trio.move_on_at(retry_at):
                await self._wait_for_work()
            if trio.current_time() >= retry_at:
                self._collapsing.try_again()
                retry_at = math.inf
            while self._collapsing.has_work:
                await self._go_on()
            if not self._collapsing.has_rest:
                pause, retry_at = FIRST_RETRY, math.inf
            elif retry_at == math.inf:
                retry_at = trio.current_time() + pause
                pause = min(2 * pause, LAST_RETRY)

    def _wake(self) -> None:
        self._work.set()

    async def _wait_for_work(self) -> None:
        if not self._collapsing.has_work:
            self._work = trio.Event()
            await self._work.wait()

    async def _go_on(self) -> None:
        step = self._collapsing.next(self._most)
        if step is None:
            await trio.lowlevel.checkpoint()
        elif self._changes.is_changing(step.region.ino):
            self._collapsing.put_off(step)
            await trio.sleep(CHANGING_SECONDS)
        else:
            await self._take(step)

    async def _take(self, step: Step) -> None:
        started = time.monotonic()
        with self._changes.kept_apart(step.region.ino, step.part):
            code = await trio.to_thread.run_sync(_collapse, step)
        if code == 0:
            self._collapsing.succeeded(step)
        else:
            self._collapsing.failed(step, code)
        took = time.monotonic() - started
        self._most = _next_size(self._most, took) if code == 0 else 1
        await trio.sleep(took)


def _collapse(step: Step) -> int:
    """In a thread. The errno, 0 where all of it is huge now."""
    segment = step.region.segment
    try:
        if segment is None:
            return errno.EAGAIN
        segment.open().collapse(step.part.start, step.part.end - step.part.start)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _next_size(size: int, took: float) -> int:
    """How many huge pages the next step should have, where one of `size` took so many seconds."""
    if took > STEP_SECONDS:
        return max(size // 2, 1)
    return min(size * 2, MOST) if took < STEP_SECONDS / 2 else size
