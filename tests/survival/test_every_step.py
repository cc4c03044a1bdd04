"""The server dies at every step of every request that changes something; nobody notices.

The reference is the same operation on the same mount without a death.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.helpers import mount, raw
from tests.helpers.raw import PAGE
from tests.helpers.waiting import eventually
from tests.survival import gap
from tests.survival.scenes import MEMORY, OPERATIONS, Operation, Scene, region

pytestmark = pytest.mark.mount
MOUNT_OPTIONS = f"size=128M,align=4096,{gap.CRASH_OPTION}"
CASES = [(operation, step) for operation in OPERATIONS for step in operation.steps]

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


@pytest.mark.parametrize(
    ("operation", "step"), CASES, ids=[f"{operation.name}-{step}" for operation, step in CASES]
)
def test_an_operation_is_done_exactly_once(
    quiet: mount.Mount, operation: Operation, step: str
) -> None:
    """Its call succeeds, and names, attributes, layouts, contents, handles and df are the
    same as after one that nothing disturbed."""
    with new_scene(quiet) as scene:
        operation.prepare(scene)
        unchanged = scene.snapshot(), quiet.status()["open_handles"]
        operation.act(scene)
        expected, changes = scene.snapshot(), scene.changes()
        eventually(lambda: quiet.status()["open_handles"] == (scene.fd >= 0))
        free = raw.free_bytes(quiet.path)
        assert (expected, int(scene.fd >= 0)) != unchanged
    quiet.wait_until_empty()

    with new_scene(quiet) as scene:
        operation.prepare(scene)
        scene.warm()
        gap.through_a_crash(quiet, step, lambda: operation.act(scene))
        assert scene.snapshot() == expected
        # Counted after the commit, so that the count alone may be missing then.
        assert scene.changes() in {changes, changes - (step == "after_commit")}
        eventually(lambda: quiet.status()["open_handles"] == (scene.fd >= 0))
        assert raw.free_bytes(quiet.path) == free


@pytest.mark.parametrize("step", MEMORY)
def test_what_is_written_after_the_change_stays(quiet: mount.Mount, step: str) -> None:
    """A mapping over another is fresh zeros once: what an attached process writes after the
    change was recorded is not wiped when the request comes again."""
    with new_scene(quiet) as scene:
        region(scene, "region")
        window = scene.attach("region", PAGE * 8)
        fd = scene.keep(os.open(scene / "region", os.O_RDWR))
        scene.warm()

        def write() -> None:
            window[2 * PAGE : 3 * PAGE] = b"w" * PAGE

        gap.through_a_crash(quiet, step, lambda: raw.create_mapping(fd, PAGE, 2 * PAGE), write)
        recorded = step in ("after_commit", "before_reply", "after_reply")
        assert window[PAGE : 2 * PAGE] == bytes(PAGE)
        assert window[2 * PAGE : 3 * PAGE] == (b"w" if recorded else b"\0") * PAGE
        assert window[0] == 1
        assert window[3 * PAGE] == 4
