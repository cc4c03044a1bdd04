"""The supervisor is killed, too: the next mount of the place has every region again."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.fixtures import MakePoke
from tests.helpers.raw import PAGE
from tests.helpers.waiting import eventually
from tests.survival.gap import held
from tests.survival.kept import OPTIONS, Kept
from tests.survival.scenes import AUTOMAP, PAGES, Scene, region, rename

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("requires_fuse")]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """A mount of its own."""
    place = Kept()
    yield place
    place.discard()


def furnish(scene: Scene) -> None:
    """Regions in every state, directories, links, owners, modes and times."""
    region(scene, "region")
    region(scene, "other", mapped=PAGES)
    os.link(scene / "region", scene / "link")
    (scene / "folder").mkdir(mode=0o2751)
    os.setxattr(scene / "folder", AUTOMAP, b"grow")
    rename(scene / "other", scene / "folder" / "moved", 0)
    os.chmod(scene / "region", 0o640)
    os.chown(scene / "region", 61001, 61002)
    os.utime(scene / "region", ns=(10**18, 10**18))
    os.mknod(scene / "without size")
    with raw.opened(scene / "folder" / "moved") as fd:
        raw.unmap(fd, 3 * PAGE, 2 * PAGE)
        flags = raw.ANONYMOUS | raw.MAP_NORESERVE
        raw.create_mapping(fd, 7 * PAGE, PAGE, flags=flags, prot=raw.PROT_READ)
        with raw.opened(__file__, os.O_RDONLY) as file:
            raw.map_file(fd, 9 * PAGE, 2 * PAGE, file)
    # What reads the contents touches the page without a reservation.
    scene.snapshot()


def test_every_region_is_there_again(kept: Kept) -> None:
    """Names, links, owners, modes, times, sizes, layouts and contents are as before, the
    memory is accounted for, and what was not finished can go on."""
    scene = Scene(kept.path / "scene")
    furnish(scene)
    before, free = scene.snapshot(), raw.free_bytes(kept.path)
    status = mount.read_status(kept.path)
    kept.kill_supervisor()
    with raw.refused(errno.ENOTCONN, errno.ECONNABORTED):
        os.statvfs(kept.path)
    kept.mount_again()
    assert scene.snapshot() == before
    assert raw.free_bytes(kept.path) == free
    again = mount.read_status(kept.path)
    for name in ("regions", "mappings", "inodes", "arena"):
        assert again[name] == status[name], name
    assert (again["restarts"], again["open_handles"]) == (0, 0)
    os.truncate(scene / "without size", PAGE)
    with scene:
        """Everything can be removed."""
    eventually(lambda: mount.read_status(kept.path)["arena"]["used"] == 0)
    kept.unmount_and_check()


def test_unlinked_regions_are_gone_and_their_memory_is_free(
    kept: Kept, make_poke: MakePoke
) -> None:
    """A region that only a handle kept is no more; a process that has it attached keeps its
    pages, and they are free when it ends."""
    client = make_poke()
    scene = Scene(kept.path / "scene")
    region(scene, "region")
    region(scene, "other")
    attached = client.attach(scene / "other", PAGES * PAGE)
    held = os.open(scene / "region", os.O_RDWR)
    os.unlink(scene / "region")
    os.unlink(scene / "other")
    kept.kill_supervisor()
    os.close(held)
    kept.mount_again()
    assert os.listdir(scene.path) == []
    status = mount.read_status(kept.path)
    assert (status["regions"], status["inodes"]["used"]) == (0, 3)
    assert status["arena"]["reserved"] == 0
    assert client.get(attached) == b"\1"
    client.kill()
    eventually(lambda: mount.read_status(kept.path)["arena"]["used"] == 0)
    kept.unmount_and_check()


@pytest.fixture
def fusectl(tmp_path: Path) -> Iterator[Path]:
    """FUSE's own control file system; a bare machine has it nowhere."""
    subprocess.run(["mount", "-t", "fusectl", "none", str(tmp_path)], check=True, timeout=10)
    yield tmp_path
    mount.unmount(tmp_path)


@pytest.mark.parametrize("server", ["alive", "dead"])
def test_an_aborted_connection_keeps_the_regions(kept: Kept, fusectl: Path, server: str) -> None:
    """The way out of a wedge, as the documents have it, and then umount -l: nobody meant the
    regions, so the next mount of the place has them."""
    scene = Scene(kept.path / "scene")
    furnish(scene)
    before = scene.snapshot()
    pids = mount.read_status(kept.path)["pids"]
    number = mount.mount_lines(kept.path)[-1].split()[2].partition(":")[2]
    with held(pids["supervisor"]):
        if server == "dead":
            os.kill(pids["server"], signal.SIGKILL)
        (fusectl / number / "abort").write_text("1")
        assert mount.unmount(kept.path, lazy=True).returncode == 0
    eventually(lambda: not mount.processes_of(kept.marker), what="processes are left")
    kept.mount_again()
    assert scene.snapshot() == before
    with scene:
        """Everything can be removed."""
    kept.wait_until_no_memory_is_used()
    kept.unmount_and_check()


def test_fresh_discards(kept: Kept) -> None:
    """-o fresh: an empty mount with all its memory."""
    scene = Scene(kept.path / "scene")
    furnish(scene)
    kept.kill_supervisor()
    kept.mount_again(f"{OPTIONS},fresh")
    assert os.listdir(kept.path) == ["mshare_info"]
    assert mount.read_status(kept.path)["arena"]["used"] == 0
    kept.unmount_and_check()


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda kept: None, id="at once"),
        pytest.param(lambda kept: (kept.mount_again(), kept.kill_supervisor()), id="twice"),
    ],
)
def test_processes_and_regions_survive_repeatedly(
    kept: Kept, make_poke: MakePoke, again: Callable[[Kept], object]
) -> None:
    """A process that was attached before and one that attaches afterwards share the bytes."""
    scene = Scene(kept.path / "scene")
    region(scene, "region")
    old, new = make_poke(), make_poke()
    here = old.attach(scene / "region", PAGES * PAGE)
    kept.kill_supervisor()
    again(kept)
    old.fill(here, PAGE, 77)
    kept.mount_again()
    there = new.attach(scene / "region", PAGES * PAGE)
    assert new.holds(there, PAGE, 77)
    new.fill(there + PAGE, PAGE, 78)
    assert old.holds(here + PAGE, PAGE, 78)
    old.kill()
    new.kill()
    kept.unmount_and_check()
