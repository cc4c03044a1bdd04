"""The same as watch.py for programs with an event loop, trio's or asyncio's.

Owns the waiting: it sleeps as the loop does, and asks the mount in a thread, because a mount whose
server is being replaced answers late, and the loop must go on meanwhile. anyio, which knows whose
loop runs, is imported when a watch begins.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from typing import TypeVar

    from msharefs.client.layout import Layout
    from msharefs.client.watch import Source

    T = TypeVar("T")


async def layouts(source: Source, interval: float, quiet: float | None) -> AsyncIterator[Layout]:
    """The layout now, then each time it is another one; see `Region.watch_async`. Ends after
    `quiet` seconds without a change, and when the source is closed. Raises
    ModuleNotFoundError without anyio."""
    import anyio  # noqa: PLC0415 - an extra, for whom this is called

    while True:
        seen = await _asked(source, source.layout)
        if seen is None:
            return
        yield seen
        deadline = math.inf if quiet is None else anyio.current_time() + quiet
        while True:
            now = await _asked(source, partial(source.generation, seen.size))
            if now is None:
                return
            if now != seen.generation:
                break
            left = deadline - anyio.current_time()
            if left <= 0:
                return
            await anyio.sleep(min(interval, left))


async def _asked(source: Source, question: Callable[[], T]) -> T | None:
    """The answer, or None where the source was closed meanwhile: an end, and not an error."""
    from anyio import to_thread  # noqa: PLC0415 - see above

    try:
        # One that is cancelled is not waited for: the thread has nothing to do afterwards.
        return await to_thread.run_sync(question, abandon_on_cancel=True)
    except (OSError, ValueError):
        if not source.closed():
            raise
        return None
