"""Options that change while the mount is in use: at once, for good, or not at all."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.helpers import mount, raw
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.poke import faults
from tests.helpers.raw import HUGE, MIB, PAGE, create_mapping, opened, refused
from tests.helpers.users import ALICE, as_user
from tests.helpers.waiting import eventually

PLANES = mount.planes()
MOUNT_OPTIONS = "size=64M,align=4096,nr_inodes=1000"

DEATHS = "the server ended with -9"
USER, TRUSTED = "user.msharefs.options", "trusted.msharefs.options"
READ_ONLY = os.ST_RDONLY


@pytest.fixture
def fresh(make_mount: MakeMount, mounted: mount.Mount) -> mount.Mount:
    """A mount of the test's own, on the plane of the module's."""
    return make_mount(f"{MOUNT_OPTIONS},data={'paged' if mount.is_paged(mounted.path) else 'auto'}")


def options(path: Path) -> dict[str, str]:
    """What the mount says of them."""
    text = os.getxattr(path, USER).decode().strip()
    return dict(word.split("=", 1) for word in text.split(","))


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """A command of ours until it ends."""
    return subprocess.run(
        [*map(str, words)],
        env=mount.environment(mount.new_marker()),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def set_options(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """mshare set."""
    return run(sys.executable, "-m", "msharefs.cli.main", "set", path, *words)


def remount(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    """What mount(8) calls for mount -o remount."""
    return run(*mount.command(), "none", path, "-o", f"remount,{text}")


def test_a_larger_size_at_once(fresh: mount.Mount) -> None:
    """What did not fit does, without another server; df tells."""
    server = fresh.server_pid
    with raw.region(fresh.path / "r", 96 * MIB) as fd:
        with refused(errno.ENOMEM):
            create_mapping(fd, 0, 96 * MIB)
        assert set_options(fresh.path, "size=128M").returncode == 0
        create_mapping(fd, 0, 96 * MIB)
        assert raw.free_bytes(fresh.path) == 32 * MIB
        assert fresh.server_pid == server


def test_smaller_down_to_what_is_in_use(fresh: mount.Mount) -> None:
    """EBUSY below it, and nothing has changed: not even what else was named."""
    with raw.region(fresh.path / "r", 32 * MIB, mapped=True):
        before = options(fresh.path)
        done = set_options(fresh.path, "log_level=debug", "size=31M", "nr_inodes=500")
        assert done.returncode == 1
        assert "more is in use than that" in done.stderr
        assert options(fresh.path) == before
        assert set_options(fresh.path, "size=32M").returncode == 0
        assert raw.free_bytes(fresh.path) == 0
        with raw.region(fresh.path / "s", PAGE) as other, refused(errno.ENOMEM):
            create_mapping(other, 0, PAGE)


def test_holes_stay_holes(fresh: mount.Mount, make_poke: MakePoke) -> None:
    """Whatever the size is: the limit of the memory is what is mapped."""
    client = make_poke()
    with raw.region(fresh.path / "r", 4 * HUGE) as fd:
        create_mapping(fd, 0, HUGE)
        address = client.attach(fresh.path / "r", 4 * HUGE)
        assert set_options(fresh.path, "size=512M").returncode == 0
        client.put(address, b"there")
        with faults():
            client.put(address + 2 * HUGE, b"not there")


def test_limits_at_once(fresh: mount.Mount) -> None:
    """Inodes, the size of a region, and how many mappings it has."""
    changed = set_options(fresh.path, "nr_inodes=3", "max_region=2M", "max_mappings=1")
    assert changed.returncode == 0, changed.stderr
    with raw.region(fresh.path / "r") as fd:
        with refused(errno.EFBIG):
            os.ftruncate(fd, 2 * HUGE)
        os.ftruncate(fd, HUGE)
        create_mapping(fd, 0, PAGE)
        with refused(errno.ENOMEM):
            create_mapping(fd, 2 * PAGE, PAGE)
        with refused(errno.ENOSPC):
            (fresh.path / "s").touch()
        assert set_options(fresh.path, "nr_inodes=4", "max_mappings=2").returncode == 0
        create_mapping(fd, 2 * PAGE, PAGE)
        (fresh.path / "s").touch()


def wait_for_another(mounted: mount.Mount, server: int) -> None:
    """Until that one does not serve any more."""
    eventually(lambda: mounted.server_pid != server, what="another server")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGHUP])
def test_kept_by_the_next_server(fresh: mount.Mount, how: signal.Signals) -> None:
    """Whether one dies or is replaced, and more than once."""
    fresh.expect_log(DEATHS)
    wanted = {"size": f"{128 * MIB}", "nr_inodes": "77", "log_level": "debug"}
    words = [f"{name}={value}" for name, value in wanted.items()]
    assert set_options(fresh.path, *words).returncode == 0
    for _ in range(2):
        before = fresh.server_pid
        os.kill(before if how == signal.SIGKILL else fresh.pid, how)
        wait_for_another(fresh, before)
        assert wanted.items() <= options(fresh.path).items()
        assert raw.free_bytes(fresh.path) == 128 * MIB
    assert "DEBUG" in fresh.log()


def test_what_is_fixed_is_refused(fresh: mount.Mount) -> None:
    """By name, and what goes with it does not change; the same value is no change."""
    before = options(fresh.path)
    done = remount(fresh.path, "size=128M,align=2M,mode=700")
    assert done.returncode == 32
    assert "align, mode" in mount.only_sentence(done)
    assert options(fresh.path) == before
    assert remount(fresh.path, "size=128M,align=4096,mode=1777").returncode == 0
    assert options(fresh.path)["size"] == str(128 * MIB)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["mode=755"], 2, "these can: size, nr_inodes"),
        (["size"], 2, "is not NAME=VALUE"),
        (["size=1G,nr_inodes=5"], 2, "is not NAME=VALUE"),
        (["size=banana"], 1, "not a possible value"),
        (["nr_inodes=50", "size=0"], 1, "not a possible value"),
        (["metrics=nowhere"], 1, "not a possible value"),
    ],
)
def test_mistakes(mounted: mount.Mount, words: list[str], code: int, said: str) -> None:
    """A sentence and a code, and nothing has changed."""
    before = options(mounted.path)
    done = set_options(mounted.path, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert options(mounted.path) == before


def test_what_can_be_changed_is_shown(mounted: mount.Mount) -> None:
    """As NAME=VALUE, to be said again."""
    done = set_options(mounted.path)
    shown = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert shown == options(mounted.path)
    assert set_options(mounted.path, *done.stdout.splitlines()).returncode == 0


def test_not_a_mount(tmp_path: Path) -> None:
    """Of anybody's."""
    assert "not on a mounted msharefs" in set_options(tmp_path, "size=1G").stderr
    done = remount(tmp_path, "ro")
    assert done.returncode == 32
    assert "is not a mounted msharefs" in mount.only_sentence(done)


