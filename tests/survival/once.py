"""An operation in the middle of which the server dies, against the same one undisturbed."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.helpers import mount, raw
from tests.helpers.waiting import eventually
from tests.survival import gap
from tests.survival.scenes import Operation, Scene

_numbers = itertools.count()


@pytest.fixture
def quiet(mounted: mount.Mount) -> Iterator[mount.Mount]:
    """The mount, empty before and after: nothing of a test may leak."""
    mounted.expect_log(gap.DEATHS)
    mounted.wait_until_empty()
    yield mounted
    mounted.wait_until_empty()
    assert os.listdir(mounted.path) == ["mshare_info"]
    eventually(lambda: raw.used_inodes(mounted.path) == 2, what="inodes are left")
    assert mounted.status()["open_handles"] == 0


def new_scene(mounted: mount.Mount) -> Scene:
    """A scene in a directory that was not there before."""
    return Scene(mounted.path / f"scene{next(_numbers)}")


def done_exactly_once(mounted: mount.Mount, operation: Operation, step: str) -> None:
    """Check that the server's death at a step changes nothing of what comes of it."""
    with new_scene(mounted) as scene:
        operation.prepare(scene)
        unchanged = scene.snapshot(), mounted.status()["open_handles"]
        operation.act(scene)
        expected, changes = scene.snapshot(), scene.changes()
        eventually(lambda: mounted.status()["open_handles"] == (scene.fd >= 0))
        free = raw.free_bytes(mounted.path)
        assert (expected, int(scene.fd >= 0)) != unchanged
    mounted.wait_until_empty()

    with new_scene(mounted) as scene:
        operation.prepare(scene)
        scene.warm()
        gap.through_a_crash(mounted, step, lambda: operation.act(scene))
        assert scene.snapshot() == expected
        # Counted after the commit, so that the count alone may be missing then.
        assert scene.changes() in {changes, changes - (step == "after_commit")}
        eventually(lambda: mounted.status()["open_handles"] == (scene.fd >= 0))
        assert raw.free_bytes(mounted.path) == free
