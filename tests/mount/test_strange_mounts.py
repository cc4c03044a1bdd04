"""Other people's mounts on the machine, whatever their paths are made of, concern no mount of ours.

Any user can make such a mount with fusermount3. Here they are made in a mount namespace of the
test's own, so that nobody else on this machine meets them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import mount
from tests.helpers.background import Background

pytestmark = [pytest.mark.mount, pytest.mark.root_only("makes a mount namespace")]

NAMES = [
    *[f"a{character}b".encode() for character in "\r\f\v\x1c\x85\xa0\u2028\t\n\\"],
    b"a\xff",
    b" - ",
    b"a\n1 1 0:1 / / rw - fuse.msharefs x rw",
    b"a\r1 1 0:1 / / rw - fuse.msharefs x rw",
]


@pytest.fixture
def place() -> Iterator[Background]:
    """A directory; it goes after the test, a failed one too."""
    background = Background()
    yield background
    background.discard()


def live_among_strangers(base: bytes, path: Path, command: list[str]) -> None:
    """Make the strange mounts; then mount, lose a server, and unmount. AssertionError."""
    for number, name in enumerate(NAMES):
        strange = os.path.join(base, b"%d" % number, name)
        os.makedirs(strange)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4K", "x", strange], check=True)
    subprocess.run([*command, "strange", path, "-o", "size=16M"], check=True, timeout=30)
    first = mount.read_status(path)["pids"]["server"]
    os.kill(first, signal.SIGKILL)
    assert mount.read_status(path)["pids"]["server"] != first
    (path / "made").touch()
    subprocess.run(["umount", path], check=True)


def test_mounting_serving_again_and_unmounting(place: Background) -> None:
    """The table of mounts is read when it is made, when a server is replaced, and at the end."""
    module = "tests.mount.test_strange_mounts"
    program = [sys.executable, "-m", module, str(place.base), str(place.path)]
    done = subprocess.run(
        ["unshare", "--mount", *program, *mount.command()],
        env=mount.environment(place.marker),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    place.check_nothing_left()


if __name__ == "__main__":
    live_among_strangers(os.fsencode(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
