"""A mount among others: it holds none of theirs, and says who holds it.

The machine's other file systems, roots and mount namespaces are made for the test.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.background import Background
from tests.helpers.fixtures import MakeMount
from tests.helpers.waiting import eventually

pytestmark = [
    pytest.mark.root_only("mounts other file systems"),
    pytest.mark.usefixtures("requires_fuse"),
]


def run(*words: str | Path) -> None:
    """A command that has to succeed."""
    subprocess.run([*map(str, words)], check=True, timeout=20)


def tmpfs(path: Path) -> str:
    """Mount one, private to nobody; its device number as mountinfo has it."""
    path.mkdir(exist_ok=True)
    run("mount", "-t", "tmpfs", "none", path)
    return mount.mount_lines(path)[-1].split()[2]


def devices(pid: int) -> set[str]:
    """The file systems that are mounted where a process is."""
    table = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").split("\n")
    return {line.split(" ")[2] for line in table if line}


def processes(background: Background) -> tuple[int, list[int]]:
    """The supervisor, and its server and standby, which are there."""
    pids = mount.read_status(background.path)["pids"]
    standby = eventually(lambda: mount.standby_of(pids["supervisor"]), what="a standby server")
    assert standby is not None
    return pids["supervisor"], [pids["server"], standby]


def test_the_server_holds_no_other_file_system(background: Background) -> None:
    """M17: not one that was there before or is mounted later, over another, in another, under
    a strange name, or beneath another one."""
    others = [background.base / name for name in ("one", "od\nd \\040", "two")]
    before = {tmpfs(path) for path in [*others, others[0]]}
    before.add(tmpfs(others[0] / "in"))
    # Hidden: its own path leads to the one above.
    hidden = background.base / "two" / "deep"
    before |= {tmpfs(hidden), tmpfs(others[2])}
    assert background.start("-o", "size=16M").returncode == 0
    later = tmpfs(background.base / "later")
    supervisor, servers = processes(background)
    assert devices(supervisor) >= before

    def held() -> set[str]:
        return set().union(*map(devices, servers)) & (before | {later})

    # The standby may be loading its code.
    eventually(lambda: not held(), what="a copy is there")
    for path in (
        *others[:2],
        others[0] / "in",
        others[0],
        others[2],
        hidden,
        others[2],
        background.base / "later",
    ):
        mount.unmount(path, lazy=True)
    background.unmount_and_check()


def test_another_mount_ends_with_its_umount(background: Background) -> None:
    """M17: a server that was started while it was there has no copy that keeps it alive."""
    other = Background()
    try:
        assert other.start("-o", "size=16M").returncode == 0
        assert background.start("-o", "size=16M").returncode == 0
        processes(background)
        other.unmount_and_check()
        background.unmount_and_check()
    finally:
        other.discard()


def test_what_a_server_needs_late_is_there(background: Background) -> None:
    """M17: the interpreter's files, /proc, /sys with the control groups, and the state."""
    assert background.start("-o", "size=16M").returncode == 0
    root = Path(f"/proc/{mount.read_status(background.path)['pids']['server']}/root")
    for path in (sys.executable, os.__file__, "/proc/self/maps", "/sys/kernel/mm", "/dev/null"):
        assert os.path.exists(f"{root}{path}"), path
    groups = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "- cgroup" in line
    ]
    for line in groups:
        assert os.listdir(f"{root}{line.split()[4]}")
    background.unmount_and_check()


CHROOT = """
mount --make-rprivate /
mount -t tmpfs none "$base"
mkdir -p "$root"/{{run,tmp}}
for path in {needed}; do
    [ ! -L "$path" ] || {{ ln -s "$(readlink "$path")" "$root$path"; continue; }}
    [ ! -e "$path" ] || {{ mkdir -p "$root$path"; mount --rbind "$path" "$root$path"; }}
done
mkdir -p "$root$path_of_mount"
chroot "$root" {command} msharefs "$path_of_mount" -o size=8M
there=$root$path_of_mount
pid() {{ python3 -c 'import json, os, sys
print(json.loads(os.getxattr(sys.argv[1], "user.msharefs.status"))["pids"][sys.argv[2]])' "$there" "$1"; }}
server=$(pid server)
echo "root of the server: $(readlink "/proc/$server/root")"
python3 -c 'import ctypes, os, sys
proc = os.open("/proc", os.O_RDONLY)
ctypes.CDLL(None).setns(os.open(sys.argv[1], os.O_RDONLY), 0)
table = os.open("self/mountinfo", os.O_RDONLY, dir_fd=proc)
print("mounts of msharefs there:", os.read(table, 1 << 20).count(b"fuse.msharefs"))
' "/proc/$server/ns/mnt"
for path in {needed}; do
    [ ! -d "$path" ] || [ -n "$(ls "/proc/$server/root$path/")" ] || echo "no $path there"
done
echo "state: $(ls "$root/run/msharefs" | wc -l)"
kill -9 "$(pid server)"
echo "after a kill: $(ls "$there"), $(stat -f -c %b "$there") blocks"
supervisor=$(pid supervisor)
kill "$supervisor"
timeout 10 tail -f /dev/null --pid "$supervisor" -s 0.05
echo "state at the end: $(ls "$root/run")"
mountpoint "$there" || :
"""


