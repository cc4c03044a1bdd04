"""Fixtures of the conformance tests; all of them stand in tests/helpers/fixtures.py."""

from __future__ import annotations

from tests.helpers.fixtures import (
    client,
    guarded,
    make_mount,
    make_poke,
    mounted,
    mounted_paged,
    paged,
    place,
    poke_program,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_generate_tests,
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
    "mounted_paged",
    "paged",
    "place",
    "poke_program",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_generate_tests",
    "pytest_runtest_makereport",
    "requires_fuse",
    "watchdog",
]
