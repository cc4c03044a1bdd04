"""Children that look for us, and which mount a path leads to, told without touching it."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from msharefs.inspect import mounts
from msharefs.inspect.probe import Asker, Probe, answers_of
from msharefs.linux import mountinfo
from tests.helpers.descriptors import open_descriptors


def children() -> str:
    """The processes that this one has started and not waited for; the test run has some, too."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


def test_places_that_answer(tmp_path: Path) -> None:
    """0, or the errno of looking; nothing is left of the children."""
    before, left = open_descriptors(), children()
    assert answers_of([str(tmp_path), str(tmp_path / "none")]) == [0, errno.ENOENT]
    assert answers_of([]) == []
    assert open_descriptors() == before
    assert children() == left


def test_an_answer_stays(tmp_path: Path) -> None:
    """However often it is asked for."""
    probe = Probe(str(tmp_path))
    assert [probe.answer(), probe.answer(0.0)] == [0, 0]
    probe.end()


def test_work_is_done_by_another_process(tmp_path: Path) -> None:
    """Its result comes back, however large; and so does its exception."""
    asker = Asker()
    assert asker.ask(str(tmp_path), os.getpid) != os.getpid()
    assert len(asker.ask(str(tmp_path), lambda: b"x" * (1 << 20))) == 1 << 20
    with pytest.raises(FileNotFoundError) as caught:
        asker.ask(str(tmp_path), lambda: os.stat(tmp_path / "none"))
    assert caught.value.filename == str(tmp_path / "none")


def test_a_worker_that_is_killed_is_told(tmp_path: Path) -> None:
    """As an error with the path that it was about."""
    with pytest.raises(OSError, match="ended") as caught:
        Asker().ask(str(tmp_path), lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path))


def test_a_child_has_nothing_of_ours_open(tmp_path: Path) -> None:
    """Else it could keep somebody waiting who reads what we write."""
    reader, writer = os.pipe()
    found = Asker().ask(
        str(tmp_path), lambda: [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)]
    )
    assert found == ["/dev/null"] * 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        Asker().ask(str(tmp_path), lambda: os.fstat(writer))
    os.close(reader)
    os.close(writer)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a mount "m" in it, as far as the table of mounts is believed."""
    for name in ("m", "m/inner", "beside"):
        (tmp_path / name).mkdir()
    table = tmp_path / "table"
    table.write_text(
        f"1 0 0:1 / / rw - ext4 x rw\n2 1 0:5 / {tmp_path}/m rw - fuse.msharefs x rw\n"
    )
    monkeypatch.setattr(mountinfo, "OWN", str(table))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        "m",
        "m/",
        "./m/r",
        "m/inner/deep/none",
        "beside/../m/r",
        "link/r",
        "beside/far/r",
        "m/a/../..",
    ],
)
def test_paths_that_lead_to_a_mount(place: Path, path: str) -> None:
    """Through links, too; and those that go through it and out again."""
    (place / "link").symlink_to("m")
    (place / "beside/far").symlink_to(place / "link")
    assert mounts.lead_to(path) == str(place / "m")
    assert mounts.lead_to(str(place / path)) == str(place / "m")


@pytest.mark.parametrize("path", ["", "beside", "none/r", "64M", "m2", "loop/r", "/", ".."])
def test_paths_that_lead_to_none(place: Path, path: str) -> None:
    """Links that lead in a circle, too."""
    (place / "loop").symlink_to("loop")
    assert mounts.lead_to(path) is None


def test_a_link_on_the_mount_is_not_looked_at(place: Path) -> None:
    """Nothing below the mount point is."""
    (place / "m/link").symlink_to(place / "beside")
    assert mounts.lead_to("m/link") == str(place / "m")


def test_a_directory_that_is_no_more(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path leads nowhere from there."""
    (place / "gone").mkdir()
    monkeypatch.chdir(place / "gone")
    (place / "gone").rmdir()
    assert mounts.lead_to("m") is None


def test_earlier_devices_of_a_mount_count(place: Path) -> None:
    """But for one that another mount has by now."""
    mount = mounts.Mount(str(place / "m"), "x", 5)
    earlier = {"mount": {"earlier_devices": [1, 7, 8]}}
    assert mounts.devices_of(mount, earlier) == {5, 7, 8}
    assert mounts.devices_of(mount, {}) == {5}
