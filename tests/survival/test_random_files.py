"""Random steps with regions and files, compared with the model of files after each, with kills of the server.

MSHAREFS_SURVIVAL_SEED repeats a choice of steps.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.helpers import mount
from tests.survival import random_files

pytestmark = pytest.mark.mount

PLANES = (*mount.planes(), "direct")
MOUNT_OPTIONS = random_files.OPTIONS
SEED = int(os.environ.get("MSHAREFS_SURVIVAL_SEED", time.time_ns() % 10**6))
STEPS = 150


@pytest.mark.parametrize("every", [0, 10])
def test_regions_and_files_are_what_the_model_says(
    mounted: mount.Mount, tmp_path: Path, every: int
) -> None:
    """C17, C28, C31: without kills, and with one in ten steps."""
    client = random_files.run(
        mounted, tmp_path, SEED, STEPS, lambda number: every > 0 and number % every == every - 1
    )
    assert client.kills == (STEPS // every if every else 0)