@pytest.mark.root_only("becomes another user")
def test_strangers_change_nothing(mounted: mount.Mount) -> None:
    """EPERM by either name, though the root directory is open to all; not even root without
    CAP_SYS_ADMIN, as in a container."""
    os.chmod(mounted.path, 0o777)
    before = options(mounted.path)

    def try_both() -> None:
        for name in (USER, TRUSTED):
            with refused(errno.EPERM):
                os.setxattr(mounted.path, name, b"size=1G")

    as_user(ALICE, try_both)
    confined = run("setpriv", "--bounding-set=-sys_admin", *set_command(mounted.path))
    assert confined.returncode == 1
    assert "only who mounted it, and root" in confined.stderr
    assert options(mounted.path) == before


def set_command(path: Path) -> list[str]:
    """mshare set DIR size=1G."""
    return [sys.executable, "-m", "msharefs.cli.main", "set", str(path), "size=1G"]


@pytest.mark.root_only("remounts with other flags")
def test_read_only_and_back(fresh: mount.Mount) -> None:
    """Other flags of the kernel; what is not named stays, and limits go along in either direction."""
    flags = os.statvfs(fresh.path).f_flag
    assert remount(fresh.path, "ro,size=96M").returncode == 0
    assert os.statvfs(fresh.path).f_flag == flags | READ_ONLY
    assert options(fresh.path)["size"] == str(96 * MIB)
    with refused(errno.EROFS):
        (fresh.path / "r").touch()
    done = set_options(fresh.path, "size=1G")
    assert done.returncode == 1
    assert "mounted read-only" in done.stderr
    assert remount(fresh.path, "rw,noexec,size=1G").returncode == 0
    assert os.statvfs(fresh.path).f_flag == flags | os.ST_NOEXEC
    assert raw.free_bytes(fresh.path) == 1 << 30


@pytest.mark.root_only("remounts with other flags")
def test_all_or_nothing(fresh: mount.Mount) -> None:
    """A region that is open for writing keeps the mount writable, and then the limits stay too."""
    before = options(fresh.path)
    with raw.region(fresh.path / "r", HUGE):
        done = remount(fresh.path, "ro,size=128M")
        assert done.returncode == 32
        assert "a region is open for writing" in mount.only_sentence(done)
    assert options(fresh.path) == before
    with opened(fresh.path / "r", os.O_RDWR | os.O_CREAT):
        pass


def test_metrics_come_and_go(fresh: mount.Mount) -> None:
    """At the address that is said last."""
    port = free_port()
    assert set_options(fresh.path, f"metrics=:{port}").returncode == 0

    def answers() -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                return b"msharefs_info" in page.read()
        except (URLError, ConnectionError):
            return False

    eventually(answers, what="metrics")
    assert set_options(fresh.path, "metrics=off").returncode == 0
    eventually(lambda: not answers(), what="metrics are served still")


def free_port() -> int:
    """One that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
