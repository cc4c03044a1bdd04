"""A real mount for tests: starts the real command, ends it, and looks what is left.

Owns the daemon's process from start to end. The tests' own process only touches the
mount; it never serves it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from msharefs.daemon.options import TESTING
from tests.helpers.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
PRIVILEGED = os.geteuid() == 0
START_SECONDS = 20.0
STOP_SECONDS = 30.0
SUSPICIOUS = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|Traceback|Warning:")
# Every process that comes from a test's mount carries this in its environment.
MARKER = "MSHAREFS_TEST_MOUNT"
# Options for every mount of a test run, such as data=paged.
MORE_OPTIONS = "MSHAREFS_TEST_OPTIONS"

_numbers = itertools.count()


def planes() -> tuple[str, ...]:
    """The data planes to test: the one that MSHAREFS_TEST_OPTIONS asks for, or both."""
    return asked_for() or ("passthrough", "paged")


def asked_for() -> tuple[str, ...]:
    """The data plane that MSHAREFS_TEST_OPTIONS asks for, or none."""
    asked = re.search(r"\bdata=(\w+)", os.environ.get(MORE_OPTIONS, ""))
    return (asked[1],) if asked else ()


def state_base() -> Path:
    """Where the state directories of our mounts are: root's, or those of one user's session."""
    if PRIVILEGED:
        return Path("/run/msharefs")
    return Path(os.environ["XDG_RUNTIME_DIR"], "msharefs")


def command() -> list[str]:
    """The real mount command: the installed one beside this interpreter, else the module."""
    installed = Path(sys.executable).with_name("msharefs-mount")
    if installed.exists():
        return [str(installed)]
    return [sys.executable, "-m", "msharefs.cli.mount"]


def environment(marker: str) -> dict[str, str]:
    """The environment for the command, marked so that its processes can be found again."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, MARKER: marker, TESTING: "1", "PYTHONPATH": os.pathsep.join(paths)}


def new_marker() -> str:
    """A word that no other mount of any test run has."""
    return f"{os.getpid()}-{next(_numbers)}"


