"""Fixtures of the tests of the pages: those of every mount test, and a machine for commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.machine import Machine
from tests.helpers.fixtures import (
    guarded,
    make_mount,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_makereport,
    requires_fuse,
    watchdog,
)

__all__ = [
    "guarded",
    "make_mount",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_makereport",
    "requires_fuse",
    "watchdog",
]


@pytest.fixture(scope="module")
def machine(requires_fuse: None) -> Iterator[Machine]:
    """A machine on which nothing of msharefs is installed yet, for one page."""
    with Machine() as made:
        yield made
