"""mshare doctor on this machine, and on one without /dev/fuse."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.tool import command, drawn, environment, mshare
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount


def test_a_machine_that_mounts_passes(mounted: Mount) -> None:
    """Nothing fails where the tests' own mount works, and that mount is named."""
    found = mshare("doctor", "--json").json
    assert {"kernel", "/dev/fuse", "fusermount3", "libraries", "rights"} <= {
        each["about"] for each in found
    }
    mine = [each for each in found if str(mounted.path) in each["sentence"]]
    assert [(each["about"], each["level"]) for each in mine] == [
        ("mount", "ok"),
        ("huge pages", "ok"),
    ]
    assert "in pages of 2 MiB" in mine[1]["sentence"]
    assert "alignment is 2 MiB, that of the kernel's mshare would be 512 GiB" in mine[0]["sentence"]


def test_the_alignment_of_the_kernel_is_not_worth_a_word(make_mount: MakeMount) -> None:
    """Programs that map at multiples of it are safe there."""
    mount = make_mount("size=16M,align=512G")
    found = mshare("doctor", "--json").json
    assert f"{mount.path} answers" in {each["sentence"] for each in found}


def test_every_finding_is_a_line_with_its_level(mounted: Mount) -> None:
    """Words, so that nothing is told by colour alone; in 80 columns."""
    text = mshare("doctor", COLUMNS="80").out
    assert "ok    /dev/fuse" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b[32mok" in drawn("doctor")


def test_without_the_device_it_fails_and_says_what_to_do(mounted: Mount) -> None:
    """In a mount namespace of its own, whose /dev has no fuse."""
    script = """
        mount -t tmpfs none /mnt && touch /mnt/null && mount --bind /dev/null /mnt/null &&
        mount --move /mnt /dev && exec "$@"
    """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", *command(), "doctor"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "FAIL  /dev/fuse    there is no /dev/fuse" in done.stdout
    assert "modprobe fuse" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("must be mended")
    assert done.stderr == ""


def test_a_mount_that_does_not_answer_is_told(make_mount: MakeMount) -> None:
    """Looked at from a child, so that the doctor himself does not hang; with the way out."""
    mount = make_mount("size=16M")
    server = mount.server_pid
    os.kill(server, signal.SIGSTOP)
    try:
        eventually(lambda: " T " in Path(f"/proc/{server}/stat").read_text())
        result = mshare("doctor")
    finally:
        os.kill(server, signal.SIGCONT)
    assert result.code == 1
    assert f"{mount.path} does not answer" in result.out
    assert f"connections/{mount.connection}/abort" in result.out.replace("\n", "")
