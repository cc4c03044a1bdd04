"""Requests that take long, ended for callers who are being killed or have been told to stop.

Owns which requests the kernel has asked to interrupt, and when that is done. It asks for any signal, once;
but a program with a timer or a profiler, which gets a signal every few milliseconds, would never
have a large reservation. So a caller's signals are looked at, now and again while his request goes on: what is
meant to end something ends it, anything else does not. How a request ends early is its handler's.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from msharefs.fuse.kernel import FUSE_UNIQUE_RESEND
from msharefs.fuse.messages import Header

LOOK = 0.05
"""Seconds between looks at the signals of those whose requests go on."""


class Interrupts:
    """Those that were asked for and not done yet."""

    def __init__(self, is_told_to_stop: Callable[[int], bool]) -> None:
        """Whether the thread with this number is."""
        self._is_told_to_stop = is_told_to_stop
        self._working: dict[int, tuple[int, trio.CancelScope]] = {}
        self._asked: set[int] = set()

    def begin(self, header: Header) -> trio.CancelScope:
        """A request is worked on from now on, within this scope, until `end`."""
        scope = trio.CancelScope()
        self._working[_number(header.unique)] = (header.pid, scope)
        return scope

    def end(self, unique: int) -> None:
        """A request has its answer, however that came. On the path of every request."""
        if self._working or self._asked:
            self._working.pop(_number(unique), None)
            self._asked.discard(_number(unique))

    def ask(self, unique: int) -> bool:
        """The kernel asks for one, whose request may wait for its turn still. Returns whether
        `watch` must be started."""
        first = not self._asked
        self._asked.add(_number(unique))
        return first

    async def watch(self) -> None:
        """Until all have been done or are of no use any more."""
        while self._asked:
            for unique in [*self._asked]:
                if (found := self._working.get(unique)) and self._is_told_to_stop(found[0]):
                    found[1].cancel()
                    self._asked.discard(unique)
            await trio.sleep(LOOK)

    def forget(self) -> None:
        """The connection is gone, and with it all who wait."""
        self._asked.clear()


def _number(unique: int) -> int:
    return unique & ~FUSE_UNIQUE_RESEND
