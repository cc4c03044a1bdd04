"""Blocks of SharedMemory in a loop, ours and the standard library's, in turns.

blocks.py create|attach ROUNDS COUNT DIRECTORY prints a line a round and side: "ours" or
"theirs", and the nanoseconds of one operation.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import shared_memory as standard

from msharefs.shared_memory import SharedMemory

Kind = Callable[..., standard.SharedMemory | SharedMemory]

SIZE = 100


def nanoseconds(operation: Callable[[], object], count: int) -> float:
    """The time of one of many."""
    start = time.perf_counter_ns()
    for _ in range(count):
        operation()
    return (time.perf_counter_ns() - start) / count


def create(kind: Kind) -> None:
    """The life of a block."""
    block = kind(create=True, size=SIZE)
    block.close()
    block.unlink()


def attach(kind: Kind, name: str) -> None:
    """What each further process does."""
    kind(name).close()


def main(what: str, rounds: int, count: int, directory: str) -> None:
    """Print the lines."""
    kinds: dict[str, Kind] = {
        "ours": partial(SharedMemory, directory=directory),
        "theirs": standard.SharedMemory,
    }
    blocks = {side: kind(create=True, size=SIZE) for side, kind in kinds.items()}
    try:
        for _ in range(rounds):
            for side, kind in kinds.items():
                operation = partial(create, kind)
                if what == "attach":
                    operation = partial(attach, kind, blocks[side].name)
                print(side, nanoseconds(operation, count))
    finally:
        for block in blocks.values():
            block.close()
            block.unlink()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
