"""The seam at which tests end a process of a mount (x-msharefs.crash=).

Knows failpoints by their names alone: those of a request are named where requests are
served, those of a mount's life in supervisor.py and startup.py.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress


class Failpoint:
    """Called at each step that a process comes to; ends the process at one.

    An order "STEP:N" means the Nth time that the process comes to STEP, as kill -9 would end it;
    with "STEP:N:ABRT" it ends by that signal, as one that fails does. An order "@NAME" names a file
    of the state directory where such an order is put while the mount is in use; it is looked for
    with each request, and taken away.
    """

    def __init__(self, order: str, state: str, *, restarts: int) -> None:
        """Nothing happens without an order, or in a server that replaces another, unless
        the order comes in a file of the directory `state`."""
        self._file = os.path.join(state, order[1:]) if order.startswith("@") else None
        self._step, self._left, self._signal = "", 0, signal.SIGKILL
        if order and self._file is None and not restarts:
            self._take(order)

    def __call__(self, step: str) -> None:
        """The process has come to a step."""
        if self._file is not None and step == "request read":
            self._look(self._file)
        if step != self._step:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._signal)

    def _look(self, path: str) -> None:
        with suppress(FileNotFoundError):
            with open(path, encoding="ascii") as file:
                self._take(file.read())
            os.unlink(path)

    def _take(self, order: str) -> None:
        step, *more = order.split(":")
        number, name = (*more, *("1", "KILL")[len(more) :])
        self._step, self._left = step.replace("_", " "), int(number)
        self._signal = signal.Signals[f"SIG{name}"]
