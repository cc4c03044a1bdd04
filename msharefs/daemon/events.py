"""What a supervisor waits for: signals, changes of the mount table, orders, and what the keeper of
files is asked.

Owns the descriptors for the first two. Knows nothing of what is to be done about them.
"""

from __future__ import annotations

import select
import signal
from collections.abc import Sequence
from typing import NamedTuple

from msharefs.linux import mountinfo, syscalls

SIGNALS = frozenset({signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Blocked, and taken one by one."""


class Event(NamedTuple):
    """What has happened; nothing of it when the time was over."""

    signal: signal.Signals | None = None
    mounts_changed: bool = False
    ordered: frozenset[int] = frozenset()
    keeper_asked: bool = False


class Events:
    """The descriptors on which a supervisor waits."""

    def __init__(self, orders: Sequence[int]) -> None:
        """`orders` are descriptors on which something is ordered. Raises OSError."""
        self._orders = frozenset(orders)
        self._signals = syscalls.signalfd(SIGNALS)
        self._table = mountinfo.OpenTable()
        self._poll = select.poll()
        self._poll.register(self._signals, select.POLLIN)
        self._poll.register(self._table, select.POLLPRI)
        for each in orders:
            self._poll.register(each, 0)

    def watch_orders(self, orders: int, watch: bool) -> None:
        """Whether it is told that something is ordered there, or nobody asks."""
        self._poll.modify(orders, select.POLLIN if watch else 0)

    def wait(self, seconds: float | None, keeper: int) -> Event:
        """The next event; the empty one if none comes within that time, which None does not
        limit. `keeper` is the descriptor on which the keeper of files is asked, another one after
        each server; -1 for none."""
        if keeper >= 0:
            self._poll.register(keeper, select.POLLIN)
        ready = dict(self._poll.poll(None if seconds is None else 1000 * max(seconds, 0)))
        if keeper >= 0:
            self._poll.unregister(keeper)
        return Event(
            syscalls.next_signal(self._signals) if self._signals in ready else None,
            self._table.fileno() in ready,
            self._orders & ready.keys(),
            keeper in ready,
        )
