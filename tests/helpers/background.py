"""A mount started as users start it, without -f: the command returns, daemons stay.

Finds the daemons again by the marker in their environment.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.helpers import mount
from tests.helpers.waiting import eventually


class Background:
    """A directory, and mounts on it that the command puts into the background."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="msharefs-test-"))
        self.base.chmod(0o755)
        self.path = self.base / "mnt"
        self.path.mkdir()
        self.marker = mount.new_marker()

    def start(
        self,
        *options: str,
        source: str = "msharefs",
        place: Path | str | None = None,
        cwd: Path | str = "/",
        path: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run the command with these options until it returns. `path` is the PATH."""
        where = self.path if place is None else place
        return mount.run_command(source, where, *options, marker=self.marker, cwd=cwd, path=path)

    def supervisor_pid(self) -> int:
        """The process that takes signals."""
        return int(mount.read_status(self.path)["pids"]["supervisor"])

    def unmount_and_check(self) -> None:
        """umount(8), and then nothing may be left."""
        done = mount.unmount(self.path)
        assert done.returncode == 0, done.stderr
        self.check_nothing_left()

    def check_nothing_left(self) -> None:
        """No process, no mount, no state directory of ours."""
        eventually(lambda: not mount.processes_of(self.marker), what="processes are left")
        assert not mount.mount_lines(self.path)
        assert not mount.states_of(self.base)

    def discard(self) -> None:
        """The fallback: whatever is still there goes, by force."""
        mount.remove_by_force(self.base, self.marker)
