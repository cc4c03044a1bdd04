"""The pauses between requests: the next one is looked for, then slept for, then left to the loop.

Owns how long each of these lasts. A client that was answered often asks again at once, and to look
is cheaper than to sleep and be woken; to sleep on this one descriptor is cheaper than to have trio
wait, which asks about all that it has. How long a look pays is learnt from when the last requests
came. Knows nothing of requests, and nothing of who else is in the loop: whoever looks and sleeps here
keeps all others from running meanwhile.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from time import perf_counter

SHORTEST_LOOK = 50e-6
LONGEST_LOOK = 200e-6
"""Seconds. Even among long pauses there are short ones, between open and close for example."""
SLEEP_MS = 1
"""Milliseconds of a sleep."""
TURN = 2e-3
"""Seconds after which others have their turn before the next sleep, or the next request."""
BURST = 16
"""So many requests are served before that in any case: where the machine is busy each may take as long."""


class Waiting:
    """The pauses between the requests that are read from one descriptor."""

    def __init__(
        self, fd: int, *, alone: bool = False, clock: Callable[[], float] = perf_counter
    ) -> None:
        """`alone` says that no client can run while we look: there is one processor."""
        self._clock = clock
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._look = 0.0 if alone else SHORTEST_LOOK
        self._since = self._turn_ends = 0.0
        self._served = 0

    def begin(self) -> None:
        """A request has been dealt with. On the path of every request."""
        self._since = self._clock()
        self._served += 1

    def end(self) -> None:
        """The next one is there. On the path of every request."""
        pause = self._clock() - self._since
        if pause > self._look:
            self._learn(pause)

    def look(self) -> bool:
        """Look for a request as long as that pays. Returns whether one is there."""
        ends = self._since + self._look
        while self._clock() < ends:
            os.sched_yield()
            # To ask whether there is one costs a third of a try to read it.
            if self._poll.poll(0):
                return True
        return False

    def sleep(self) -> bool:
        """Sleep until a request is there. False after a moment in which none came, and at once
        where it is others' turn."""
        return self._clock() < self._turn_ends and bool(self._poll.poll(SLEEP_MS))

    def others_had_their_turn(self) -> None:
        """Everybody else in the loop could run."""
        self._turn_ends = self._clock() + TURN
        self._served = 0

    def is_others_turn(self) -> bool:
        """Whether everybody else has waited long enough, when a request has been dealt with."""
        return self._served >= BURST and self._since >= self._turn_ends

    def _learn(self, pause: float) -> None:
        """From one that a look did not see the end of."""
        if pause < LONGEST_LOOK:
            self._look = min(2 * self._look, LONGEST_LOOK)
        elif self._look > SHORTEST_LOOK:
            self._look /= 2
