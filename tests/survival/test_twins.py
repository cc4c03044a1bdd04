"""Clients do the same operations on names on a mount, whose server is killed, and on tmpfs.

`make soak ARGS="--twins 3600"` is the long run. MSHAREFS_SURVIVAL_SEED repeats a choice of
operations; their interleaving is the machine's.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.helpers.fixtures import MakeMount
from tests.survival import twins

pytestmark = [
    pytest.mark.mount,
    pytest.mark.slow,
    pytest.mark.root_only("half of the clients are other users"),
]
SECONDS = 8.0
SEED = int(os.environ.get("MSHAREFS_SURVIVAL_SEED", time.time_ns() % 10**6))


def test_names_are_those_of_tmpfs(make_mount: MakeMount) -> None:
    """N1, N2: each answer and each tree is the same, also where a server died in between."""
    figures = twins.run(make_mount(twins.OPTIONS), SECONDS, SEED)
    assert figures.client_errors == [], f"seed {SEED}"
    assert figures.zeros == {"different names": 0}, f"seed {SEED}"
    # Without work and without requests in flight the comparison would prove nothing.
    assert figures.kills > 0
    assert figures.operations > 100 * figures.kills
