"""Clients at work while all goes wrong at once: what does, and who is left waiting.

Owns the troubles (the server is killed or stopped, its disk, memory or descriptors are used up, the
kernel lets go of what it has cached) and the neighbours, processes of another user that flood the
mount, touch its holes, and take its names and memory. The clients and the comparison with their
models are load.py's.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import NoReturn

from msharefs.linux import syscalls
from tests.helpers import raw, windows
from tests.helpers.memory_group import MemoryGroup, memory_group, missing_for_memory_groups
from tests.helpers.mount import Mount, processes_of
from tests.helpers.raw import MIB, PAGE
from tests.helpers.users import ALICE, become
from tests.helpers.waiting import eventually
from tests.survival import load
from tests.survival.load import Figures

OPTIONS = f"{load.OPTIONS},nr_inodes=2000"
RUN = Path("/run")
STATE_SIZE = "16M"
"""What the file system of the state directory holds."""
REFUSALS = frozenset({errno.ENOMEM, errno.ENOSPC, errno.ENFILE})
"""What whoever asks for more may get meanwhile."""
LONGEST_TROUBLE = 1.0
"""Seconds; then all is well again, until the server has answered."""
LITTLE = 4 * MIB
"""What a memory group has left."""
PATIENCE = 5.0
"""Seconds in which nobody may be in state D without a pause, and a killed process must end."""
EXPECTED_LOG = (
    r"the server ended with -9; starting a new one",
    r"cannot start, the mount waits|no standby server",
    r"not served again|no descriptor is left",
)

Neighbour = Callable[[Path], None]


def run(mounted: Mount, group: MemoryGroup | None, seconds: float, seed: int) -> Figures:
    """Clients, neighbours and troubles for so long; comparison; the mount is empty again."""
    for pattern in EXPECTED_LOG:
        mounted.expect_log(pattern)
    if group is not None:
        # The standby, too: later servers are born in the group.
        eventually(lambda: len(processes_of(mounted.marker)) == 3, what="a standby")
        for pid in processes_of(mounted.marker):
            group.add(pid)
    chance = random.Random(seed)

    def trouble(clients: list[int]) -> Figures:
        with Neighbours(mounted.path / "neighbours") as neighbours:
            troubles = Troubles(mounted, group, neighbours, Watch(clients, neighbours), chance)
            figures = troubles.go_on(seconds)
        figures.zeros["callers that do not end"] += len(neighbours.immortal)
        return figures

    return load.run_under(mounted, seed, trouble, REFUSALS)


@contextmanager
def surroundings() -> Iterator[MemoryGroup | None]:
    """A small /run of our own, for good, and a memory group, if there are any here."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("none", str(RUN), "tmpfs", 0, f"size={STATE_SIZE}")
    if missing_for_memory_groups() is not None:
        yield None
        return
    with memory_group() as group:
        yield group


class Watch:
    """Who is in state D, and for how long without a pause. A process that was scheduled in between
    has another number of switches."""

    def __init__(self, clients: list[int], neighbours: Neighbours) -> None:
        self._clients = clients
        self._neighbours = neighbours
        self._since: dict[tuple[int, str], float] = {}
        self.longest = 0.0
        self.stuck: set[int] = set()

    def look(self) -> None:
        """At all of them, now."""
        self._neighbours.look()
        now, before = time.monotonic(), self._since
        self._since = {}
        for pid in [*self._clients, *self._neighbours.pids]:
            state, switches = _state(pid)
            if state == "D":
                since = before.get((pid, switches), now)
                self._since[pid, switches] = since
                self.longest = max(self.longest, now - since)
                if now - since > PATIENCE:
                    self.stuck.add(pid)


