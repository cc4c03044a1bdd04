"""Random requests to RegionManager, compared with a plain model after each one.

A sequence that failed once becomes a named test at the end of this file.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.model.durable_machine import DurableMachine, DurableMachineWithSlowDeaths
from tests.model.machine import Machine

SETTINGS = settings(
    # A long search: MSHAREFS_EXAMPLES=5000 pytest tests/model
    max_examples=int(os.environ.get("MSHAREFS_EXAMPLES", "60")),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class MachineWithSlowDeaths(Machine):
    """Regions die in two steps, as large ones do."""

    reclaim_later = True


TestRandomRequests = Machine.TestCase
TestRandomRequests.settings = SETTINGS

TestRandomRequestsWithSlowDeaths = MachineWithSlowDeaths.TestCase
TestRandomRequestsWithSlowDeaths.settings = SETTINGS

TestRandomRequestsAndRestarts = DurableMachine.TestCase
TestRandomRequestsAndRestarts.settings = SETTINGS

TestRandomRequestsAndRestartsWithSlowDeaths = DurableMachineWithSlowDeaths.TestCase
TestRandomRequestsAndRestartsWithSlowDeaths.settings = SETTINGS
