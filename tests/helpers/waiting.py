"""Wait for a condition with a deadline, never for a length of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

STEP = 0.005


def eventually(
    condition: Callable[[], T], *, timeout: float = 30.0, what: str = "", step: float = STEP
) -> T:
    """The first true value of `condition`; AssertionError if there is none within `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition!r}, last {value!r}")
        time.sleep(step)