def run_command(
    *arguments: str | Path,
    marker: str | None = None,
    cwd: Path | str = "/",
    path: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the mount command until it returns; stdout and stderr as text. `path` is the PATH."""
    variables = environment(marker or new_marker())
    if path is not None:
        variables["PATH"] = path
    return subprocess.run(
        [*command(), *map(str, arguments)],
        env=variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def only_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed command has written, to stderr, with its name before."""
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    name, _, sentence = line.partition(": ")
    assert name == "msharefs-mount"
    return sentence


def processes_of(marker: str) -> list[int]:
    """The processes that carry the marker, zombies left out."""
    wanted = f"{MARKER}={marker}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def as_a_user_has_it(path: Path) -> None:
    """Let a mount be read ahead as far as the kernel does by itself (128 KiB). Root's mounts are
    set to more, a user's cannot be."""
    device = os.stat(path).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if PRIVILEGED:
        setting.write_text("128")
    assert setting.read_text() == "128\n"


def mount_lines(path: Path | str) -> list[str]:
    """The lines of our mountinfo whose mount point is `path`."""
    return [line for line in _table() if unescaped(line.split(" ")[4]) == str(path)]


def _table(pid: int | str = "self") -> list[str]:
    """The lines of a process's mountinfo. Somebody's mount may have any bytes in its path."""
    return os.fsdecode(Path(f"/proc/{pid}/mountinfo").read_bytes()).rstrip("\n").split("\n")


def unescaped(text: str) -> str:
    """proc(5): blanks and backslashes stand as \\ooo."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def file_system_type(path: Path | str) -> str:
    """What /proc/self/mountinfo calls the topmost file system at `path`."""
    return mount_lines(path)[-1].split(" - ", 1)[1].split()[0]


def state_directories() -> set[Path]:
    """The state directories of all mounts on this machine that are root's, or this user's."""
    return set(state_base().iterdir()) if state_base().is_dir() else set()


def states_of(base: Path) -> list[Path]:
    """The state directories of mounts below `base`, whose name is nobody else's.

    Others on this machine mount as well, so that the names must tell ours.
    """
    ours = base.name.rpartition("-")[2]
    return [state for state in state_directories() if ours in state.name]


def remove_by_force(base: Path, marker: str) -> None:
    """The fallback for a mount point below `base`: whatever is still there goes."""
    for point in _points_below(base):
        unmount(point, lazy=True)
    for pid in processes_of(marker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for state in states_of(base):
        remove_segments(state)
        # The arena, and what hides it.
        while mount_lines(state / "shm"):
            unmount(state / "shm", lazy=True)
        shutil.rmtree(state, ignore_errors=True)
    # What is mounted there may be anything of the machine's.
    if not _points_below(base):
        shutil.rmtree(base, ignore_errors=True)


def _points_below(base: Path) -> list[Path]:
    points = [Path(unescaped(line.split(" ")[4])) for line in _table()]
    return [point for point in reversed(points) if point.is_relative_to(base)]


def remove_segments(state: Path) -> None:
    """Unlink what a user's mount has in the machine's /dev/shm; root's has nothing there."""
    with suppress(FileNotFoundError):
        prefix = json.loads((state / "config.json").read_text())["arena"]
        for segment in Path("/dev/shm").glob(f"{prefix}*"):
            segment.unlink()


def state_directory_of(pid: int) -> Path | None:
    """The state directory whose tmpfs this daemon of root's has at /dev/shm, told by the device
    number."""
    devices: dict[str, str] = {}
    for line in _table(pid):
        fields = line.split(" ")
        devices[fields[4]] = fields[2]
    arena = devices.get("/dev/shm")
    for line in _table():
        fields = line.split(" ")
        point = Path(unescaped(fields[4]))
        if fields[2] == arena and point.is_relative_to(state_base()):
            return state_base() / point.relative_to(state_base()).parts[0]
    return None


def standby_of(supervisor: int) -> int | None:
    """The standby server of a supervisor, if it has been started: its name tells."""
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    for child in map(int, children):
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{child}/comm").read_text() == "mshare-standby\n":
                return child
    return None


def arena_of(server: int) -> Path:
    """The directory of the segments of root's mount, as its server sees it."""
    return Path(f"/proc/{server}/root/dev/shm")


def shared_memory_names() -> set[str]:
    """The names in the machine's own /dev/shm that may be of our mounts."""
    found = set()
    for entry in os.scandir("/dev/shm"):
        # Other mounts come and go.
        with suppress(FileNotFoundError):
            if "mshare" in entry.name and entry.stat().st_uid == os.geteuid():
                found.add(entry.name)
    return found


def unmount(path: Path | str, *, lazy: bool = False) -> subprocess.CompletedProcess[str]:
    """umount(8), or what an ordinary user has in its place."""
    words = ["umount", "-l"] if PRIVILEGED else ["fusermount3", "-u", "-z"]
    return subprocess.run(
        [*(words if lazy else words[:-1]), str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def let_go(shown: Sequence[Path] = ()) -> None:
    """Our copies of mounts of msharefs would keep them alive after their umount elsewhere. Those
    that are `shown` have to."""
    points = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        point = unescaped(fields[4])
        kind = fields[fields.index("-") + 1]
        ours = kind == "fuse.msharefs" or point.startswith("/run/msharefs/")
        if ours and Path(point) not in shown:
            points.append(point)
    for point in reversed(points):
        subprocess.run(["umount", "-l", point], check=False, timeout=20, capture_output=True)


def wait_until_mounted(path: Path, alive: Callable[[], bool], log: Callable[[], str]) -> None:
    """Poll until the mount is there; AssertionError with the log if its daemon dies before."""
    deadline = time.monotonic() + START_SECONDS
    while not mount_lines(path):
        if not alive():
            raise AssertionError(f"the daemon ended before the mount answered:\n{log()}")
        if time.monotonic() > deadline:
            raise AssertionError(f"no mount after {START_SECONDS} s:\n{log()}")
        time.sleep(0.005)


def read_status(path: Path) -> dict[str, Any]:
    """user.msharefs.status of the root directory of a mount."""
    parsed: dict[str, Any] = json.loads(os.getxattr(path, "user.msharefs.status"))
    return parsed


def is_paged(path: Path) -> bool:
    """Whether the kernel asks the daemon of this mount for every page."""
    return bool(read_status(path)["data_plane"]["name"] == "paged")


def is_direct(path: Path) -> bool:
    """Whether any client of this mount can have the memory of a region itself."""
    return bool(read_status(path)["data_plane"]["name"] == "direct")


class Mount:
    """One msharefs mount served by the real command in the foreground."""

    def __init__(self, options: str = "", *, source: str = "msharefs") -> None:
        self.base = Path(tempfile.mkdtemp(prefix="msharefs-test-"))
        # Other users must reach the mount point.
        self.base.chmod(0o755)
        self.path = self.base / "mnt"
        self.path.mkdir()
        self.log_path = self.base / "log"
        self.source = source
        self.marker = new_marker()
        # A user's segments are in danger where systemd-logind runs.
        self._expected = [] if PRIVILEGED else ["see RemoveIPC in logind.conf"]
        self._log_seen = 0
        self._exit_code = 0
        self.state: Path | None = None
        self._shared_before = shared_memory_names()
        arguments = [*command(), source, str(self.path), "-f"]
        for words in (options, os.environ.get(MORE_OPTIONS)):
            if words:
                arguments += ["-o", words]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self.marker),
                cwd="/",
                start_new_session=True,
            )
        try:
            wait_until_mounted(self.path, lambda: self.process.poll() is None, self.log)
            # The device number of a FUSE mount is the number of its connection.
            self.connection = mount_lines(self.path)[-1].split()[2].partition(":")[2]
        except BaseException:
            self.discard()
            raise

    def wait_until_it_answers(self) -> None:
        """The first request. Apart from the start, so that the connection is known if it hangs."""
        try:
            server = self.server_pid
            if PRIVILEGED:
                self.state = state_directory_of(server)
            else:
                (self.state,) = states_of(self.base)
        except OSError as error:
            self.process.wait(STOP_SECONDS)
            text = self.log()
            self.discard()
            raise AssertionError(f"the mount does not answer: {error}\n{text}") from error

    @property
    def pid(self) -> int:
        """The process that the command became."""
        return self.process.pid

    @property
    def server_pid(self) -> int:
        """The process that serves requests."""
        return int(self.status()["pids"]["server"])

    def log(self) -> str:
        """All that the daemon has written."""
        return self.log_path.read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """user.msharefs.status of the root directory."""
        return read_status(self.path)

    def requests(self, kind: str) -> int:
        """How many requests of a kind ("READ") the server has answered since it began."""
        return int(self.status()["operations"].get(kind, {"count": 0})["count"])

    def wait_until_empty(self) -> None:
        """Wait until no region is left and no memory is in use: close and exit are told late."""

        def empty() -> bool:
            status = self.status()
            return not (status["regions"] or status["mappings"] or status["arena"]["used"])

        eventually(empty, what=f"regions or memory are left on {self.path}")

    def expect_log(self, pattern: str) -> None:
        """Lines that match are wanted, however alarming they look."""
        self._expected.append(pattern)

    def check_log(self) -> None:
        """Fail on alarming lines since the last check that no test asked for."""
        lines = self.log().splitlines()
        fresh, self._log_seen = lines[self._log_seen :], len(lines)
        bad = [
            line
            for line in fresh
            if SUSPICIOUS.search(line) and not any(re.search(p, line) for p in self._expected)
        ]
        assert not bad, "the daemon wrote:\n" + "\n".join([*bad[:5], "...", *fresh[-25:]])

    def stop(self) -> None:
        """Unmount, then demand a clean end: exit code, log, and nothing left."""
        try:
            done = unmount(self.path)
            # A daemon whose connection was aborted may have been quicker.
            assert done.returncode == 0 or self._exit_code, f"umount: {done.stderr}\n{self.log()}"
            self.wait_for_end()
        finally:
            self.discard()

    def expect_abort(self) -> None:
        """The connection will be aborted: the daemon ends with 2, and keeps the regions."""
        self._exit_code = 2

    def wait_for_end(self) -> None:
        """After something else has unmounted it: exit code 0, a clean log, nothing left."""
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the daemon lives {STOP_SECONDS} s after umount:\n{self.log()}"
            ) from None
        assert code == self._exit_code, f"the daemon ended with {code}:\n{self.log()}"
        self.check_log()
        if code == 0:
            self.check_nothing_left()

    def check_nothing_left(self) -> None:
        """No process, no mount, no state directory, no name in /dev/shm."""
        eventually(lambda: not processes_of(self.marker), what="processes are left")
        assert not mount_lines(self.path)
        assert self.state is None or not self.state.exists(), f"{self.state} is left"
        if self.state is not None:
            assert not mount_lines(self.state / "shm"), f"the arena of {self.state} is left"
        assert shared_memory_names() <= self._shared_before

    def discard(self) -> None:
        """Take away whatever is left, by force where needed. Nothing after a clean end."""
        if mount_lines(self.path):
            unmount(self.path, lazy=True)
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        remove_by_force(self.base, self.marker)


def missing_for_mounts() -> str | None:
    """Why this machine cannot run mount tests, or None. Asks for features, not versions."""
    if not PRIVILEGED and "passthrough" in planes():
        return f"passthrough needs root; an ordinary user's tests have {MORE_OPTIONS}=data=paged"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    for tool in ("fusermount3", "umount", "cc"):
        if shutil.which(tool) is None:
            return f"no {tool} in the PATH"
    return None
