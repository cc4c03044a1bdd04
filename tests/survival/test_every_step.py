"""The server dies at every step of every request that changes something; nobody notices.

The reference is the same operation on the same mount without a death.
"""

from __future__ import annotations

import os

import pytest

from tests.helpers import mount, raw
from tests.helpers.raw import PAGE
from tests.survival import gap
from tests.survival.once import done_exactly_once, new_scene, quiet
from tests.survival.scenes import MEMORY, OPERATIONS, Operation, region

__all__ = ["quiet"]

pytestmark = pytest.mark.mount
MOUNT_OPTIONS = f"size=128M,align=4096,{gap.CRASH_OPTION}"
CROWD = 100
"""Names, whose changes are more than wait for sqlite."""
CASES = [(operation, step) for operation in OPERATIONS for step in operation.steps]


@pytest.mark.parametrize(
    ("operation", "step"), CASES, ids=[f"{operation.name}-{step}" for operation, step in CASES]
)
def test_an_operation_is_done_exactly_once(
    quiet: mount.Mount, operation: Operation, step: str
) -> None:
    """Its call succeeds, and names, attributes, layouts, contents, handles and df are the
    same as after one that nothing disturbed."""
    done_exactly_once(quiet, operation, step)


@pytest.mark.parametrize("step", ["before_move", "moved"])
def test_changes_on_their_way_into_sqlite_are_done_once(quiet: mount.Mount, step: str) -> None:
    """They go there many at once; the server that dies at that has answered most of them."""
    with new_scene(quiet) as scene:
        names = [f"name{number}" for number in range(CROWD)]

        def act() -> None:
            for name in names:
                (scene / name).touch(0o600)
                (scene / name).rename(scene / f"{name}-new")
                if int(name[4:]) % 2:
                    (scene / f"{name}-new").unlink()

        gap.through_a_crash(quiet, step, act)
        assert sorted(os.listdir(scene.path)) == sorted(f"{name}-new" for name in names[::2])


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
