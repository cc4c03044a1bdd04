"""The mount tests run under the guard; their other fixtures are everybody's."""

from __future__ import annotations

from tests.helpers.guard import guarded

__all__ = ["guarded"]
