"""The server is killed at random instants under sixteen clients: nothing is lost, nothing
is doubled, no client sees an error, and nothing leaks.

soak.py is the long run. MSHAREFS_SURVIVAL_SEED repeats a choice of operations.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.helpers.fixtures import MakeMount
from tests.survival import load

pytestmark = [pytest.mark.mount, pytest.mark.slow]
SEED = int(os.environ.get("MSHAREFS_SURVIVAL_SEED", time.time_ns() % 10**6))


@pytest.mark.parametrize(("plane", "kills"), [("passthrough", 50), ("paged", 20), ("direct", 10)])
def test_nothing_is_lost_or_done_twice(make_mount: MakeMount, plane: str, kills: int) -> None:
    """After the kills names, layouts, contents, handles and memory are those of the models."""
    mounted = make_mount(f"{load.OPTIONS},data={plane}")
    figures = load.run(mounted, kills, SEED)
    assert figures.client_errors == [], f"seed {SEED}"
    assert {name: number for name, number in figures.zeros.items() if number} == {}, f"seed {SEED}"
    assert figures.kills >= kills
    # Without work and without requests in flight the comparison would prove nothing.
    assert figures.operations > 20 * kills
    assert figures.resent > 0
