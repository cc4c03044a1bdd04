"""The command line of the bench: which of its tables is made, and a clean end on a signal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from . import rows
from .postgres import command as postgres
from .processes import NotMeasured

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

TABLES = {"rows": rows.main, "postgres": postgres.main}


def main(arguments: Sequence[str]) -> int:
    """Make the table that the first word names; without one the rows beside the peers.

    0: measured (met or not); 1: something could not be measured; 2: usage, or something is
    missing here.
    """
    name = arguments[0] if arguments and arguments[0] in TABLES else "rows"
    words = arguments[arguments[:1] == [name] :]
    if os.geteuid() != 0 and not {"-h", "--help"} & set(words):
        print("bench: needs root, because passthrough mounts do", file=sys.stderr)
        return 2
    for number in ENDING:
        signal.signal(number, _leave)
    try:
        return TABLES[name](words)
    except (NotMeasured, OSError) as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1


def _leave(number: int, _frame: FrameType | None) -> None:
    """A signal ends the run the way an exception does: everything is taken down."""
    # A second one must not interrupt the taking down.
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)
