"""How many examples the random tests here try: few, so that they take seconds in all.

No deadline for a single example: on a busy machine it would fail tests that are right.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "unit", max_examples=int(os.environ.get("MSHAREFS_EXAMPLES", "50")), deadline=None
)
settings.load_profile("unit")
