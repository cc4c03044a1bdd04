"""While no server runs: who is attached goes on, who asks waits, and each gets its answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.raw import MIB, PAGE, opened
from tests.helpers.waiting import eventually
from tests.survival.gap import DEATHS, has_ended, held

pytestmark = pytest.mark.mount
CLEAN_RESTART = r"making room for another server"


def kill_server(mounted: mount.Mount) -> None:
    """Kill it and wait until it is dead."""
    mounted.expect_log(DEATHS)
    server = mounted.server_pid
    os.kill(server, signal.SIGKILL)
    eventually(lambda: has_ended(server), what="the server is dead")


def ask_for_another_server(mounted: mount.Mount) -> None:
    """SIGHUP, and wait until the new server answers."""
    old = mounted.server_pid
    os.kill(mounted.pid, signal.SIGHUP)
    eventually(lambda: mounted.server_pid != old, timeout=20, what="another server")


def mapped_region(path: Path) -> None:
    """A region of 16 pages that are all mapped."""
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        os.ftruncate(fd, 16 * PAGE)
        raw.create_mapping(fd, 0, 16 * PAGE)


def test_attached_processes_go_on_without_a_server(
    make_mount: MakeMount, make_poke: MakePoke
) -> None:
    """Passthrough: two processes exchange bytes through pages that neither touched before."""
    mounted = make_mount("size=16M,align=4096,data=passthrough")
    mapped_region(mounted.path / "region")
    one, two = make_poke(), make_poke()
    here = one.attach(mounted.path / "region", 16 * PAGE)
    there = two.attach(mounted.path / "region", 16 * PAGE)
    with held(mounted.pid):
        kill_server(mounted)
        for page in range(16):
            one.fill(here + page * PAGE, PAGE, page + 1)
            assert two.holds(there + page * PAGE, PAGE, page + 1)
    assert mounted.status()["restarts"] == 1
    assert one.holds(here, PAGE, 1)


def test_a_page_fault_waits_for_the_next_server(make_mount: MakeMount, make_poke: MakePoke) -> None:
    """Paged: a page that is here is used without a server; one that is not is waited for."""
    mounted = make_mount("size=16M,align=4096,data=paged")
    mapped_region(mounted.path / "region")
    client = make_poke()
    address = client.attach(mounted.path / "region", 16 * PAGE)
    client.fill(address, PAGE, 7)
    with held(mounted.pid):
        kill_server(mounted)
        assert client.holds(address, PAGE, 7)
        client.post(f"fill {address + 15 * PAGE} {PAGE} 9")
    assert client.answer() == (PAGE, [])
    assert client.holds(address, PAGE, 7)
    assert client.holds(address + 15 * PAGE, PAGE, 9)


def test_a_blocked_stat_notices_nothing(make_mount: MakeMount) -> None:
    """A look-up that the dead server had read, and others that came meanwhile, are answered."""
    mounted = make_mount("size=16M")
    for number in range(4):
        (mounted.path / f"folder{number}").mkdir(mode=0o710)
    asked = threading.Barrier(5)

    def look(number: int) -> int:
        asked.wait()
        return os.stat(mounted.path / f"folder{number}" / ".." / f"folder{number}").st_mode

    def look_for_nothing(number: int) -> bool:
        asked.wait()
        return (mounted.path / f"nothing{number}").exists()

    with ThreadPoolExecutor(4) as executor:
        with held(mounted.pid):
            kill_server(mounted)
            modes = [executor.submit(look, number) for number in range(2)]
            missing = [executor.submit(look_for_nothing, number) for number in range(2)]
            asked.wait()
        assert [mode.result(20) & 0o777 for mode in modes] == [0o710, 0o710]
        assert [there.result(20) for there in missing] == [False, False]


def test_status_tells_of_restarts(make_mount: MakeMount) -> None:
    """Restarts, what was sent again and how long the last gap was stand in the status."""
    mounted = make_mount("size=16M")
    status = mounted.status()
    assert (status["restarts"], status["resent_requests"]) == (0, 0)
    assert status["last_gap_seconds"] == 0
    with ThreadPoolExecutor(1) as executor:
        # The server reads the request, but cannot answer it any more.
        with held(status["pids"]["server"]):
            waiting = executor.submit((mounted.path / "nothing").exists)
            mounted.expect_log(DEATHS)
            killed_at = time.monotonic()
            os.kill(status["pids"]["server"], signal.SIGKILL)
        assert waiting.result(20) is False
    status = mounted.status()
    answered_at = time.monotonic()
    assert status["restarts"] == 1
    assert status["resent_requests"] in (0, 1)
    assert 0 < status["last_gap_seconds"] <= answered_at - killed_at


def test_the_announced_size_of_an_attribute_is_enough(make_mount: MakeMount) -> None:
    """Also where another server answers the reading than the one that was asked for the size."""
    mounted = make_mount("size=16M,align=4096")
    mapped_region(mounted.path / "region")

    def another_server() -> None:
        kill_server(mounted)
        assert mounted.status()["restarts"] > 0

    for path, name in ((mounted.path, "status"), (mounted.path / "region", "layout")):
        assert json.loads(raw.read_as_announced(path, f"user.msharefs.{name}", another_server))


def test_sighup_under_load_loses_nothing(make_mount: MakeMount) -> None:
    """Clients that create, map, write, check and remove see no error while the server is
    replaced three times, and their open handles and windows stay."""
    mounted = make_mount("size=64M,align=4096")
    mounted.expect_log(CLEAN_RESTART)
    mapped_region(mounted.path / "kept")
    stop = threading.Event()

    def work(number: int) -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            name = mounted.path / f"client{number}-{rounds}"
            with raw.region(name, 4 * PAGE, mapped=True) as fd:
                os.rename(name, f"{name}x")
                os.rename(f"{name}x", name)
                assert raw.mapped_ranges(fd) == [(0, 4 * PAGE)]
            rounds += 1
        return rounds

    with opened(mounted.path / "kept") as fd, ThreadPoolExecutor(4) as executor:
        jobs = [executor.submit(work, number) for number in range(4)]
        try:
            for _ in range(3):
                ask_for_another_server(mounted)
        finally:
            stop.set()
        assert all(job.result(20) > 0 for job in jobs)
        raw.unmap(fd, 0, PAGE)
    assert mounted.status()["restarts"] == 3
    os.unlink(mounted.path / "kept")
    mounted.wait_until_empty()


def test_the_command_restart_waits_for_the_new_server(make_mount: MakeMount) -> None:
    """mshare restart MOUNTPOINT: afterwards another server answers, and the gap is said."""
    mounted = make_mount("size=16M")
    old = mounted.server_pid
    done = subprocess.run(
        [sys.executable, "-m", "msharefs.cli.main", "restart", str(mounted.path)],
        capture_output=True,
        text=True,
        env=mount.environment(mount.new_marker()),
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    status = json.loads(os.getxattr(mounted.path, "user.msharefs.status"))
    assert status["pids"]["server"] != old
    assert status["restarts"] == 1
    assert f"server {status['pids']['server']}" in done.stdout
    assert " ms" in done.stdout


def test_restart_of_something_else_is_refused(tmp_path: Path) -> None:
    """mshare restart of a directory that is no mount: one sentence, exit code 1."""
    done = subprocess.run(
        [sys.executable, "-m", "msharefs.cli.main", "restart", str(tmp_path)],
        capture_output=True,
        text=True,
        env=mount.environment(mount.new_marker()),
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_sigterm_while_no_server_runs(make_mount: MakeMount) -> None:
    """The mount ends, whatever the supervisor is doing; exit code 0 and nothing left."""
    mounted = make_mount("size=16M,align=4096")
    mapped_region(mounted.path / "region")
    with held(mounted.pid):
        kill_server(mounted)
        os.kill(mounted.pid, signal.SIGTERM)
    mounted.wait_for_end()


def test_umount_while_no_server_runs(make_mount: MakeMount) -> None:
    """umount(8) asks the mount itself, so it waits for the next server and then succeeds."""
    mounted = make_mount("size=16M,align=4096")
    mapped_region(mounted.path / "region")
    with ThreadPoolExecutor(1) as executor:
        with held(mounted.pid):
            kill_server(mounted)
            waiting = executor.submit(mount.unmount, mounted.path)
        assert waiting.result(20).returncode == 0
    mounted.wait_for_end()


def test_unmounting_right_after_a_kill(make_mount: MakeMount) -> None:
    """umount(8) while the next server starts: exit code 0 and nothing left."""
    mounted = make_mount("size=16M")
    kill_server(mounted)
    assert mount.unmount(mounted.path).returncode == 0
    mounted.wait_for_end()


def test_large_change_in_a_thread_survives(make_mount: MakeMount) -> None:
    """A kill while a worker thread reserves memory: the mapping is there, once."""
    mounted = make_mount("size=512M,align=4096")
    with opened(mounted.path / "region", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 256 * MIB)
        with ThreadPoolExecutor(1) as executor:
            server = mounted.server_pid
            mounted.expect_log(DEATHS)
            before = mounted.status()["arena"]["used"]
            arena = mount.arena_of(server)
            waiting = executor.submit(raw.create_mapping, fd, 0, 256 * MIB)
            eventually(lambda: used_in(arena) > before, what="memory is being reserved", step=1e-4)
            os.kill(server, signal.SIGKILL)
            waiting.result(20)
        assert raw.layout(fd)["counters"] == {"maps": 1, "unmaps": 0}
        assert mounted.status()["arena"]["used"] == 256 * MIB
    os.unlink(mounted.path / "region")
    mounted.wait_until_empty()


def used_in(arena: Path) -> int:
    """Bytes in use in a tmpfs, without asking the mount; a ballast page not counted."""
    numbers = os.statvfs(arena)
    return (numbers.f_blocks - numbers.f_bfree - 1) * numbers.f_frsize
