"""A job with NumPy over eight processes: how the array gets to them, and what that costs.

job.py pickled|multiprocessing|msharefs SIZE ROUNDS DIRECTORY prints a line a round: the seconds until all
have their part and the sums are back, in a pool that is there. The array is SIZE bytes, each process
takes an eighth: the sum of its square roots. `pickled` sends the parts; the others their name.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, shared_memory
from multiprocessing.pool import Pool

import numpy as np
from numpy.typing import NDArray

import msharefs

WORKERS = 8

Array = NDArray[np.float64]


def work(part: Array) -> float:
    """What each process does."""
    return float(np.sqrt(part).sum())


def of_block(name: str, part: int, each: int) -> float:
    """The same in a block of the standard library's."""
    block = shared_memory.SharedMemory(name)
    whole: Array = np.ndarray((each * WORKERS,), np.float64, buffer=block.buf)
    answer = work(whole[part * each : (part + 1) * each])
    del whole
    block.close()
    return answer


def of_region(path: str, part: int, each: int) -> float:
    """The same in a region."""
    with msharefs.Region.open(path) as region, region.attach() as attached:
        whole = attached.as_array(np.float64, (each * WORKERS,))
        answer = work(whole[part * each : (part + 1) * each])
        del whole
        return answer


@contextmanager
def job(kind: str, size: int, directory: str) -> Iterator[partial[list[float]]]:
    """The job, with its array in place."""
    each = size // 8 // WORKERS
    parts = range(WORKERS)
    with get_context("fork").Pool(WORKERS) as pool:
        if kind == "pickled":
            array: Array = np.arange(each * WORKERS, dtype=np.float64)
            yield partial(pool.map, work, [array[p * each : (p + 1) * each] for p in parts], 1)
        elif kind == "multiprocessing":
            block = shared_memory.SharedMemory(create=True, size=size)
            np.ndarray((each * WORKERS,), np.float64, buffer=block.buf)[:] = np.arange(
                each * WORKERS
            )
            yield _named(pool, of_block, block.name, each)
            block.close()
            block.unlink()
        else:
            path = f"{directory}/array"
            with msharefs.Region.create(path, size=size, map=True) as region:
                with region.attach() as attached:
                    attached.as_array(np.float64, (each * WORKERS,))[:] = np.arange(each * WORKERS)
                yield _named(pool, of_region, path, each)


def _named(
    pool: Pool, function: Callable[[str, int, int], float], name: str, each: int
) -> partial[list[float]]:
    return partial(pool.starmap, function, [(name, part, each) for part in range(WORKERS)], 1)


def main(kind: str, size: int, rounds: int, directory: str) -> None:
    """Print the lines."""
    with job(kind, size, directory) as run:
        run()  # a round unseen: the pool starts
        for _ in range(rounds):
            start = time.perf_counter()
            run()
            print(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
