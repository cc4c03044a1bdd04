"""The standby: a second server that has loaded its code and takes over at once; and upgrades,
for which it is made from the code that is installed now."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from msharefs.daemon.server_process import PROTOCOL, ServerError, ServerProcess
from tests.cli.tool import mshare
from tests.helpers import mount, raw
from tests.helpers.background import Background
from tests.helpers.descriptors import open_descriptors
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import MIB
from tests.helpers.waiting import eventually
from tests.survival.gap import DEATHS, has_ended, held

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("requires_fuse")]


def children(supervisor: int) -> set[int]:
    """The servers of a supervisor, the standby among them."""
    return {
        int(word)
        for word in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    }


def loaded_standby(supervisor: int) -> int:
    """Wait until a standby has loaded its code, which its name tells."""
    standby = eventually(lambda: mount.standby_of(supervisor), what="a standby")
    assert standby is not None
    return standby


def standby_of(mounted: mount.Mount) -> int:
    """Wait for it."""
    return loaded_standby(mounted.pid)


def wait_until_dead(pid: int) -> None:
    """Its parent may not have looked yet."""
    eventually(lambda: has_ended(pid), what="the standby is dead")


def test_the_standby_takes_over(make_mount: MakeMount) -> None:
    """Once, and again with the next standby; each in the state that the one before left."""
    mounted = make_mount("size=16M")
    mounted.expect_log(DEATHS)
    with raw.region(mounted.path / "region", 2 * MIB) as fd:
        for page in range(2):
            standby = standby_of(mounted)
            os.kill(mounted.server_pid, signal.SIGKILL)
            raw.create_mapping(fd, page * raw.PAGE, raw.PAGE)
            assert mounted.server_pid == standby
        assert raw.mapped_ranges(fd) in (
            [(0, 2 * raw.PAGE)],
            [(0, raw.PAGE), (raw.PAGE, 2 * raw.PAGE)],
        )
    assert mounted.status()["restarts"] == 2


def test_a_standby_that_died_is_done_without(make_mount: MakeMount) -> None:
    """Killed by itself, and in the same moment as the server."""
    mounted = make_mount("size=16M")
    mounted.expect_log(DEATHS)
    for together in (False, True):
        standby, server = standby_of(mounted), mounted.server_pid
        with held(mounted.pid):
            os.kill(standby, signal.SIGKILL)
            if together:
                os.kill(server, signal.SIGKILL)
            wait_until_dead(standby)
        if not together:
            assert mounted.server_pid == server
            os.kill(server, signal.SIGKILL)
        assert mounted.server_pid not in (standby, server)
    assert mounted.status()["restarts"] == 2


def oom_adjustment(pid: int) -> int:
    """How likely the kernel ends it for want of memory: the more, the likelier."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_where_memory_is_short_a_standby_goes_before_its_supervisor(make_mount: MakeMount) -> None:
    """Until it serves. It is smaller than the supervisor at first, and would be spared."""
    mounted = make_mount("size=16M")
    mounted.expect_log(DEATHS)
    standby, usual = standby_of(mounted), oom_adjustment(mounted.pid)
    assert oom_adjustment(mounted.server_pid) == usual < oom_adjustment(standby)
    os.kill(mounted.server_pid, signal.SIGKILL)
    assert mounted.server_pid == standby
    eventually(lambda: oom_adjustment(standby) == usual)


def test_a_standby_that_gets_no_descriptor_is_done_without(make_mount: MakeMount) -> None:
    """One line says so, and another server serves."""
    mounted = make_mount("size=16M")
    mounted.expect_log(DEATHS)
    mounted.expect_log(r"the server cannot serve: .*Too many open files")
    standby = standby_of(mounted)
    _soft, hard = resource.prlimit(standby, resource.RLIMIT_NOFILE)
    few = len(os.listdir(f"/proc/{standby}/fd"))
    resource.prlimit(standby, resource.RLIMIT_NOFILE, (few, hard))
    os.kill(mounted.server_pid, signal.SIGKILL)
    assert mounted.server_pid != standby
    assert "cannot serve" in mounted.log()


