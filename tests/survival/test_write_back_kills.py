"""Whoever is killed while a region is written to its files: nothing is lost, and nothing is written twice."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.file_processes import broker_of, children, end, links_of, name_of
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import MIB, PAGE, map_file, opened
from tests.helpers.waiting import eventually
from tests.survival import gap
from tests.survival.kept import Kept

pytestmark = pytest.mark.mount

PLANES = mount.planes()
MOUNT_OPTIONS = f"size=128M,align=4096,{gap.CRASH_OPTION}"
SIZE = 32 * MIB
WRITING = ["write_begun", "written", "settled"]
UNMAPPING = ["written", "released", "cleared", "after_commit"]
MAPPING = ["file_kept", "before_commit", "after_commit"]
LOUD = f"{gap.DEATHS}|had changed were written over|are not written to|broker of files ended"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of four pages."""
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([page + 65]) * PAGE for page in range(4)))
    return path


@pytest.fixture
def region(mounted: mount.Mount, place: Path, path: Path) -> Iterator[int]:
    """A region into which it is mapped, to be written back."""
    mounted.expect_log(LOUD)
    with raw.region(place, SIZE) as fd, opened(path) as file:
        map_file(fd, 0, 4 * PAGE, file, prot=raw.RW)
        yield fd


def kept_files(mounted: mount.Mount) -> list[str]:
    """What the supervisor has open below the directory of the tests."""
    links = links_of(mounted.pid)
    return sorted(link for link in links if "/pytest-" in link)


def through_a_stop(
    mounted: mount.Mount,
    step: str,
    act: Callable[[], object],
    meanwhile: Callable[[], object] = lambda: None,
) -> None:
    """Have `act` done while the server dies at a step of its request, as `gap.through_a_crash` does it; but
    the supervisor, which has to give files, is stopped only when the server has come to the step."""
    assert mounted.state is not None
    before, server = mounted.status()["restarts"], mounted.server_pid
    with ThreadPoolExecutor(1) as executor:
        draft = mounted.state / "draft"
        draft.write_text(f"{step}:1:STOP", encoding="ascii")
        draft.rename(mounted.state / "order")
        result = executor.submit(act)
        eventually(lambda: gap.state_of(server) == "T", what=f"the server came to {step}")
        with gap.held(mounted.pid):
            os.kill(server, signal.SIGKILL)
            eventually(lambda: gap.has_ended(server))
            meanwhile()
        result.result(timeout=20)
    assert mounted.status()["restarts"] == before + 1


@pytest.mark.parametrize("step", WRITING)
def test_a_server_that_dies_at_fsync(
    mounted: mount.Mount, region: int, path: Path, step: str
) -> None:
    """fsync returns, and the file has what was changed. What somebody writes to the file after the
    region's page went there, while no server runs, stays."""
    with mmap.mmap(region, SIZE) as window:
        window[PAGE : PAGE + 6] = b"region"

    def meanwhile() -> None:
        # A helper is not killed with its server.
        eventually(lambda: not writers_of(mounted))
        if path.read_bytes()[PAGE : PAGE + 6] == b"region":
            with opened(path) as fd:
                os.pwrite(fd, b"others", PAGE)

    through_a_stop(mounted, step, lambda: os.fsync(region), meanwhile)
    seen = path.read_bytes()
    assert seen[PAGE : PAGE + 6] == (b"others" if step in ("written", "settled") else b"region")
    assert (
        seen[:PAGE] + seen[PAGE + 6 :]
        == b"A" * PAGE + b"B" * (PAGE - 6) + b"C" * PAGE + b"D" * PAGE
    )
    assert raw.layout(region)["mappings"][0]["file"]["error"] is None


@pytest.mark.parametrize("step", UNMAPPING)
def test_a_server_that_dies_at_unmap(
    mounted: mount.Mount, region: int, path: Path, step: str
) -> None:
    """What was changed is in the file, the mapping is gone, and the file is let go of."""
    with mmap.mmap(region, SIZE) as window:
        window[2 * PAGE : 2 * PAGE + 6] = b"region"
    through_a_stop(mounted, step, lambda: raw.unmap(region, 0, 4 * PAGE))
    assert path.read_bytes()[2 * PAGE : 2 * PAGE + 6] == b"region"
    assert raw.mapped_ranges(region) == []
    eventually(lambda: not kept_files(mounted))


@pytest.mark.parametrize("step", MAPPING)
def test_a_server_that_dies_while_it_maps(
    mounted: mount.Mount, place: Path, path: Path, step: str
) -> None:
    """The file is kept once, and what is changed then goes to it."""
    mounted.expect_log(LOUD)
    with raw.region(place, SIZE) as region:
        with opened(path) as file:

            def map_it() -> None:
                map_file(region, PAGE, 4 * PAGE, file, prot=raw.RW)

            through_a_stop(mounted, step, map_it)
        with mmap.mmap(region, SIZE) as window:
            assert window[PAGE] == ord("A")
            window[PAGE : PAGE + 6] = b"region"
        os.fsync(region)
        assert path.read_bytes()[:6] == b"region"
        files = [link for link in Path(f"/proc/{mounted.pid}/fd").iterdir() if _is(link, path)]
        assert len(files) == 1
        raw.unmap(region, 0, SIZE)
    eventually(lambda: not kept_files(mounted))


