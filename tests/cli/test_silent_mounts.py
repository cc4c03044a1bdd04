"""No command waits for ever for a mount that does not answer, and signals end each at once."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs import Region
from tests.cli.tool import PATIENCE, alone_with, command, environment, mshare
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.helpers.waiting import eventually
from tests.helpers.watchdog import Watchdog

pytestmark = pytest.mark.mount

MIB = 1 << 20


@pytest.fixture
def hanging(make_mount: MakeMount, watchdog: Watchdog) -> Iterator[Mount]:
    """A mount with a region "r", whose server stands still."""
    mount = make_mount("size=64M")
    with Region.create(mount.path / "r", 8 * MIB) as region:
        region.map(0, 4 * MIB)
    server = mount.server_pid
    os.kill(server, signal.SIGSTOP)
    eventually(lambda: " T " in Path(f"/proc/{server}/stat").read_text())
    yield mount
    os.kill(server, signal.SIGCONT)
    # What waited in vain is gone before the mount's end is looked at.
    eventually(lambda: watchdog.waiting(mount.connection) == 0)


def commands(mount: Mount, directory: Path) -> list[list[str]]:
    """Every command that touches a mount, as far as it is about this one."""
    region, new, file = f"{mount.path}/r", f"{mount.path}/new", f"{directory}/dump"
    (directory / "dump").write_bytes(b"")
    (directory / "link").symlink_to(mount.path)
    return [
        ["ls", str(mount.path)],
        ["ls", f"{directory}/link"],
        ["status", str(mount.path)],
        ["top", "-n", "1", "--json", str(mount.path)],
        ["stat", region],
        ["ps", region],
        ["create", new, "2M", "--map"],
        ["map", region, "4M", "4M"],
        ["unmap", region, "0", "4K"],
        ["sync", region],
        ["rm", region],
        ["dump", region, "-"],
        ["load", file, new],
        ["restart", str(mount.path)],
    ]


def start(arguments: list[str], *, before: list[str] | None = None) -> subprocess.Popen[bytes]:
    """With pipes, which only end when nobody has them any more."""
    return subprocess.Popen(
        [*(before or []), *command(), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its exit code and what it said."""
    _, err = process.communicate(timeout=PATIENCE)
    return process.returncode, err.decode()


@pytest.mark.slow
def test_every_command_gives_up_with_a_sentence(hanging: Mount, tmp_path: Path) -> None:
    """All at once; it names the mount."""
    running = [(words, start(words)) for words in commands(hanging, tmp_path)]
    for words, process in running:
        code, said = ended(process)
        assert (code, len(said.splitlines())) == (1, 1), (words, said)
        assert str(hanging.path) in said, words
        assert "does not answer" in said, words
    code, said = ended(start(["run", "--region", f"{hanging.path}/new", "--", "true"]))
    assert code == 125
    assert f"{hanging.path}: the mount does not answer" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_every_command_at_once(
    hanging: Mount, watchdog: Watchdog, tmp_path: Path, number: signal.Signals
) -> None:
    """With the code that shells have for it, long before they would have given up."""
    running = [(words, start(words)) for words in commands(hanging, tmp_path)]
    eventually(lambda: watchdog.waiting(hanging.connection) >= len(running))
    for _, process in running:
        process.send_signal(number)
    for words, process in running:
        code, said = ended(process)
        # For a screen that renews itself Ctrl-C is the usual end.
        usual = {0} if words[0] == "top" and number == signal.SIGINT else set()
        assert code in {128 + number, -number, *usual}, (words, said)
        assert "Traceback" not in said


def test_ctrl_c_ends_a_command_that_waits(hanging: Mount, watchdog: Watchdog) -> None:
    """On a terminal, whose signal every process of the command gets by itself."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command(), "stat", f"{hanging.path}/r"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(),
    )
    os.close(theirs)
    try:
        eventually(lambda: watchdog.waiting(hanging.connection) >= 1)
        os.write(ours, b"\x03")
        assert process.wait(PATIENCE) == 130
    finally:
        process.kill()
        os.close(ours)


def test_one_that_hangs_does_not_hide_the_others(hanging: Mount, make_mount: MakeMount) -> None:
    """Nor makes them wait for long; which one it is is told."""
    other = make_mount("size=16M")
    Region.create(other.path / "mine", 2 * MIB).close()
    before = alone_with(hanging.path, other.path)
    result = mshare("ls", before=before).ok()
    assert "mine" in result.out
    assert "no regions" not in result.out
    assert f"{hanging.path} could not be read: the mount does not answer" in result.err
    document = mshare("ls", "--json", before=before).json
    assert [each["path"] for each in document["regions"]] == [str(other.path / "mine")]
    assert document["unreadable"] == [str(hanging.path)]


def test_the_only_mount_is_meant_without_a_name(hanging: Mount) -> None:
    """Where no directory is given."""
    for name in ("status", "top"):
        sentence = mshare(name, before=alone_with(hanging.path)).refused()
        assert sentence.startswith(f"{hanging.path}: the mount does not answer")


def test_a_mount_that_is_busy_is_waited_for(make_mount: MakeMount, watchdog: Watchdog) -> None:
    """A server that stood still for a moment has not lost what it was asked for."""
    mount = make_mount("size=16M")
    server = mount.server_pid
    os.kill(server, signal.SIGSTOP)
    process = start(["create", f"{mount.path}/r", "2M", "--map"])
    eventually(lambda: watchdog.waiting(mount.connection) >= 2, what="the mount is not probed")
    os.kill(server, signal.SIGCONT)
    assert ended(process) == (0, "")
    assert (mount.path / "r").stat().st_size == 2 * MIB
