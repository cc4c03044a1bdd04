"""Fixtures of the survival tests; all of them stand in tests/helpers/fixtures.py."""

from __future__ import annotations

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
    "requires_fuse",
    "watchdog",
]
