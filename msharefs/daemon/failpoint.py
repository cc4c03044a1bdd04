"""The seam at which tests end a process of a mount, as kill -9 would (x-msharefs.crash=).

Knows failpoints by their names alone: those of a request are named where requests are
served, those of a mount's life in supervisor.py and startup.py.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress


class Failpoint:
    """Called at each step that a process comes to; ends the process at one, as kill -9 would.

    An order "STEP:N" means the Nth time that the process comes to STEP. An order "@NAME"
    names a file of the state directory where such an order is put while the mount is in use;
    it is looked for with each request, and taken away.
    """

    def __init__(self, order: str, state: str, *, restarts: int) -> None:
        """Nothing happens without an order, or in a server that replaces another, unless
        the order comes in a file of the directory `state`."""
        self._file = os.path.join(state, order[1:]) if order.startswith("@") else None
        self._step, self._left = "", 0
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
            os.kill(os.getpid(), signal.SIGKILL)

    def _look(self, path: str) -> None:
        with suppress(FileNotFoundError):
            with open(path, encoding="ascii") as file:
                self._take(file.read())
            os.unlink(path)

    def _take(self, order: str) -> None:
        step, _, number = order.partition(":")
        self._step, self._left = step.replace("_", " "), int(number or 1)
