"""Fixtures of the tests of mshare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def region(place: Path) -> Iterator[Path]:
    """A path on the mount for a test's region, which goes after the test, a failed one too."""
    yield place
    for path in (place, *place.parent.glob(f"{place.name}.*")):
        path.unlink(missing_ok=True)
