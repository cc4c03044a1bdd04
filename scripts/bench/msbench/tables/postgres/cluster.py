"""A PostgreSQL cluster of an ordinary user in a directory, and its server, started either way.

Knows PostgreSQL's programs and files; what is measured is rounds.py's.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from msharefs.preload import library

from ...processes import NotMeasured

PROJECT = Path(__file__).resolve().parents[5]
PROGRAMS = ("initdb", "postgres", "pgbench", "psql")
START_SECONDS = 60.0
STOP_SECONDS = 60.0
SETUP_SECONDS = 900.0

SETTINGS = {
    "listen_addresses": "",
    "shared_memory_type": "mmap",
    # Nothing but the clients shall run.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
    # The cluster is thrown away: a crash may lose it.
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
}


def find_programs() -> Path:
    """The directory with PostgreSQL's programs: that of the PATH, else Debian's newest."""
    places = [Path(p).parent for p in [shutil.which("postgres")] if p]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    for place in places:
        if all((place / name).exists() for name in PROGRAMS):
            return place
    raise NotMeasured("PostgreSQL is not installed; on Debian: apt-get install postgresql")


def _version(place: Path) -> float:
    name = place.parent.name
    return float(name) if name.replace(".", "", 1).isdigit() else 0.0


@dataclass(frozen=True)
class Cluster:
    """A data directory and the user whose it is."""

    programs: Path
    directory: Path
    user: str
    shared_buffers: str
    max_connections: int

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def become(self) -> list[str]:
        """The words before a command that root runs as the user."""
        entry = pwd.getpwnam(self.user)
        return [
            "setpriv",
            f"--reuid={entry.pw_uid}",
            f"--regid={entry.pw_gid}",
            "--clear-groups",
        ]

    def as_user(self, program: str, *words: str) -> list[str]:
        """The command line that runs one of PostgreSQL's programs as the user."""
        return [*self.become(), str(self.programs / program), *words]

    def run(self, program: str, *words: str) -> str:
        """The output of a program that succeeds."""
        done = subprocess.run(
            self.as_user(program, *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SETUP_SECONDS,
            check=False,
            cwd=self.directory,
        )
        if done.returncode != 0:
            raise NotMeasured(f"{program} failed: {done.stderr.strip()[-400:]}")
        return done.stdout

    def create(self) -> None:
        """Make the data directory."""
        entry = pwd.getpwnam(self.user)
        os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        self.run("initdb", "--auth=trust", "--no-sync", "--locale=C", f"--pgdata={self.data}")

    def client(self, *words: str) -> list[str]:
        """Arguments by which psql and pgbench find the server."""
        return ["-h", str(self.directory), "-U", self.user, *words, "postgres"]

    def query(self, text: str) -> str:
        """What a statement answers."""
        return self.run("psql", "-Atqc", text, *self.client()).strip()

    def fill(self, scale: int) -> None:
        """pgbench's tables; about 15 MB a unit of scale."""
        self.run("pgbench", "-i", "-q", "-s", str(scale), *self.client())

    def warm(self) -> None:
        """Read the tables into the shared buffers."""
        extensions = "select count(*) from pg_available_extensions where name = 'pg_prewarm'"
        if self.query(extensions) != "1":
            raise NotMeasured("the extension pg_prewarm is missing; it comes with postgresql")
        self.query("create extension if not exists pg_prewarm")
        for relation in ("pgbench_accounts_pkey", "pgbench_accounts"):
            self.query(f"select pg_prewarm('{relation}')")

    @contextlib.contextmanager
    def serve(self, before: Sequence[str], huge_pages: str) -> Iterator[int]:
        """Run the server as the user, who the words `before` its command make; the postmaster's
        process number."""
        settings = {
            **SETTINGS,
            "huge_pages": huge_pages,
            "shared_buffers": self.shared_buffers,
            "max_connections": str(self.max_connections),
            "unix_socket_directories": str(self.directory),
        }
        words = [f"--{name}={value}" for name, value in settings.items()]
        command = [*before, str(self.programs / "postgres"), "-D", str(self.data), *words]
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={
                    **os.environ,
                    "PYTHONPATH": str(PROJECT),
                    "LC_ALL": "C",
                    # Who has no home cannot build one.
                    library.VARIABLE: str(library.find_library()),
                },
            )
        try:
            yield self._wait_until_ready(process)
        finally:
            self._stop(process)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> int:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise NotMeasured(f"the server did not start:\n{self.log_end()}")
            lines = self._pid_file()
            # The eighth line says how far it is.
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return int(lines[0])
            time.sleep(0.05)
        raise NotMeasured(f"the server is not ready after {START_SECONDS:.0f} s")

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        """A fast shutdown: mshare run passes the signal on and ends with the server."""
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if process.poll() is None:
                process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
                return

    def log_end(self) -> str:
        """The last lines of the server's log."""
        text = (self.directory / "log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-12:])


def processes_of(postmaster: int) -> Sequence[int]:
    """The server's processes: one for each client, and half a dozen of its own."""
    path = Path(f"/proc/{postmaster}/task/{postmaster}/children")
    return [int(word) for word in path.read_text(encoding="ascii").split()]
