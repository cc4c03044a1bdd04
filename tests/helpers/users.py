"""Run a piece of a test in a child process: as another user, or where it may be killed.

The child is forked, so the piece is any function of the test; what it returns or raises
comes back. Needs root to change the user.
"""

from __future__ import annotations

import os
import pickle
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

NOBODY = 65534
ALICE = 61001
BOB = 61002

T = TypeVar("T")


class ChildKilledError(Exception):
    """The child was ended by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)


def become(uid: int, groups: tuple[int, ...] = ()) -> None:
    """Turn this process into one of the user, with a group of the same number. No way back."""
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def open_the_way(directory: Path) -> None:
    """Let others go to a directory of the tests' own, however deep pytest made it."""
    machine = Path(tempfile.gettempdir())
    for each in (directory, *directory.parents):
        if machine in each.parents:
            each.chmod(each.stat().st_mode | 0o011)


def in_child(piece: Callable[[], T], *, uid: int = 0, groups: tuple[int, ...] = ()) -> T:
    """What `piece` returns or raises, run in a forked child. ChildKilledError after a signal."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _serve(piece, writer, uid, groups)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        raise ChildKilledError(os.WTERMSIG(status))
    good, result = pickle.loads(answer)
    if good:
        value: T = result
        return value
    raise result


def as_user(uid: int, piece: Callable[[], T], *, groups: tuple[int, ...] = ()) -> T:
    """`in_child` as this user, with umask 0 so that modes come out as they are asked for."""

    def with_open_umask() -> T:
        os.umask(0)
        return piece()

    return in_child(with_open_umask, uid=uid, groups=groups)


def _serve(piece: Callable[[], object], writer: int, uid: int, groups: tuple[int, ...]) -> None:
    """The child's whole life. It must never return into the test's own code."""
    try:
        try:
            if uid:
                become(uid, groups)
            answer = pickle.dumps((True, piece()))
        except BaseException as error:  # noqa: BLE001 - all of it is raised again in the parent
            answer = pickle.dumps((False, error))
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
    finally:
        os._exit(0)