def test_in_a_chroot_the_mount_is_inside(background: Background) -> None:
    """M17: at the path as it is there, with state of its own; the host's mount of the same path
    keeps its regions. The server is replaced, and SIGTERM unmounts, as anywhere."""
    base = background.base / "base"
    base.mkdir()
    # No mount point, which some system calls ask of a root directory.
    root = base / "root"
    # Wherever the interpreter, its environment and our modules are.
    needed = ["/usr", "/lib", "/lib64", "/bin", "/etc", "/dev", "/proc", "/sys"]
    needed += [sys.base_prefix, sys.prefix, str(mount.ROOT)]
    script = CHROOT.format(needed=shlex.join(needed), command=shlex.join(mount.command()))
    assert background.start("-o", "size=16M").returncode == 0
    with raw.region(background.path / "host", raw.HUGE, mapped=True):
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-euc", script],
            env={
                **mount.environment(background.marker),
                "base": str(base),
                "root": str(root),
                "path_of_mount": str(background.path),
            },
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == [
            f"root of the server: {root}",
            "mounts of msharefs there: 0",
            "state: 1",
            "after a kill: mshare_info, 2048 blocks",
            "state at the end: ",
            f"{root}{background.path} is not a mountpoint",
        ]
        assert raw.layout(background.path / "host")["mapped"] == raw.HUGE
    background.unmount_and_check()


def test_df_shows_the_mount_and_not_its_arena(background: Background) -> None:
    """M17: a file system that is always full would alarm every monitor of disks."""
    assert background.start("-o", "size=16M").returncode == 0
    shown = subprocess.run(["df"], capture_output=True, text=True, timeout=20, check=False).stdout
    assert str(background.path) in shown
    (state,) = mount.states_of(background.base)
    assert str(state) not in shown
    background.unmount_and_check()


@contextmanager
def elsewhere(command: str) -> Iterator[subprocess.Popen[str]]:
    """A shell that runs a command in a mount namespace with copies of all mounts, and then
    waits for its end."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    with subprocess.Popen(
        [*words, f"{command}; echo there; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "there\n"
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(10)


def test_a_copy_in_another_namespace_is_named(make_mount: MakeMount) -> None:
    """M17: after umount the log says who keeps the mount, and so does the next mount command,
    which cannot have the place."""
    mounted = make_mount("size=16M")
    with elsewhere(":") as holder:
        assert mount.unmount(mounted.path).returncode == 0
        sentence = f"cat ({holder.pid}: a copy of the mount in its mount namespace)"
        mounted.expect_log("is still in use by")
        eventually(lambda: sentence in mounted.log(), what="the log names the holder")
        done = mount.run_command("msharefs", mounted.path, "-o", "size=16M")
        assert done.returncode == 32
        assert sentence in mount.only_sentence(done)
    mounted.wait_for_end()


@pytest.mark.parametrize("use", ["an open file", "attached memory", "its working directory"])
def test_who_uses_a_busy_mount_is_named(make_mount: MakeMount, use: str) -> None:
    """M17: SIGTERM to the supervisor of a mount in use leaves it, and the log says who uses it."""
    mounted = make_mount("size=16M")
    mounted.expect_log("cannot unmount")
    with raw.region(mounted.path / "r", raw.HUGE, mapped=True):
        pass
    region = shlex.quote(str(mounted.path / "x"))
    ways = {
        "an open file": f"exec 9>{region}",
        "its working directory": f"cd {shlex.quote(str(mounted.path))}",
        "attached memory": "",
    }
    attach = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 1 << 21)\n"
        "area = mmap.mmap(fd, 1 << 21); os.close(fd)\n"
    )
    program = [
        sys.executable,
        "-c",
        attach + "print('there', flush=True); input()",
        str(mounted.path / "x"),
    ]
    shell = ["sh", "-c", f"{ways[use]}; echo there; read word"]
    with subprocess.Popen(
        shell if ways[use] else program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "there\n"
        os.kill(mounted.pid, signal.SIGTERM)
        eventually(lambda: "cannot unmount" in mounted.log(), what="the log")
        user.communicate("end\n", timeout=10)
    assert f"({user.pid}: {use})" in mounted.log()
    if (mounted.path / "x").exists():
        (mounted.path / "x").unlink()


def test_a_mount_that_was_moved(background: Background) -> None:
    """M17: the old place says where it is; SIGHUP and SIGTERM find it there."""
    run("mount", "--bind", background.base, background.base)
    run("mount", "--make-private", background.base)
    try:
        assert background.start("-o", "size=16M").returncode == 0
        old, background.path = background.path, background.base / "moved"
        background.path.mkdir()
        run("mount", "--move", old, background.path)
        done = background.start("-o", "size=16M", place=old)
        assert done.returncode == 32
        assert f"{old} is already served: its mount is at {background.path} now" in done.stderr
        pids = mount.read_status(background.path)["pids"]
        os.kill(pids["supervisor"], signal.SIGHUP)
        eventually(
            lambda: mount.read_status(background.path)["restarts"] == 1, what="another server"
        )
        os.kill(pids["supervisor"], signal.SIGTERM)
        eventually(lambda: not mount.mount_lines(background.path), what="the mount is there")
        background.check_nothing_left()
    finally:
        run("umount", "-l", background.base)


def test_what_is_mounted_over_it_is_left_alone(background: Background) -> None:
    """M17: SIGTERM does not unmount somebody else's file system that hides the mount."""
    assert background.start("-o", "size=16M").returncode == 0
    supervisor = background.supervisor_pid()
    tmpfs(background.path)
    os.kill(supervisor, signal.SIGTERM)
    os.kill(supervisor, signal.SIGHUP)
    eventually(
        lambda: b"SigPnd:\t0000000000000000" in Path(f"/proc/{supervisor}/status").read_bytes()
    )
    assert mount.file_system_type(background.path) == "tmpfs"
    run("umount", background.path)
    assert mount.file_system_type(background.path) == "fuse.msharefs"
    background.unmount_and_check()
