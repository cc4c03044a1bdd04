"""PostgreSQL under mshare run while its mount comes and goes: its queries go on, and so does the region.

The server is killed, the supervisor is killed and the place mounted again, and it cannot be
unmounted in between. A database that lost one of its processes gives its shared memory up and
maps it anew, so that each time something is given back and taken.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import mount
from tests.helpers.users import NOBODY
from tests.helpers.waiting import eventually
from tests.run.programs import MIB, command, environment, layout, planes
from tests.survival.kept import Kept

pytestmark = [
    pytest.mark.mount,
    pytest.mark.slow,
    pytest.mark.root_only(
        "kills the supervisor of a mount with an arena, and becomes another user"
    ),
]

SECONDS = 60
BUFFERS = 66 * MIB
"""What the server has of shared_buffers, and more."""
SETTINGS = {
    "shared_buffers": "64MB",
    "listen_addresses": "",
    "fsync": "off",
}
PLACED = "of shared anonymous memory live in the region"
READY = "database system is ready to accept connections"
TOTAL = "select sum(n), count(*) from numbers"


def programs() -> Path:
    """The directory of Debian's newest PostgreSQL."""
    return max(Path("/usr/lib/postgresql").glob("*/bin"))


def as_owner(name: str, *words: str) -> list[str]:
    """The command line of one of PostgreSQL's programs, which root may not run."""
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*become, str(programs() / name), *words]


class Database:
    """A server under mshare run, on a cluster of its own."""

    def __init__(self, directory: Path, region: Path) -> None:
        self._directory = directory
        self._log = directory / "log"
        data = directory / "data"
        self.run(*as_owner("initdb", "--auth=trust", "--no-sync", "--locale=C", f"--pgdata={data}"))
        settings = [word for item in SETTINGS.items() for word in ("-c", "=".join(item))]
        server = as_owner("postgres", "-D", str(data), "-k", str(directory), *settings)
        options = ("--mode", "666", "-v")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command(region, *options), *server],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                cwd=directory,
            )
        eventually(self._answers, timeout=SECONDS, what="PostgreSQL does not answer")

    def run(self, *words: str) -> str:
        """The output of a program that succeeds."""
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=self._directory
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ask(self, statement: str) -> str:
        """What a new connection is answered."""
        place = ("-h", str(self._directory), "-U", "nobody", "-Atqc", statement, "postgres")
        return self.run(*as_owner("psql", *place))

    def is_right(self) -> bool:
        """Whether a query gives what the table has."""
        return self.ask(TOTAL) == "5000050000|100000"

    def maps_anew(self) -> bool:
        """Kill one of its processes, so that it maps its shared memory anew. Whether the region has
        that; the next answer must be right in any case."""
        before = self._placed()
        writer = self.ask("select pid from pg_stat_activity where backend_type = 'walwriter'")
        recovered = self._log.read_text().count(READY)
        os.kill(int(writer), signal.SIGKILL)
        eventually(
            lambda: self._log.read_text().count(READY) > recovered,
            timeout=SECONDS,
            what="no recovery",
        )
        assert self.is_right()
        return self._placed() > before

    def stop(self) -> None:
        """A fast shutdown, through mshare run."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(SECONDS) == 0, self._log.read_text()

    def discard(self) -> None:
        """By force, if it has not stopped."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(SECONDS)

    def _placed(self) -> int:
        return self._log.read_text().count(PLACED)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        place = ("-h", str(self._directory), "-U", "nobody", "-q")
        done = subprocess.run(as_owner("pg_isready", *place), check=False, cwd=self._directory)
        return done.returncode == 0


def spans(region: Path) -> int:
    """How many ranges of the size of the buffers are mapped in the region."""
    return sum(size >= BUFFERS for _, size in layout(region))


@pytest.fixture(params=planes())
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    """A mount of its own."""
    place = Kept(f"size=512M,data={request.param}")
    yield place
    place.discard()


@contextmanager
def database(region: Path) -> Iterator[Database]:
    """A server, with a table."""
    with tempfile.TemporaryDirectory(prefix="msharefs-test-database-") as name:
        os.chown(name, NOBODY, NOBODY)
        server = Database(Path(name), region)
        try:
            server.ask("create table numbers as select n from generate_series(1, 100000) n")
            yield server
        finally:
            server.discard()


def test_queries_go_on_while_the_mount_comes_and_goes(kept: Kept) -> None:
    """The server killed, the supervisor killed and the place mounted again, umount refused: each answer
    is right, what is mapped anew is the region's after each, and nothing is left in the end."""
    region = kept.path / "region"
    with database(region) as server:
        assert spans(region) == 1
        os.kill(mount.read_status(kept.path)["pids"]["server"], signal.SIGKILL)
        assert server.is_right()
        assert server.maps_anew()
        kept.kill_supervisor()
        assert server.is_right()
        assert not server.maps_anew()
        kept.mount_again(kept.options)
        assert server.is_right()
        eventually(
            server.maps_anew, timeout=SECONDS, what="nothing new is in the region of the mount"
        )
        assert "busy" in mount.unmount(kept.path).stderr
        assert server.maps_anew()
        eventually(lambda: spans(region) == 1, what="what was given up is still there")
        server.stop()
    eventually(lambda: not region.exists(), what="the region is left")
    kept.wait_until_no_memory_is_used()
    kept.unmount_and_check()
