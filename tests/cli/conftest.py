"""Fixtures of the tests of mshare; those of the mount stand in tests/helpers/fixtures.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.fixtures import (
    client,
    guarded,
    make_mount,
    make_poke,
    mounted,
    place,
    poke_program,
    pytest_runtest_makereport,
    requires_fuse,
    watchdog,
)

__all__ = [
    "client",
    "guarded",
    "make_mount",
    "make_poke",
    "mounted",
    "place",
    "poke_program",
    "pytest_runtest_makereport",
    "region",
    "requires_fuse",
    "watchdog",
]


@pytest.fixture
def region(place: Path) -> Iterator[Path]:
    """A path on the mount for a test's region, which goes after the test, a failed one too."""
    yield place
    for path in (place, *place.parent.glob(f"{place.name}.*")):
        path.unlink(missing_ok=True)
