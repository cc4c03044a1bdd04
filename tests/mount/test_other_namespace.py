"""A mount in another mount namespace than that of its servers, as the service has it: `-N`.

The servers' one is what systemd makes of the unit: a copy of the machine's that hears of what is
mounted there, read-only, with little to see, few rights, no network, and no memory to write
programs into.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from msharefs.linux import mountinfo
from tests.helpers import mount
from tests.helpers.background import Background
from tests.helpers.waiting import eventually

pytestmark = [
    pytest.mark.usefixtures("requires_fuse"),
    pytest.mark.root_only("makes mount namespaces"),
]

SANDBOX = """
import ctypes, os, sys
# PR_SET_MDWE, Linux 6.3: as MemoryDenyWriteExecute=
ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
"""
NAMES = ("msharefs-server", "mshare-standby")
RIGHTS = "+sys_admin,+sys_chroot,+sys_ptrace,+dac_override,+dac_read_search"


class Host:
    """A process in a mount namespace that stands for the machine's: what is mounted there is
    seen in copies of it."""

    def __init__(self, background: Background) -> None:
        self.background = background
        self.path = background.path
        self._process = subprocess.Popen(
            [
                *["unshare", "--mount", "--propagation", "private"],
                *["sh", "-c", "mount --make-rshared /; echo ready; read end"],
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        self.namespace = f"/proc/{self._process.pid}/ns/mnt"

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """A command on the machine."""
        return subprocess.run(
            ["nsenter", f"--mount={self.namespace}", *map(str, words)],
            env=mount.environment(self.background.marker),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def start_service(self, *more: str) -> subprocess.CompletedProcess[str]:
        """The mount command, in the background, where the unit's settings leave it."""
        (command,) = mount.command()
        words = [command, "-N", self.namespace, "msharefs", str(self.path), "-o", "size=64M", *more]
        script = f"""
            set -e
            mount -o remount,bind,ro /
            mount -t tmpfs -o ro none /opt
            exec setpriv --bounding-set=-all,{RIGHTS} --no-new-privs \\
                {sys.executable} -c "$SANDBOX" {" ".join(words)}
        """
        return self.run(
            *["env", f"SANDBOX={SANDBOX}", "unshare", "--mount", "--propagation", "slave"],
            *["--net", "--uts", "sh", "-c", script],
        )

    def servers(self) -> list[int]:
        """Those of the mount whose code is loaded, the standby too."""
        found = []
        for pid in mount.processes_of(self.background.marker):
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text().strip() in NAMES:
                    found.append(pid)
        return found

    def end(self) -> None:
        """Take away what is mounted there."""
        self.run("umount", "-l", self.path)
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def host(background: Background) -> Iterator[Host]:
    """A machine with nothing mounted by us."""
    made = Host(background)
    yield made
    made.end()


def mounted(host: Host) -> bool:
    """Whether the machine sees the mount."""
    table = mountinfo.read(host.namespace.replace("ns/mnt", "mountinfo"))
    return any(each.path == str(host.path) and each.kind == "fuse.msharefs" for each in table)


def layout(host: Host) -> str:
    """What mshare stat tells of the region, on the machine."""
    return host.run(sys.executable, "-m", "msharefs.cli.main", "ls", host.path).stdout


def test_as_a_service(host: Host) -> None:
    """The mount is the machine's, servers are not: they serve, die, are replaced, and all ends
    with umount."""
    done = host.start_service()
    assert done.returncode == 0, done.stderr
    assert mounted(host)
    assert not mount.mount_lines(host.path)
    create: list[str | Path] = [
        sys.executable,
        "-m",
        "msharefs.cli.main",
        "create",
        host.path / "r",
        "16M",
    ]
    done = host.run(*create, "--map")
    assert done.returncode == 0, done.stderr
    eventually(lambda: len(host.servers()) == 2, what="a standby server")
    first = host.servers()
    for pid in first:
        table = mountinfo.read(f"/proc/{pid}/mountinfo")
        # Nobody else's memory, and no copy of the mount.
        assert len({each.device for each in table if each.path.endswith("/shm")}) == 1
        assert "fuse.msharefs" not in {each.kind for each in table}
        os.kill(pid, signal.SIGKILL)
    assert "16 MiB" in layout(host)
    eventually(lambda: set(host.servers()).isdisjoint(first), what="other servers")
    assert host.run("umount", host.path).returncode == 0
    eventually(lambda: not host.servers(), what="servers are left")
    eventually(lambda: not mount.states_of(host.background.base), what="the state is left")


def test_memory_that_servers_do_not_see(host: Host) -> None:
    """Where the servers' namespace hears nothing of the machine's: a sentence, nothing left."""
    (command,) = mount.command()
    words: list[str | Path] = [command, "-N", host.namespace, "msharefs", host.path]
    done = host.run("unshare", "--mount", "--propagation", "private", *words)
    assert done.returncode == 2
    assert "its memory is not seen" in done.stderr
    assert not mounted(host)
    host.background.check_nothing_left()


def test_no_such_namespace(background: Background) -> None:
    """A sentence."""
    done = background.start("-N", "/proc/self/ns/net")
    assert done.returncode == 2
    assert "-N /proc/self/ns/net: Invalid argument" in mount.only_sentence(done)
    done = background.start("-N", str(background.base / "missing"))
    assert "No such file" in mount.only_sentence(done)
    background.check_nothing_left()