@pytest.mark.parametrize("step", ["write_begun", "written"])
def test_a_server_that_dies_after_the_last_close(
    mounted: mount.Mount, place: Path, path: Path, step: str
) -> None:
    """C28: the close was counted and is not told again; the file gets what was changed all the same."""
    mounted.expect_log(LOUD)
    paths = [path, path.with_name("second")]
    paths[1].write_bytes(bytes(PAGE))
    fd = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.ftruncate(fd, SIZE)
        for number, each in enumerate(paths):
            with opened(each) as file:
                map_file(fd, number * PAGE, PAGE, file, prot=raw.RW)
        with mmap.mmap(fd, SIZE) as window:
            window[:6] = window[PAGE : PAGE + 6] = b"region"
        through_a_stop(mounted, step, lambda: os.close(fd))
        eventually(lambda: all(each.read_bytes()[:6] == b"region" for each in paths))
    finally:
        place.unlink()
    eventually(lambda: not kept_files(mounted))


def _is(link: Path, path: Path) -> bool:
    try:
        return os.readlink(link) == str(path)
    except FileNotFoundError:
        return False


def writers_of(mounted: mount.Mount) -> list[int]:
    """The helpers that write now."""
    broker = broker_of(mounted)
    found = [] if broker is None else children(broker)
    return [pid for pid in found if name_of(pid) == "msharefs-write"]


@pytest.mark.parametrize("who", ["server", "helper"])
def test_killed_in_the_middle_of_a_large_file(
    mounted: mount.Mount, place: Path, tmp_path: Path, who: str
) -> None:
    """However often: when fsync has succeeded the file has all of it, and what others wrote to pages
    that nobody changed in the region."""
    mounted.expect_log(LOUD)
    path = tmp_path / "large"
    with opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, SIZE)
    with raw.region(place, SIZE) as region, mmap.mmap(region, SIZE) as window:
        with opened(path) as file:
            map_file(region, 0, SIZE, file, prot=raw.RW)
        for turn in range(2):
            wanted = bytes([turn + 1]) * (SIZE - PAGE)
            window[: SIZE - PAGE] = wanted
            with opened(path) as file:
                os.pwrite(file, b"others" + bytes([turn]), SIZE - PAGE)
            errors: list[OSError] = []

            def sync(errors: list[OSError] = errors) -> None:
                try:
                    os.fsync(region)
                except OSError as error:
                    errors.append(error)

            server = mounted.server_pid
            syncing = threading.Thread(target=sync)
            syncing.start()
            eventually(lambda: writers_of(mounted), step=0.001)
            if who == "server":
                os.kill(server, signal.SIGKILL)
            else:
                for pid in writers_of(mounted):
                    end(pid)
            syncing.join()
            os.fsync(region)
            with opened(path) as file:
                assert os.pread(file, SIZE, 0)[: SIZE - PAGE] == wanted
                assert os.pread(file, 7, SIZE - PAGE) == b"others" + bytes([turn])
            assert window[: SIZE - PAGE] == wanted
    eventually(lambda: not kept_files(mounted))


@pytest.mark.parametrize("plane", mount.planes())
@pytest.mark.parametrize("step", ["written"])
def test_a_server_that_dies_at_umount(
    make_mount: MakeMount, tmp_path: Path, plane: str, step: str
) -> None:
    """Another one writes the files before the daemon ends."""
    mounted = make_mount(f"size=64M,align=4096,data={plane},{gap.CRASH_OPTION}")
    mounted.expect_log(gap.DEATHS)
    paths = [tmp_path / "first", tmp_path / "second"]
    with opened(mounted.path / "r", os.O_RDWR | os.O_CREAT) as region:
        os.ftruncate(region, SIZE)
        for number, path in enumerate(paths):
            path.write_bytes(bytes(PAGE))
            with opened(path) as file:
                map_file(region, number * PAGE, PAGE, file, prot=raw.RW)
    eventually(lambda: mounted.status()["open_handles"] == 0)
    assert mounted.state is not None
    keeper = os.open(mounted.path / "r", os.O_RDWR)
    with mmap.mmap(keeper, SIZE) as window:
        window[:5] = window[PAGE : PAGE + 5] = b"at it"
        (mounted.state / "order").write_text(f"{step}:1")
        os.fstatvfs(keeper)
    os.close(keeper)
    mount.unmount(mounted.path)
    mounted.wait_for_end()
    assert [path.read_bytes()[:5] for path in paths] == [b"at it"] * 2


@pytest.mark.usefixtures("requires_fuse")
def test_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """C31: what was mapped is memory from then on, with all that was changed, and goes to no file any
    more; the layout and the log say so."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PAGE))
    kept = Kept()
    try:
        with opened(kept.path / "r", os.O_RDWR | os.O_CREAT) as region:
            os.ftruncate(region, SIZE)
            with opened(path) as file:
                map_file(region, 0, 2 * PAGE, file, prot=raw.RW)
            with mmap.mmap(region, SIZE) as window:
                window[:5] = b"early"
                os.fsync(region)
                window[:5] = b"later"
                window.flush()
            kept.kill_supervisor()
        kept.mount_again()
        assert f"8192 bytes from 0 on do not go back to {path} any more" in kept.log()
        with opened(kept.path / "r") as region:
            assert raw.layout(region)["mappings"][0]["file"]["write_back"] == "lost"
            with mmap.mmap(region, SIZE) as window:
                assert window[:5] == b"later"
                window[:5] = b"never"
            os.fsync(region)
            raw.unmap(region, 0, PAGE)
        assert path.read_bytes()[:5] == b"early"
        os.unlink(kept.path / "r")
        kept.unmount_and_check()
    finally:
        kept.discard()
