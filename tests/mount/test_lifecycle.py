"""How a mount begins and ends, and what each mistake is answered with."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.background import Background
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.raw import HUGE, opened, refused
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("requires_fuse")


def test_command_returns_when_the_mount_answers(background: Background) -> None:
    """M14: exit code 0, not a word, and the next system call finds the mount."""
    done = background.start("-o", "size=16M")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (background.path / "mshare_info").read_text() == "2097152\n"
    with raw.region(background.path / "r", HUGE, mapped=True) as fd:
        assert raw.layout(fd)["mapped"] == HUGE
    background.unmount_and_check()


def test_nothing_is_left_however_often_it_is_mounted(background: Background) -> None:
    """M14: an idle mount is gone after umount: processes, state, mounts; three times in a row."""
    for _ in range(3):
        background.start("-o", "size=16M")
        background.unmount_and_check()


def test_daemon_holds_nothing_of_its_starter(background: Background) -> None:
    """M14: own session, directory "/", standard descriptors on /dev/null."""
    background.start("-o", "size=16M")
    pids = mount.processes_of(background.marker)
    # The supervisor and the server, and on a slow machine the standby, which comes half a second later;
    # what starts helpers for files comes with the first file.
    assert 2 <= len(pids) <= 3
    names = {Path(f"/proc/{pid}/comm").read_text() for pid in pids}
    assert "msharefs-files\n" not in names
    for pid in pids:
        assert os.getsid(pid) != os.getsid(0)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        for standard in range(3):
            assert os.readlink(f"/proc/{pid}/fd/{standard}") == "/dev/null"
    background.unmount_and_check()


def by_signal(number: signal.Signals) -> Callable[[mount.Mount], object]:
    """End a mount with a signal to the process that the command became."""
    return lambda mounted: os.kill(mounted.pid, number)


def by_command(*words: str) -> Callable[[mount.Mount], object]:
    """End a mount with a command."""
    return lambda mounted: subprocess.run([*words, str(mounted.path)], check=True, timeout=20)


@pytest.mark.parametrize(
    "end",
    [
        by_command("umount"),
        by_command("fusermount3", "-u"),
        by_signal(signal.SIGTERM),
        by_signal(signal.SIGINT),
    ],
    ids=["umount", "fusermount3", "SIGTERM", "SIGINT"],
)
def test_every_way_to_end(make_mount: MakeMount, end: Callable[[mount.Mount], object]) -> None:
    """M14: exit code 0 and nothing left, with regions in the mount, too."""
    mounted = make_mount("size=16M")
    (mounted.path / "directory").mkdir()
    for name in ("a", "directory/b"):
        with opened(mounted.path / name, os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, HUGE)
            raw.create_mapping(fd, 0, HUGE)
    end(mounted)
    mounted.wait_for_end()


def test_signal_to_the_daemon_in_the_background(background: Background) -> None:
    """M14: SIGTERM to the process id of the status ends it as umount does."""
    background.start("-o", "size=16M")
    os.kill(background.supervisor_pid(), signal.SIGTERM)
    background.check_nothing_left()


def test_regions_are_gone_after_umount(make_mount: MakeMount, background: Background) -> None:
    """M14: a new mount at the same place starts empty, and with all of its memory."""
    background.start("-o", "size=16M")
    with opened(background.path / "r", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, HUGE)
        raw.create_mapping(fd, 0, HUGE)
    background.unmount_and_check()
    background.start("-o", "size=16M")
    assert os.listdir(background.path) == ["mshare_info"]
    assert raw.free_bytes(background.path) == 16 * raw.MIB
    background.unmount_and_check()


def in_use_by_descriptor(mounted: mount.Mount, client: poke.Poke) -> None:
    """A region is open."""
    client.open(mounted.path / "r", os.O_CREAT | os.O_RDWR)


def in_use_by_mapping(mounted: mount.Mount, client: poke.Poke) -> None:
    """A region is attached; its descriptor is closed."""
    with opened(mounted.path / "r", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, HUGE)
        raw.create_mapping(fd, 0, HUGE)
    client.put(client.attach(mounted.path / "r", HUGE), b"used")


def in_use_by_directory(mounted: mount.Mount, client: poke.Poke) -> None:
    """A directory is open."""
    client.open(mounted.path, os.O_RDONLY | os.O_DIRECTORY)


@pytest.mark.parametrize(
    "use", [in_use_by_descriptor, in_use_by_mapping, in_use_by_directory], ids=lambda f: f.__name__
)
def test_umount_while_in_use(
    make_mount: MakeMount,
    make_poke: MakePoke,
    use: Callable[[mount.Mount, poke.Poke], None],
) -> None:
    """M13: umount, fusermount3 -u and SIGTERM are refused, and the mount goes on working."""
    mounted = make_mount("size=16M")
    client = make_poke()
    use(mounted, client)
    assert "busy" in mount.unmount(mounted.path).stderr
    command = ["fusermount3", "-u", str(mounted.path)]
    assert subprocess.run(command, capture_output=True, timeout=20, check=False).returncode != 0
    mounted.expect_log("cannot unmount")
    os.kill(mounted.pid, signal.SIGTERM)
    eventually(lambda: "cannot unmount" in mounted.log(), what="a word about SIGTERM while in use")
    with raw.region(mounted.path / "still", HUGE) as fd:
        assert raw.layout(fd)["size"] == HUGE
    client.kill()


def test_lazy_umount_while_attached(make_mount: MakeMount, make_poke: MakePoke) -> None:
    """M13: after umount -l the name is gone; attached memory lives until its process ends."""
    mounted = make_mount("size=16M")
    client = make_poke()
    path = mounted.path / "r"
    with raw.region(path, HUGE, mapped=True):
        address = client.attach(path, HUGE)
    client.put(address, b"still here")
    assert mount.unmount(mounted.path, lazy=True).returncode == 0
    assert not mount.mount_lines(mounted.path)
    assert client.get(address, 10) == b"still here"
    assert mounted.process.poll() is None
    client.kill()
    mounted.wait_for_end()


def test_two_mounts_know_nothing_of_each_other(make_mount: MakeMount) -> None:
    """M14: two at the same time have their own regions and memory, and end one by one."""
    one, two = make_mount("size=16M"), make_mount("size=32M")
    assert one.state != two.state
    with raw.region(one.path / "r", HUGE, mapped=True):
        assert os.listdir(two.path) == ["mshare_info"]
        assert raw.free_bytes(one.path) == 14 * raw.MIB
        assert raw.free_bytes(two.path) == 32 * raw.MIB
    assert mount.unmount(one.path).returncode == 0
    one.wait_for_end()
    with raw.region(two.path / "r", HUGE, mapped=True) as fd:
        assert raw.layout(fd)["mapped"] == HUGE


def test_same_place_twice(make_mount: MakeMount, background: Background) -> None:
    """M14: refused with code 32, by its path, another spelling or a link; the first is unharmed."""
    first = make_mount("size=16M")
    link = background.base / "link"
    link.symlink_to(first.path)
    for place in (first.path, f"{first.path}/", f"{first.base}/./mnt", link):
        done = mount.run_command("msharefs", place)
        assert done.returncode == 32
        assert str(first.path) in mount.only_sentence(done)
    assert len(mount.mount_lines(first.path)) == 1
    assert first.status()["arena"]["size"] == 16 * raw.MIB


def test_mount_point_is_covered_and_comes_back(background: Background) -> None:
    """M14: files in the directory are hidden while the mount is there."""
    (background.path / "before").write_text("kept")
    assert background.start().returncode == 0
    assert os.listdir(background.path) == ["mshare_info"]
    background.unmount_and_check()
    assert (background.path / "before").read_text() == "kept"


@pytest.mark.parametrize("name", ["with space", "comma,equals=x", "back\\slash", "\u00e4\u00f6 -o"])
def test_strange_mount_points(background: Background, name: str) -> None:
    """M14: any path will do as a mount point and is shown right in the status."""
    background.path = background.base / name
    background.path.mkdir()
    assert background.start().returncode == 0
    status = mount.read_status(background.path)
    assert status["mount"]["mountpoint"] == str(background.path)
    background.unmount_and_check()


def test_long_mount_point(background: Background) -> None:
    """M14: a path of more than a thousand bytes gets a state directory as well."""
    background.path = background.base.joinpath(*["d" * 200] * 5)
    background.path.mkdir(parents=True)
    assert background.start().returncode == 0
    background.unmount_and_check()


def test_relative_mount_point(background: Background) -> None:
    """M14: a relative path means what it means in the shell that started the command."""
    done = background.start(place="mnt", cwd=background.base)
    assert done.returncode == 0
    assert mount.file_system_type(background.path) == "fuse.msharefs"
    background.unmount_and_check()


@pytest.mark.parametrize("source", ["none", "msharefs", "a b", "x,y", "/dev/null", "-"])
def test_any_source(background: Background, source: str) -> None:
    """A9: SOURCE may be any word; it is shown as it was given."""
    done = background.start(source=source)
    assert done.returncode == 0
    assert mount.read_status(background.path)["mount"]["source"] == source
    shown = mount.mount_lines(background.path)[-1].split(" - ", 1)[1].split()[1]
    assert shown == source.replace(" ", "\\040")
    background.unmount_and_check()


def test_generic_options(background: Background) -> None:
    """M14: what mount(8) and systemd add is accepted, and what the kernel knows has effect."""
    options = (
        "rw,nosuid,nodev,noexec,relatime,noauto,nofail,_netdev,user,defaults,x-systemd.requires=a,"
        "comment=b,default_permissions,size=16M"
    )
    if mount.PRIVILEGED:
        # A user's mounts are open to others only where /etc/fuse.conf says so.
        options += ",allow_other"
    assert background.start("-o", options).returncode == 0
    flags = mount.mount_lines(background.path)[-1].split()[5].split(",")
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(flags)
    background.unmount_and_check()


def test_several_option_arguments(background: Background) -> None:
    """M14: -o may be given more than once; of two values the last one counts."""
    assert background.start("-o", "size=16M,mode=0700", "-o", "size=8M").returncode == 0
    assert raw.free_bytes(background.path) == 8 * raw.MIB
    background.unmount_and_check()


def test_read_only(background: Background) -> None:
    """M14: with ro nothing can be made: EROFS."""
    assert background.start("-o", "ro,size=16M").returncode == 0
    with refused(errno.EROFS):
        os.mkdir(background.path / "directory")
    background.unmount_and_check()


def test_killed_server_is_replaced(make_mount: MakeMount, make_poke: MakePoke) -> None:
    """M15: SIGKILL of the server loses nothing: names, sizes, layouts and bytes are the same."""
    mounted = make_mount("size=16M")
    mounted.expect_log("starting a new one")
    path, client = mounted.path / "r", make_poke()
    with raw.region(path, HUGE, mapped=True) as fd:
        address = client.attach(path, HUGE)
        client.put(address, b"kept")
        before, server = raw.layout(fd), mounted.server_pid
        os.kill(server, signal.SIGKILL)
        assert raw.layout(fd)["mappings"] == before["mappings"]
        assert mounted.server_pid != server
        assert client.get(client.attach(path, HUGE), 4) == b"kept"
        raw.unmap(fd, 0, HUGE)
        with poke.faults():
            client.get(address)
    client.kill()


def test_killed_daemon_leaves_a_place_that_can_be_used_again(
    background: Background, make_poke: MakePoke
) -> None:
    """M16, P4: after SIGKILL of all processes the next mount at that place has all regions again."""
    background.start("-o", "size=16M")
    path, client = background.path / "r", make_poke()
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 2 * HUGE)
        raw.create_mapping(fd, 0, HUGE)
    address = client.attach(path, 2 * HUGE)
    client.put(address, b"survivor")
    if mount.is_paged(background.path):
        # What was not written back yet goes with the daemon.
        client.call("msync", address, HUGE, raw.MS_SYNC)
    for pid in mount.processes_of(background.marker):
        # Some end by themselves when the supervisor is gone.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not mount.processes_of(background.marker))
    assert client.get(address, 8) == b"survivor"
    mount.unmount(background.path, lazy=True)
    assert background.start("-o", "size=16M").returncode == 0
    assert raw.mapped_ranges(path) == [(0, HUGE)]
    assert raw.free_bytes(background.path) == 14 * raw.MIB
    other = make_poke()
    assert other.get(other.attach(path, 2 * HUGE), 8) == b"survivor"
    for each in (client, other):
        each.kill()
    background.unmount_and_check()


def test_supervisor_alone_killed(background: Background) -> None:
    """M16: the server does not stay behind without its supervisor."""
    background.start("-o", "size=16M")
    os.kill(background.supervisor_pid(), signal.SIGKILL)
    eventually(lambda: not mount.processes_of(background.marker), what="a server is left")
    mount.unmount(background.path, lazy=True)
    assert background.start("-o", "size=16M").returncode == 0
    background.unmount_and_check()


def test_unmounted_before_it_answers(background: Background) -> None:
    """M14: who unmounts while the server starts is told so by the command, and nothing is left."""
    with ThreadPoolExecutor(1) as executor:
        starting = executor.submit(background.start, "-o", "size=16M")
        eventually(lambda: mount.mount_lines(background.path), what="a mount", step=0.001)
        assert mount.unmount(background.path).returncode == 0
        done = starting.result(30)
    # 0 if the server was quicker after all.
    if done.returncode:
        assert mount.only_sentence(done) == "it was unmounted before it answered"
        assert done.returncode == 32
    background.check_nothing_left()


def test_log_says_which_rule_refused(make_mount: MakeMount) -> None:
    """M14: with log_level=debug each refusal has a line with the errno and the reason; else none."""
    quiet, chatty = make_mount("size=16M"), make_mount("size=16M,log_level=debug")
    for mounted in (quiet, chatty):
        with raw.region(mounted.path / "r") as fd, refused(errno.EINVAL):
            os.ftruncate(fd, 12345)
    (line,) = (line for line in chatty.log().splitlines() if "EINVAL" in line and "12345" in line)
    me = Path("/proc/self/comm").read_text().strip()
    assert "(/r)" in line
    assert f"pid {os.getpid()} ({me})" in line
    assert "EINVAL" not in quiet.log()
