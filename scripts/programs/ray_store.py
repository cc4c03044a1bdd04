"""Ray's object store: objects of 32 MiB go through it, from the driver to workers and back.

Run as a program by scripts/try_programs.py in an environment that has Ray; knows nothing of
mshare. Arguments: a directory for Ray's own files and, if wanted, one for the store. Says whether
all bytes arrived, and where this process has the store mapped.
"""

from __future__ import annotations

import sys

import numpy as np
import ray

LENGTH = 4 << 20
"""Numbers of an object, eight bytes each."""
STORE_BYTES = 256 << 20


def total(numbers: np.ndarray) -> float:
    """What a worker does with an object."""
    return float(numbers.sum())


def make(value: int) -> np.ndarray:
    """An object that a worker makes."""
    return np.full(LENGTH, value, dtype=np.float64)


def arrived() -> bool:
    """Whether objects come through with their bytes, in both directions."""
    numbers = np.arange(LENGTH, dtype=np.float64)
    put = ray.put(numbers)
    totals = ray.get([ray.remote(total).remote(put) for _ in range(2)])
    made = ray.get(ray.remote(make).remote(7))
    return totals == [float(numbers.sum())] * 2 and bool((made == 7).all())


def places() -> set[str]:
    """The files of at least half the store's size that this process has mapped."""
    found = set()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            words = line.split(maxsplit=5)
            start, end = (int(each, 16) for each in words[0].split("-"))
            if len(words) == 6 and end - start >= STORE_BYTES // 2:
                found.add(words[5].strip())
    return found


if __name__ == "__main__":
    where = {"_plasma_directory": sys.argv[2]} if len(sys.argv) > 2 else {}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=STORE_BYTES,
        logging_level="ERROR",
        _temp_dir=sys.argv[1],
        **where,
    )
    result = arrived()
    sys.stdout.write(f"{result} {' '.join(sorted(places()))}\n")
    ray.shutdown()
