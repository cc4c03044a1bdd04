"""How far a server is with what an earlier one left: for its supervisor, and for the log.

Owns how often that is told: often enough that nobody takes slow for dead, and not at all where
there is little to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds."""


class Progress:
    """Called as often as one likes, with a few words on what is done so far."""

    def __init__(
        self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` tells the supervisor. `clock` gives seconds."""
        self._tell = tell
        self._clock = clock
        self._told_at = clock()

    def __call__(self, words: str) -> None:
        """Pass the words on, if it is time."""
        now = self._clock()
        if now - self._told_at >= INTERVAL:
            self._told_at = now
            log.info("taking up what is there: %s so far", words)
            self._tell(words)
