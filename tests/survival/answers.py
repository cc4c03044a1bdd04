"""Programs that know nothing of mshare, beside themselves: the same random calls on segments plainly
and under mshare run, again and again with other ones.

Owns for how long, and what comes of it; how two runs are compared is tests/run/comparison.py's.
"""

from __future__ import annotations

import itertools
import time

from tests.helpers.mount import Mount
from tests.helpers.poke import compiled
from tests.run.comparison import SOURCE, differences
from tests.survival.load import Figures

OPTIONS = "size=2G"
STEPS = 1500


def run(mounted: Mount, seconds: float, seed: int) -> Figures:
    """Compare for so many seconds, and look whether the mount is empty after each pair of runs.

    In passthrough a touch beyond the end of a segment is no SIGBUS as long as the segment has
    memory there (docs/run.md), so that only the paged plane is asked for it.
    """
    how = "beyond" if mounted.status()["data_plane"]["name"] == "paged" else "within"
    figures = Figures()
    until = time.monotonic() + seconds
    with compiled(SOURCE) as program:
        for number in itertools.count(seed):
            found = differences(program, mounted.path / "region", number, STEPS, how)
            figures.client_errors += [f"seed {number}: {line}" for line in found]
            figures.operations += STEPS
            mounted.wait_until_empty()
            if found or time.monotonic() > until:
                break
    figures.zeros["seeds with a difference"] = len(figures.client_errors)
    return figures
