"""Following the changes of a region's layout.

Owns `layouts`, which asks again and again. inotify cannot serve: the kernel reports what is
written to a file or done to its name, and an ioctl, which is how a layout changes, is neither.
One question is one short request of the mount, whatever the number of mappings.

It knows a layout and how to ask for one, not what it is the layout of (region.py).
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from msharefs.client.layout import Generation, Layout


@dataclass(frozen=True, slots=True)
class Source:
    """Where layouts come from. The first two raise OSError or ValueError once it is closed."""

    layout: Callable[[], Layout]
    """The whole layout now."""
    generation: Callable[[int], Generation]
    """Which one it is now, of a region of so many bytes: a short question."""
    closed: Callable[[], bool]
    """Whether somebody has closed it, in another thread for example."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, in seconds; a test brings its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


def layouts(
    source: Source, interval: float, timeout: float | None, *, clock: Clock = CLOCK
) -> Iterator[Layout]:
    """The layout now, then each time it is another one; see `Region.watch`.

    `interval` and `timeout` are seconds. Ends when the source is closed, or after `timeout`
    without a change. Raises what the source raises while it is open.
    """
    with _until_closed(source.closed):
        while True:
            seen = source.layout()
            yield seen
            deadline = math.inf if timeout is None else clock.now() + timeout
            while source.generation(seen.size) == seen.generation:
                left = deadline - clock.now()
                if left <= 0:
                    return
                clock.sleep(min(interval, left))


@contextmanager
def _until_closed(closed: Callable[[], bool]) -> Iterator[None]:
    """Whatever fails because another thread has closed the source is an end, not an error."""
    try:
        yield
    except (OSError, ValueError):
        if not closed():
            raise