class Installed(Background):
    """A mount from a copy of the package, which can be changed under it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.package = directory / "msharefs"
        shutil.copytree(
            mount.ROOT / "msharefs", self.package, ignore=shutil.ignore_patterns("__pycache__")
        )
        self.set_version("1.0")
        variables = {**mount.environment(self.marker), "PYTHONPATH": str(directory)}
        subprocess.run(
            [*mount.command(), "msharefs", str(self.path), "-o", "size=16M"],
            env=variables,
            cwd="/",
            timeout=30,
            check=True,
        )
        state = mount.state_directory_of(mount.read_status(self.path)["pids"]["server"])
        assert state is not None
        self.log = state / "log"

    def set_version(self, version: str) -> None:
        """Install another version."""
        path = self.package / "__init__.py"
        lines = path.read_text().splitlines()
        lines = [
            f'__version__ = "{version}"' if "__version__ =" in line else line for line in lines
        ]
        path.write_text("\n".join([*lines, ""]))

    def version(self) -> str:
        """Of the server."""
        return str(mount.read_status(self.path)["version"])


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    """Version 1.0, mounted."""
    place = Installed(tmp_path)
    yield place
    place.discard()


def test_an_upgrade_brings_the_code_now_installed(installed: Installed) -> None:
    """Not that of the standby, which is older."""
    assert installed.version() == "1.0"
    supervisor = installed.supervisor_pid()
    loaded_standby(supervisor)
    installed.set_version("1.1")
    os.kill(supervisor, signal.SIGHUP)
    eventually(lambda: installed.version() == "1.1", what="the new version")
    installed.unmount_and_check()


def test_an_upgrade_to_code_that_does_not_load(installed: Installed) -> None:
    """The old server goes on, the log says why, and the next upgrade succeeds."""
    before = mount.read_status(installed.path)["pids"]
    loaded_standby(before["supervisor"])
    server = installed.package / "daemon" / "server.py"
    good = server.read_text()
    server.write_text("import nothing_of_that_name\n")
    os.kill(before["supervisor"], signal.SIGHUP)
    eventually(
        lambda: (
            "the code now installed does not load, the old server goes on"
            in installed.log.read_text()
        ),
        what="a line in the log",
    )
    assert mount.read_status(installed.path)["pids"] == before
    # The standby is that of the old code still.
    os.kill(before["server"], signal.SIGKILL)
    assert installed.version() == "1.0"
    told = mshare("restart", installed.path).refused()
    assert told.endswith("still serves, the new one does not load: the server ended at once")
    server.write_text(good)
    installed.set_version("1.1")
    os.kill(before["supervisor"], signal.SIGHUP)
    eventually(lambda: installed.version() == "1.1", what="the new version")
    installed.unmount_and_check()


def test_an_upgrade_to_code_that_speaks_otherwise_with_its_supervisor(installed: Installed) -> None:
    """Its sentence says what helps, where somebody looks for it, and the mount goes on."""
    before = mount.read_status(installed.path)["pids"]
    spoken = installed.package / "daemon" / "server_process.py"
    spoken.write_text(spoken.read_text().replace(f"PROTOCOL = {PROTOCOL}", "PROTOCOL = 99"))
    for number in range(2):
        told = mshare("restart", installed.path).refused()
        assert f"under supervisor {before['supervisor']}, which is of another version" in told
        assert (
            f"(protocol {PROTOCOL}, not 99): install that version again, or unmount and mount"
            in told
        )
        status = mount.read_status(installed.path)
        assert status["pids"] == before
        assert status["upgrades_failed"]["count"] == number + 1
    installed.unmount_and_check()


def test_a_server_that_dies_during_an_upgrade(installed: Installed) -> None:
    """The new code hangs while it is loaded; nobody has to wait for it."""
    pids = mount.read_status(installed.path)["pids"]
    loaded_standby(pids["supervisor"])
    server = installed.package / "daemon" / "server.py"
    server.write_text("import time\ntime.sleep(100)\n")
    os.kill(pids["supervisor"], signal.SIGHUP)
    eventually(lambda: len(children(pids["supervisor"])) == 3, what="the new code is loaded")
    os.kill(pids["server"], signal.SIGKILL)
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(installed.version).result(timeout=10) == "1.0"
    installed.unmount_and_check()


def test_no_process_for_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine cannot start one, or Python was uninstalled: an error like any other, with
    every descriptor closed."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    before = open_descriptors()
    with pytest.raises(ServerError, match="no process for a server"):
        ServerProcess.start(str(tmp_path), 0, [0, 0])
    assert open_descriptors() == before
