"""The server dies, and the kernel, one before Linux 6.9, does not send anything again."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

import pytest

from tests.helpers import mount, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.raw import MIB, PAGE
from tests.survival import gap
from tests.survival.once import done_exactly_once, new_scene, quiet
from tests.survival.scenes import OPERATIONS, Operation, Scene, region

__all__ = ["quiet"]

pytestmark = pytest.mark.mount
OLD_KERNEL = "data=paged,x-msharefs.without=passthrough:resend"
MOUNT_OPTIONS = f"size=128M,align=4096,{OLD_KERNEL},{gap.CRASH_OPTION}"
KINDS = [
    "create",
    "mkdir",
    "link",
    "unlink_open",
    "rename_over",
    "chmod",
    "ftruncate",
    "fallocate",
    "map_large",
    "unmap_middle",
    "open",
    "close",
]
"""One operation for each kind of request and of answering it: at once, by pyfuse3, in a thread."""
STEPS = ("request_read", "after_commit", "after_reply")
CASES = [
    (each, step)
    for each in OPERATIONS
    for step in STEPS
    if each.name in KINDS and step in each.steps
]


def listing(scene: Scene) -> object:
    """Of a directory that is open: READDIR, which changes the request on its way."""
    os.lseek(scene.fd, 0, os.SEEK_SET)
    return os.listdir(scene.fd)


def name_that_is_not_there(scene: Scene) -> object:
    """LOOKUP, of another name each time, because the kernel remembers."""
    return (scene / f"nothing{time.monotonic_ns()}").exists()


def size_of_the_mount(scene: Scene) -> object:
    """STATFS."""
    return os.statvfs(scene.path).f_blocks


def long_link(scene: Scene) -> object:
    """SYMLINK with more than a slot holds, which is refused."""
    with raw.refused(errno.EPERM):
        os.symlink("x" * 4090, scene / "new")
    return None


def large_attribute(scene: Scene) -> object:
    """SETXATTR, the largest request that writes no data."""
    with raw.refused(errno.EOPNOTSUPP):
        os.setxattr(scene / "region", "user.other", bytes(60000))
    return None


READING = (listing, name_that_is_not_there, size_of_the_mount, long_link, large_attribute)


@pytest.mark.parametrize(
    ("operation", "step"), CASES, ids=[f"{operation.name}-{step}" for operation, step in CASES]
)
def test_an_operation_is_done_exactly_once(
    quiet: mount.Mount, operation: Operation, step: str
) -> None:
    """As with a kernel that does."""
    done_exactly_once(quiet, operation, step)


@pytest.mark.parametrize("step", ["request_read", "before_reply", "after_reply"])
def test_a_page_fault_is_answered(quiet: mount.Mount, make_poke: MakePoke, step: str) -> None:
    """A process that touches a page gets it from the next server, with what is in it."""
    with new_scene(quiet) as scene:
        region(scene, "region")
        client = make_poke()
        address = client.attach(scene / "region", 8 * PAGE)
        scene.warm()
        holds = gap.through_a_crash(quiet, step, lambda: client.holds(address + 3 * PAGE, PAGE, 4))
        assert holds
        client.kill()


@pytest.mark.parametrize("step", ["request_read", "before_reply", "after_reply"])
def test_what_is_written_back_arrives(quiet: mount.Mount, make_poke: MakePoke, step: str) -> None:
    """The largest request there is: dirty pages, in the buffer when the server died."""
    with new_scene(quiet) as scene:
        region(scene, "region", pages=256, mapped=256)
        client = make_poke()
        address = client.attach(scene / "region", MIB)
        client.fill(address, MIB, 9)
        scene.warm()
        synced = gap.through_a_crash(
            quiet, step, lambda: client.call("msync", address, MIB, raw.MS_SYNC)
        )
        assert synced == 0
        client.kill()
        arena = mount.arena_of(quiet.server_pid)
        segment = arena / str((scene / "region").stat().st_ino)
        assert segment.read_bytes()[:MIB] == b"\x09" * MIB


@pytest.mark.parametrize("step", ["request_read", "before_reply"])
@pytest.mark.parametrize("ask", READING, ids=lambda ask: ask.__name__)
def test_what_changes_nothing_is_answered(
    quiet: mount.Mount, ask: Callable[[Scene], object], step: str
) -> None:
    """Also what pyfuse3 answers, and what is too large to be kept beside others."""
    with new_scene(quiet) as scene:
        region(scene, "region")
        scene.keep(os.open(scene.path, os.O_RDONLY | os.O_DIRECTORY))
        expected = ask(scene)
        scene.warm()
        assert gap.through_a_crash(quiet, step, lambda: ask(scene)) == expected