def _state(pid: int) -> tuple[str, str]:
    """The state of a process, and how often it has given the processor away."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return facts["State"][0], facts["voluntary_ctxt_switches"]
    return "X", ""


class Troubles:
    """Each is a context: it is there inside, and gone after it."""

    def __init__(
        self,
        mounted: Mount,
        group: MemoryGroup | None,
        neighbours: Neighbours,
        watch: Watch,
        chance: random.Random,
    ) -> None:
        self._mounted = mounted
        self._group = group
        self._neighbours = neighbours
        self._watch = watch
        self._chance = chance
        self._figures = Figures()
        self._used_in_peace = 0

    def go_on(self, seconds: float) -> Figures:
        """One to three at a time, again and again. Returns what was seen."""
        kinds: list[Callable[[], AbstractContextManager[None]]] = [
            *(self._killed, self._stopped, self._full_disk, self._few_descriptors),
            *(self._forgotten, self._neighbour_killed),
            *([self._little_memory] if self._group is not None else []),
        ]
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._group is not None:
                self._used_in_peace = self._group.used()
            with ExitStack() as stack:
                for kind in self._chance.sample(kinds, self._chance.randint(1, 3)):
                    stack.enter_context(kind())
                self._pause(self._chance.random() * LONGEST_TROUBLE)
            ended_at = time.monotonic()
            status = self._mounted.status()
            self._figures.gaps.append(time.monotonic() - ended_at)
            self._figures.resent += status["resent_requests"]
            self._pause(0)
        figures, watch = self._figures, self._watch
        figures.zeros["callers in state D for 5 s"] += len(watch.stuck)
        figures.zeros["tracebacks in the log"] += self._mounted.log().count("Traceback")
        return figures

    def _pause(self, seconds: float) -> None:
        """Look at least once."""
        deadline = time.monotonic() + seconds
        while True:
            self._watch.look()
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)

    @contextmanager
    def _killed(self) -> Iterator[None]:
        servers = load.children_of(self._mounted.pid)
        _tell(servers, signal.SIGKILL)
        self._figures.kills += len(servers)
        yield

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        servers = load.children_of(self._mounted.pid)
        _tell(servers, signal.SIGSTOP)
        yield
        _tell(servers, signal.SIGCONT)

    @contextmanager
    def _full_disk(self) -> Iterator[None]:
        fill = RUN / "fill"
        with fill.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(PAGE))
        yield
        fill.unlink()

    @contextmanager
    def _little_memory(self) -> Iterator[None]:
        group = self._group
        assert group is not None

        def limited() -> bool:
            # No less than a server needs, also where it has just been killed.
            try:
                group.limit(max(group.used(), self._used_in_peace) + LITTLE)
            except OSError as error:
                # So much more was taken between the look and the limit.
                if error.errno != errno.EBUSY:
                    raise
                return False
            return True

        eventually(limited, what="the memory group is never still")
        yield
        group.limit(1 << 40)

    @contextmanager
    def _few_descriptors(self) -> Iterator[None]:
        before: list[tuple[int, tuple[int, int]]] = []
        for server in load.children_of(self._mounted.pid):
            # It may be ending.
            with suppress(OSError):
                soft, hard = resource.prlimit(server, resource.RLIMIT_NOFILE)
                before.append((server, (soft, hard)))
                few = len(os.listdir(f"/proc/{server}/fd")) + self._chance.randrange(3)
                resource.prlimit(server, resource.RLIMIT_NOFILE, (few, hard))
        yield
        for server, limits in before:
            with suppress(OSError):
                resource.prlimit(server, resource.RLIMIT_NOFILE, limits)

    @contextmanager
    def _forgotten(self) -> Iterator[None]:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        yield

    @contextmanager
    def _neighbour_killed(self) -> Iterator[None]:
        self._neighbours.kill_one(self._chance)
        yield


def _tell(processes: list[int], what: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, what)


# Neighbours


class Neighbours:
    """One process of each kind, for as long as the context; then all of it is removed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._kinds = cycle(KINDS)
        self.pids: list[int] = []
        self._killed: dict[int, float] = {}
        self.immortal: set[int] = set()

    def __enter__(self) -> Neighbours:
        self._home.mkdir()
        os.chown(self._home, ALICE, ALICE)
        for _ in KINDS:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for pid in list(self.pids):
            self._kill(pid)
        try:
            eventually(self._all_have_ended, timeout=2 * PATIENCE)
        finally:
            shutil.rmtree(self._home)

    def kill_one(self, chance: random.Random) -> None:
        """And start another."""
        self._kill(chance.choice(self.pids))
        self._start()

    def look(self) -> None:
        """Which of those that were killed have ended, and which should have."""
        for pid, killed_at in list(self._killed.items()):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                del self._killed[pid]
            elif time.monotonic() - killed_at > PATIENCE:
                self.immortal.add(pid)

    def _all_have_ended(self) -> bool:
        self.look()
        return not self._killed

    def _start(self) -> None:
        kind = next(self._kinds)
        pid = os.fork()
        if pid == 0:
            _be(kind, self._home)
        self.pids.append(pid)

    def _kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self.pids.remove(pid)
        self._killed[pid] = time.monotonic()


def _be(kind: Neighbour, home: Path) -> NoReturn:
    """A forked process that does the same until it is killed."""
    try:
        become(ALICE)
        place = home / f"{kind.__name__}-{os.getpid()}"
        while True:
            with suppress(OSError):
                place.mkdir(exist_ok=True)
                kind(place)
    finally:
        os._exit(1)


def flood(place: Path) -> None:
    """Requests of all cheap kinds, without a pause."""
    path = place / "region"
    with raw.region(path, 16 * PAGE) as fd:
        os.fchmod(fd, 0o640)
        os.listdir(place.parent)
        os.getxattr(path, "user.msharefs.layout")
        raw.create_mapping(fd, 0, PAGE)


def touch_holes(place: Path) -> None:
    """As loads and stores do, only that nobody dies of it."""
    path = place / "region"
    with raw.region(path, 64 * PAGE) as fd:
        raw.create_mapping(fd, 0, PAGE)
        window = windows.kind_for(path)(fd, 64 * PAGE)
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            for page in range(64):
                with suppress(OSError):
                    os.pread(memory.fileno(), 1, window.address + page * PAGE)
                with suppress(OSError):
                    os.pwrite(memory.fileno(), b"x", window.address + page * PAGE)
        window.close()


def take_names(place: Path) -> None:
    """All that there are, each as long as can be; then none."""
    path = place / "region"
    path.touch()
    with suppress(OSError):
        for number in range(10_000):
            os.link(path, place / f"{number:05}{'n' * 250}")
    for name in place.iterdir():
        name.unlink()


def take_memory(place: Path) -> None:
    """All that there is, written to; then none."""
    path, piece = place / "region", 8 * MIB
    with raw.region(path, 512 * MIB) as fd:
        with suppress(OSError):
            for start in range(0, 512 * MIB, piece):
                raw.create_mapping(fd, start, piece)
                with mmap.mmap(fd, piece, offset=start) as window:
                    window[0] = 1
        raw.unmap(fd, 0, 512 * MIB)


KINDS: tuple[Neighbour, ...] = (flood, touch_holes, take_names, take_memory)
