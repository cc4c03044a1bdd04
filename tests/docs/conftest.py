"""A machine for the commands of the pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.machine import Machine


@pytest.fixture(scope="module")
def machine(requires_fuse: None) -> Iterator[Machine]:
    """A machine on which nothing of msharefs is installed yet, for one page."""
    with Machine() as made:
        yield made
