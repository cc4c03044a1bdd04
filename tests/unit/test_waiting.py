"""The pauses between requests: how long one is looked for, and when it is slept for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from msharefs.fuse.waiting import BURST, LONGEST_LOOK, SHORTEST_LOOK, TURN, Waiting

TICK = 1e-6
"""Seconds between two looks at the clock."""


def about(seconds: float) -> object:
    """So long, but for what the looks at the clock take."""
    return pytest.approx(seconds, abs=3 * TICK)


@dataclass
class Pauses:
    """A descriptor that is waited for, at a time of the test's own."""

    writer: int
    now: float = 100.0
    waiting: Waiting = field(init=False)

    def clock(self) -> float:
        """The time, which goes on a little with each look at it."""
        self.now += TICK
        return self.now

    def pause(self, seconds: float) -> None:
        """Between two requests, in which no look sees the end."""
        self.waiting.begin()
        self.now += seconds
        self.waiting.end()

    def looked(self) -> float:
        """For how many seconds it looks for a request that does not come."""
        self.waiting.begin()
        began = self.now
        assert not self.waiting.look()
        return self.now - began

    def ask(self) -> None:
        """Somebody writes."""
        os.write(self.writer, b"x")


@contextmanager
def pauses(*, alone: bool = False) -> Iterator[Pauses]:
    """Of a daemon whose others had their turn just now."""
    reader, writer = os.pipe()
    try:
        made = Pauses(writer)
        made.waiting = Waiting(reader, alone=alone, clock=made.clock)
        made.waiting.others_had_their_turn()
        yield made
    finally:
        os.close(reader)
        os.close(writer)


def test_a_look_becomes_longer_where_that_would_have_paid() -> None:
    """A client that asks again soon is awaited, up to a bound."""
    with pauses() as made:
        assert made.looked() == about(SHORTEST_LOOK)
        for _ in range(4):
            made.pause(0.9 * LONGEST_LOOK)
        assert made.looked() == about(LONGEST_LOOK)


def test_a_look_becomes_shorter_where_it_does_not_pay() -> None:
    """Not shorter than what sees the second of two requests in a row."""
    with pauses() as made:
        for _ in range(4):
            made.pause(0.9 * LONGEST_LOOK)
        for _ in range(4):
            made.pause(2 * LONGEST_LOOK)
        assert made.looked() == about(SHORTEST_LOOK)


def test_what_a_look_saw_changes_nothing() -> None:
    """Its length is learnt from pauses that were longer."""
    with pauses() as made:
        for _ in range(4):
            made.pause(0.9 * SHORTEST_LOOK)
        assert made.looked() == about(SHORTEST_LOOK)


def test_nobody_looks_with_one_processor() -> None:
    """The client could not run meanwhile."""
    with pauses(alone=True) as made:
        for _ in range(4):
            made.pause(0.9 * LONGEST_LOOK)
        assert made.looked() == about(0.0)


def test_a_look_sees_a_request() -> None:
    """At once, and again while nobody has read it."""
    with pauses() as made:
        made.waiting.begin()
        made.ask()
        assert made.waiting.look()
        assert made.now - 100.0 < 0.5 * SHORTEST_LOOK


def test_a_request_ends_a_sleep() -> None:
    """And so does a moment without one."""
    with pauses() as made:
        assert not made.waiting.sleep()
        made.ask()
        assert made.waiting.sleep()


def test_a_sleep_leaves_others_their_turn() -> None:
    """A client that asks again and again keeps nobody else in the loop from running."""
    with pauses() as made:
        made.ask()
        made.now += 0.9 * TURN
        assert made.waiting.sleep()
        made.now += 0.2 * TURN
        assert not made.waiting.sleep()
        made.waiting.others_had_their_turn()
        assert made.waiting.sleep()


def test_others_have_their_turn_after_a_time_and_some_requests() -> None:
    """Not after each of those that take long, nor very often among those that do not."""
    with pauses() as made:
        for _ in range(2 * BURST):
            made.waiting.begin()
            assert not made.waiting.is_others_turn()
        made.now += TURN
        made.waiting.begin()
        assert made.waiting.is_others_turn()
        made.waiting.others_had_their_turn()
        made.now += TURN
        for _ in range(BURST - 1):
            made.waiting.begin()
            assert not made.waiting.is_others_turn()
        made.waiting.begin()
        assert made.waiting.is_others_turn()
