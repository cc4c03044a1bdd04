"""Tokens: once, for some seconds, for what the handle was."""

from __future__ import annotations

import errno
import os

from msharefs.fuse.tokens import LIFETIME, MOST, Tokens
from tests.unit.support.worlds import refused


def test_once() -> None:
    """What it was given for, and then nothing."""
    tokens = Tokens()
    given = tokens.give(7, os.O_RDONLY)
    promise = tokens.take(given.token)
    assert (promise.ino, promise.access) == (7, os.O_RDONLY)
    with refused(errno.ESTALE):
        tokens.take(given.token)


def test_not_for_long() -> None:
    """A client that was stopped meanwhile begins again."""
    now = 0.0
    tokens = Tokens(lambda: now)
    early, late = tokens.give(7, os.O_RDWR), tokens.give(7, os.O_RDWR)
    now = LIFETIME
    tokens.take(early.token)
    now = LIFETIME + 0.1
    with refused(errno.ESTALE):
        tokens.take(late.token)


def test_nobody_guesses_one() -> None:
    """Neither what is too short, nor nothing."""
    tokens = Tokens()
    given = tokens.give(7, os.O_RDWR)
    for guess in (b"", given.token[:-1], given.token + b"\0", bytes(16)):
        with refused(errno.ESTALE):
            tokens.take(guess)
    assert tokens.take(given.token).ino == 7


def test_no_two_are_alike() -> None:
    """Of one server; and servers have addresses of their own, which fit into the answer."""
    tokens = Tokens()
    given = [tokens.give(7, os.O_RDWR) for _ in range(100)]
    assert len({each.token for each in given}) == 100
    assert {each.uid for each in given} == {os.geteuid()}
    assert {each.unpack(each.pack()) for each in given} == set(given)
    assert Tokens().address != tokens.address


def test_a_flood_costs_no_memory() -> None:
    """The oldest go."""
    tokens = Tokens()
    given = [tokens.give(number, os.O_RDWR).token for number in range(MOST + 1)]
    with refused(errno.ESTALE):
        tokens.take(given[0])
    assert [tokens.take(token).ino for token in given[1:]] == list(range(1, MOST + 1))
