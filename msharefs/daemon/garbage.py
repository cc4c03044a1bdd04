"""Python's look for garbage, kept short in a server that has very many regions.

Owns when the collector looks, and at what. References are counted; what the collector is for are cycles, of
which a server makes a few in each request and none that stays. But a look at everything takes
50 ms with 30,000 regions, in the middle of some request. So what has stayed is frozen, that is never looked
at again, once for all that is recovered, and then every few seconds.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def all_stays() -> Iterator[None]:
    """Nothing that the body makes is garbage, soon or ever."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def freeze_what_stays() -> None:
    """Look for garbage among what was made since the last time, and freeze the rest. A server that
    had next to nothing to do has nothing to look at."""
    _made, *looks = gc.get_count()
    if any(looks):
        gc.collect()
        gc.freeze()
