"""The supervisor dies at every step of its own work; the next mount of the place finds all.

A step is where x-msharefs.crash= says. Each test ends with a mount that works and then
leaves nothing behind.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.helpers import mount, raw
from tests.helpers.waiting import eventually
from tests.survival.kept import OPTIONS, Kept
from tests.survival.scenes import Scene, region

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("requires_fuse")]

STARTING = (
    "state_taken",
    "memory_made",
    "configuration_saved",
    "mounted",
    "server_started",
    "server_serves",
)
ENDING = (
    "taking_down",
    "servers_ended",
    "connection_ended",
    "end_begun",
    "memory_given_back",
)


def kill_the_server(kept: Kept) -> None:
    """As kill -9 does."""
    os.kill(mount.read_status(kept.path)["pids"]["server"], signal.SIGKILL)


def ask_for_another_server(kept: Kept) -> None:
    """As mshare restart does."""
    os.kill(kept.supervisor_pid(), signal.SIGHUP)


REPLACING: tuple[tuple[str, Callable[[Kept], None]], ...] = (
    ("server_gone", kill_the_server),
    ("server_started:2", kill_the_server),
    ("server_serves:2", kill_the_server),
    ("standby_made:2", ask_for_another_server),
    ("server_asked_to_stop", ask_for_another_server),
    ("server_gone", ask_for_another_server),
    ("server_started:2", ask_for_another_server),
    ("server_serves:2", ask_for_another_server),
)


def dying(step: str) -> str:
    """Mount options with which the supervisor dies at a step."""
    return f"{OPTIONS},x-msharefs.crash={step}"


@pytest.fixture
def made() -> Iterator[list[Kept]]:
    """The mounts of a test."""
    mounts: list[Kept] = []
    yield mounts
    for each in mounts:
        each.discard()


def new_mount(made: list[Kept], options: str = OPTIONS) -> Kept:
    """A mount that the test takes down."""
    kept = Kept(options)
    made.append(kept)
    return kept


def wait_until_all_are_gone(kept: Kept) -> None:
    """The supervisor has died, and its servers after it."""
    eventually(lambda: not mount.processes_of(kept.marker), what="processes are left")


def furnished(kept: Kept) -> tuple[Scene, dict[str, object]]:
    """A directory with a region that is written to, and what is seen of it."""
    scene = Scene(kept.path / "scene")
    region(scene, "region")
    os.link(scene / "region", scene / "link")
    return scene, scene.snapshot()


def finish(kept: Kept) -> None:
    """What is there can be removed, and then the mount leaves nothing."""
    for folder in kept.path.iterdir():
        if folder.is_dir():
            for name in folder.iterdir():
                name.unlink()
            folder.rmdir()
    kept.wait_until_no_memory_is_used()
    kept.unmount_and_check()


@pytest.mark.parametrize("step", STARTING)
def test_while_mounting(made: list[Kept], step: str) -> None:
    """The command says that it failed, and the next one mounts."""
    kept = new_mount(made)
    kept.unmount_and_check()
    done = kept.start("-o", dying(step))
    assert mount.only_sentence(done) == "the supervisor ended without a word"
    assert done.returncode == 2
    wait_until_all_are_gone(kept)
    kept.mount_again()
    assert os.listdir(kept.path) == ["mshare_info"]
    finish(kept)


@pytest.mark.parametrize("step", STARTING)
def test_while_taking_up(made: list[Kept], step: str) -> None:
    """The regions that the attempt was to take up are there for the next."""
    kept = new_mount(made)
    scene, before = furnished(kept)
    kept.kill_supervisor()
    assert kept.start("-o", dying(step)).returncode == 2
    wait_until_all_are_gone(kept)
    kept.mount_again()
    assert scene.snapshot() == before
    finish(kept)


def test_while_making_the_first_standby(made: list[Kept]) -> None:
    """Which is as the command returns, so that it may say the one or the other."""
    kept = new_mount(made)
    scene, before = furnished(kept)
    kept.kill_supervisor()
    assert kept.start("-o", dying("standby_made")).returncode in {0, 2}
    wait_until_all_are_gone(kept)
    kept.mount_again()
    assert scene.snapshot() == before
    finish(kept)


@pytest.mark.parametrize(
    ("step", "cause"), REPLACING, ids=[f"{step}-{cause.__name__}" for step, cause in REPLACING]
)
def test_while_replacing_a_server(
    made: list[Kept], step: str, cause: Callable[[Kept], None]
) -> None:
    """All regions are there again."""
    kept = new_mount(made, dying(step))
    scene, before = furnished(kept)
    cause(kept)
    wait_until_all_are_gone(kept)
    kept.mount_again()
    assert scene.snapshot() == before
    finish(kept)


@pytest.mark.parametrize("step", ENDING)
def test_while_unmounting(made: list[Kept], step: str) -> None:
    """The regions are there with all that was in them, or are gone with all their memory."""
    kept = new_mount(made, dying(step))
    scene, before = furnished(kept)
    assert mount.unmount(kept.path).returncode == 0
    wait_until_all_are_gone(kept)
    kept.mount_again()
    if ENDING.index(step) < ENDING.index("end_begun"):
        assert scene.snapshot() == before
    else:
        assert os.listdir(kept.path) == ["mshare_info"]
        assert raw.used_inodes(kept.path) == 2
        assert mount.read_status(kept.path)["arena"]["used"] == 0
    finish(kept)
