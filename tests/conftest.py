"""What all tests share: the fixtures and rules of tests/helpers/fixtures.py, once, as a plugin."""

from __future__ import annotations

pytest_plugins = ["tests.helpers.fixtures"]
