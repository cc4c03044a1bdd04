"""A mount whose supervisor was killed: what it leaves, and the same place mounted again."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

from msharefs.daemon.storage import open_journal
from tests.helpers import mount
from tests.helpers.background import Background
from tests.helpers.waiting import eventually

OPTIONS = "size=64M,align=4096"


class Kept(Background):
    """A mount in the background, and its state directory."""

    def __init__(self, options: str = OPTIONS) -> None:
        super().__init__()
        self.options = options
        done = self.start("-o", options)
        assert done.returncode == 0, done.stderr
        server = mount.read_status(self.path)["pids"]["server"]
        state = mount.state_directory_of(server)
        assert state is not None
        self.state = state

    @property
    def journal(self) -> Path:
        """Its journal."""
        return self.state / "journal.sqlite"

    def kill_supervisor(self) -> None:
        """As kill -9 does; returns when no process is left."""
        os.kill(self.supervisor_pid(), signal.SIGKILL)
        eventually(lambda: not mount.processes_of(self.marker), what="processes are left")

    def mount_again(self, options: str = OPTIONS) -> None:
        """On the same place, which must work."""
        done = self.start("-o", options)
        assert done.returncode == 0, done.stderr

    def wait_until_no_memory_is_used(self) -> None:
        """After everything was removed; if it does not come to that, says what is there."""
        try:
            eventually(lambda: mount.read_status(self.path)["arena"]["used"] == 0)
        except AssertionError as error:
            raise AssertionError(f"{mount.read_status(self.path)}\n{self.log()}") from error

    def log(self) -> str:
        """What the daemon has logged since it was mounted first."""
        return (self.state / "log").read_text()


def in_one_file(journal: Path) -> None:
    """Move everything out of the tail and the write-ahead log, so that the journal is one file."""
    open_journal(str(journal), lambda _step: None, lambda: None).close()
    db = sqlite3.connect(journal)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def set_schema(journal: Path, version: int) -> None:
    """Claim that another version of msharefs wrote it."""
    db = sqlite3.connect(journal)
    db.execute(f"PRAGMA user_version = {version}")
    db.close()
