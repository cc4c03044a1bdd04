"""A few seconds of all troubles at once; `make soak` has the long run.

MSHAREFS_SURVIVAL_SEED repeats a choice of troubles; their interleaving is the machine's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from tests.helpers import mount

pytestmark = [
    pytest.mark.mount,
    pytest.mark.slow,
    pytest.mark.root_only("only root has a mount namespace in which /run is small"),
]
SECONDS = 3
SEED = os.environ.get("MSHAREFS_SURVIVAL_SEED", str(time.time_ns() % 10**6))


@pytest.mark.parametrize("plane", mount.planes())
def test_nothing_is_lost_and_nobody_waits(requires_fuse: None, plane: str) -> None:
    """See hostile.py; whatever of its table is not 0 ends it with 1."""
    command = [sys.executable, "-m", "tests.survival.soak", "--hostile", str(SECONDS)]
    done = subprocess.run(
        [*command, "--data", plane, "--seed", SEED],
        cwd=mount.ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
