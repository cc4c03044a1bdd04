"""Fixtures of the tests of mshare, which run under the guard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.guard import guarded

__all__ = ["guarded"]


@pytest.fixture
def region(place: Path) -> Iterator[Path]:
    """A path on the mount for a test's region, which goes after the test, a failed one too."""
    yield place
    for path in (place, *place.parent.glob(f"{place.name}.*")):
        path.unlink(missing_ok=True)
