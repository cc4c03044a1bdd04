"""What all tests share, once, as plugins: the fixtures and rules of tests/helpers/fixtures.py, and the
workers of a run (tests/helpers/workers.py)."""

from __future__ import annotations

pytest_plugins = ["tests.helpers.fixtures", "tests.helpers.workers"]
