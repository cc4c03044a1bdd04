"""Clients that do the same on a mount and on tmpfs, while the server is killed: the run, and
whether the trees are the same in the end.

What a client does is the stress test's (tests/stress/twin_client.py); tests and soak.py share
the run.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.helpers.mount import Mount
from tests.helpers.users import ALICE, become
from tests.stress.client_process import answer_of, start_client
from tests.stress.twin_client import TwinClient, Twins, difference
from tests.survival import load
from tests.survival.load import Figures

CLIENTS = 8
OPTIONS = "size=16M"
LONGEST_PAUSE = 1.0
"""Seconds between two kills, at most."""


def run(mounted: Mount, seconds: float, seed: int) -> Figures:
    """Clients and kills for so long, then the comparison. The mount is empty again after."""
    for pattern in load.EXPECTED_LOG:
        mounted.expect_log(pattern)
    figures = Figures()
    # On a tmpfs of the machine, which is what a mount is compared with.
    with tempfile.TemporaryDirectory(prefix="twins-", dir="/dev/shm") as directory:
        tmpfs = Path(directory)
        tmpfs.chmod(0o755)
        (tmpfs / "lock").touch(0o644)
        shared = _twins(mounted.path, tmpfs, "shared", lock=tmpfs / "lock")
        own = [_twins(mounted.path, tmpfs, f"client{number}") for number in range(CLIENTS)]
        with _started(own, shared, seed) as (clients, stop):
            _kill_now_and_then(mounted, seconds, random.Random(seed), figures)
            stop[0] = 1
            answers = [answer_of(pid, reader) for pid, reader in clients]
        figures.client_errors += [str(answer) for answer in answers if not isinstance(answer, int)]
        figures.operations = sum(answer for answer in answers if isinstance(answer, int))
        for twins in (shared, *own):
            figures.zeros["different names"] += len(difference(twins))
            shutil.rmtree(twins.mount)
    return figures


def _twins(mount: Path, tmpfs: Path, name: str, *, lock: Path | None = None) -> Twins:
    """Two new directories. The shared ones are everybody's, and sticky, as /tmp is."""
    twins = Twins(mount / name, tmpfs / name, lock)
    for path in (twins.mount, twins.tmpfs):
        path.mkdir()
        path.chmod(0o1777 if lock else 0o755)
        if not lock:
            os.chown(path, _user(name), _user(name))
    return twins


def _user(name: str) -> int:
    """Every second client is an ordinary user, for whom modes mean something."""
    return ALICE if int(name[-1]) % 2 else 0


@contextmanager
def _started(
    own: list[Twins], shared: Twins, seed: int
) -> Iterator[tuple[list[tuple[int, int]], mmap.mmap]]:
    """Forked clients, as process id and the pipe of the report, and what stops them. They are
    killed if the block fails."""
    clients: list[tuple[int, int]] = []
    with mmap.mmap(-1, mmap.PAGESIZE) as stopped:

        def client(number: int) -> int:
            os.umask(0o022)
            if _user(own[number].mount.name):
                become(_user(own[number].mount.name))
            return TwinClient(own[number], shared, number, seed).run_while(lambda: not stopped[0])

        try:
            clients.extend(start_client(partial(client, number)) for number in range(len(own)))
            yield clients, stopped
        except BaseException:
            for pid, _ in clients:
                os.kill(pid, signal.SIGKILL)
            raise


def _kill_now_and_then(
    mounted: Mount, seconds: float, chance: random.Random, figures: Figures
) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(chance.random() * LONGEST_PAUSE)
        killed_at = time.monotonic()
        for server in load.children_of(mounted.pid):
            os.kill(server, signal.SIGKILL)
            figures.kills += 1
        status = mounted.status()
        figures.gaps.append(time.monotonic() - killed_at)
        figures.resent += status["resent_requests"]
