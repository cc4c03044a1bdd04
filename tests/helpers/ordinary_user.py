"""A world in which an ordinary user runs a command, made where nobody else sees it.

Owns mount and process namespaces in which he has a name, /dev/fuse is open to him, and what
the tests need can be read, however deep in root's home it lies. Of the machine nothing is
changed, and all of it is gone with its first process, in whatever way that ends. What is
left over by the command is told before that. Knows nothing of tests.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.helpers.mount import let_go
from tests.helpers.users import become

NAME = "ordinary"
UID = 61010
HOME = Path("/tmp/home")
LEFTOVERS = 70
"""The exit code when the command has left something behind."""
ENDING_SECONDS = 10.0
"""What helpers of the command that it did not wait for, get to end."""

CONTROL = Path("/sys/fs/fuse/connections")

FRESH = {"/tmp": "1777", "/dev/shm": "1777"}
"""Directories that begin empty, as on a machine of his own."""


def run(
    command: Sequence[str | Path], shown: Iterable[Path], log: Path, *, seconds: float
) -> int | None:
    """Run a command as the ordinary user; its exit code, or None if it took too long.

    It finds the directories `shown` at their own names, a mount of msharefs too. Needs root.
    """
    words = ["setpriv", "--pdeathsig", "KILL"]
    words += ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]
    words += [sys.executable, "-m", __name__, *map(str, shown), "--", *map(str, command)]
    root = Path(__file__).resolve().parents[2]
    with log.open("wb") as output:
        world = subprocess.Popen(
            words, cwd=root, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            return world.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            world.kill()
            world.wait()


def main() -> int:
    """The first process of the world: make it, run the command, look what is left."""
    # Whatever root's is: what we make here is for him.
    os.umask(0o022)
    where = Path.cwd()
    words, command = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    shown = [Path(word) for word in words]
    let_go(shown)
    show(shown)
    open_fuse()
    give_name()
    child = os.fork()
    if child == 0:
        os.chdir(where)
        become(UID)
        os.execve(command[0], command, environment())
    # Daemons lose their parents and become our children.
    while (ended := os.wait())[0] != child:
        pass
    if left := what_is_left():
        sys.stdout.write("\n  ".join(["left behind:", *left]) + "\n")
        return LEFTOVERS
    return os.waitstatus_to_exitcode(ended[1])


def mount(*words: str | Path, fds: Sequence[int] = ()) -> None:
    """mount(8)."""
    subprocess.run(["mount", *map(str, words)], check=True, timeout=20, pass_fds=fds)


def show(paths: Sequence[Path]) -> None:
    """Put empty directories over /tmp, /dev/shm and what others may not search, and in them
    these paths again."""
    # A directory that is closed itself, such as a clone in one of mktemp(1), is opened.
    paths = [
        entry
        for path in paths
        for entry in ([path] if path.stat().st_mode & stat.S_IXOTH else path.iterdir())
    ]
    covers = dict(FRESH)
    for path in paths:
        # The topmost is enough: what is below it is hidden, too.
        for parent in (path, *path.parents)[::-1]:
            if str(parent) in covers:
                break
            if not parent.stat().st_mode & stat.S_IXOTH:
                covers[str(parent)] = "0755"
                break
    held = {path: os.open(path, os.O_PATH) for path in paths}
    for place, mode in covers.items():
        mount("-t", "tmpfs", "-o", f"mode={mode}", "none", place)
    for path, fd in held.items():
        if any(path.is_relative_to(place) for place in covers):
            path.parent.mkdir(parents=True, exist_ok=True)
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                path.mkdir(exist_ok=True)
            else:
                path.touch()
            # The name is hidden by now, only the descriptor leads there.
            mount("--no-canonicalize", "--rbind", f"/proc/self/fd/{fd}", path, fds=[fd])
        os.close(fd)


def open_fuse() -> None:
    """/dev/fuse of mode 0666, as udev makes it, and the control files of its connections."""
    device = Path("/tmp/fuse")
    os.mknod(device, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    mount("--bind", device, "/dev/fuse")
    # systemd has it there already.
    if not CONTROL.is_mount():
        mount("-t", "fusectl", "none", CONTROL)


def give_name() -> None:
    """A line in /etc/passwd, a home, and the directory that a login session would have."""
    passwd = Path("/tmp/passwd")
    line = f"{NAME}:x:{UID}:{UID}::{HOME}:/bin/sh\n"
    passwd.write_text(Path("/etc/passwd").read_text() + line)
    passwd.chmod(0o644)
    mount("--bind", passwd, "/etc/passwd")
    for directory in (HOME, HOME / "runtime"):
        directory.mkdir()
        directory.chmod(0o700)
        os.chown(directory, UID, UID)


def environment() -> dict[str, str]:
    """What login(1) would set, with our own words for the tests."""
    ours = {name: text for name, text in os.environ.items() if name.startswith("MSHAREFS_")}
    return {
        **ours,
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(HOME),
        "USER": NAME,
        "LOGNAME": NAME,
        "XDG_RUNTIME_DIR": str(HOME / "runtime"),
        # He must not write where the program is.
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(HOME / "hypothesis"),
    }


def what_is_left() -> list[str]:
    """Processes, mounts, segments and state of the user's after the command has ended."""
    deadline = time.monotonic() + ENDING_SECONDS
    while (left := processes()) and time.monotonic() < deadline:
        time.sleep(0.02)
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    left += [line for line in mounts if " - fuse" in line and f"user_id={UID}" in line]
    left += [f"/dev/shm/{name}" for name in os.listdir("/dev/shm")]
    left += [str(path) for path in (HOME / "runtime").glob("msharefs/*")]
    # pytest keeps its own directory, as it does elsewhere.
    kept = {HOME.name, "fuse", "passwd", f"pytest-of-{NAME}"}
    return left + [
        f"/tmp/{path.name}"
        for path in Path("/tmp").iterdir()
        if path.name not in kept and path.stat().st_uid == UID
    ]


def processes() -> list[str]:
    """All processes here but this one; the dead are taken note of."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
    return [
        f"process {entry.name}: {(entry / 'comm').read_text().strip()}"
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and int(entry.name) != os.getpid()
    ]


if __name__ == "__main__":
    raise SystemExit(main())
