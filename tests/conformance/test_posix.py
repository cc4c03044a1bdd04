"""Runs every POSIX check on tmpfs, which proves the check, and on a mount of each data plane."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance import links, listing, locks, names, permissions, rename, times
from tests.helpers.mount import planes

Check = Callable[[Path], None]

MOUNT_OPTIONS = "size=16M"


def checks_of(*modules: object) -> list[Check]:
    """All functions named check_... of these modules."""
    return [
        value
        for module in modules
        for name, value in sorted(vars(module).items())
        if name.startswith("check_")
    ]


CHECKS = checks_of(names, links, rename, listing, times, locks)
ROOT_CHECKS = checks_of(permissions)


PLACES = {
    "passthrough": "mounted",
    "auto": "mounted",
    "direct": "mounted",
    "paged": "mounted_paged",
}


@pytest.fixture(params=["tmpfs", *planes()])
def root(requires_fuse: None, request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory, mode 0755, on an ordinary tmpfs or on a mount of either plane."""
    mounted = PLACES.get(request.param)
    top = request.getfixturevalue(mounted).path if mounted else Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="posix-", dir=top))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_names_links_times_and_locks(check: Check, root: Path) -> None:
    """Names, links, rename, listings, times and locks are ordinary; each check says what."""
    check(root)


@pytest.mark.root_only("becomes another user")
@pytest.mark.parametrize(
    "check", ROOT_CHECKS, ids=lambda check: check.__name__.removeprefix("check_")
)
def test_permissions(check: Check, root: Path) -> None:
    """The mode bits decide, for other users as they do anywhere; each check says how."""
    check(root)


def test_every_check_says_its_rule() -> None:
    """A check whose docstring does not begin with a rule of docs/semantics.md is not a check."""
    for check in CHECKS + ROOT_CHECKS:
        assert re.match(r"[A-Z]\d+(, [A-Z]\d+)*: \S", check.__doc__ or ""), check
