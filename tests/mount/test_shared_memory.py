"""SharedMemory on a real mount cures the known troubles of the standard library's class.

They are cpython#82300 (the end of a process that attached removes the segment), cpython#114390
(SIGBUS where /dev/shm is full), and that owner, group and mode cannot be told.
docs/shared_memory.md shows each of them; here is what it promises.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from pathlib import Path

import pytest

import msharefs
from msharefs.shared_memory import SharedMemory
from tests.helpers.fixtures import MakeMount
from tests.helpers.users import ALICE, BOB, as_user, in_child
from tests.mount.blocks import Make, directory, make, run_program

__all__ = ["directory", "make"]

pytestmark = pytest.mark.mount

PLANES = ("passthrough", "paged", "direct")

MIB = 1 << 20


ATTACH_AND_END = (
    "import os, signal, sys\n"
    "from msharefs.shared_memory import SharedMemory\n"
    "block = SharedMemory(sys.argv[1])\n"
    "assert block.buf[0] == 42\n"
    "how = sys.argv[2]\n"
    "if how == 'closed': block.close()\n"
    "if how == 'raises': raise SystemError\n"
    "if how == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.mark.parametrize(
    ("how", "code"),
    [("closed", 0), ("forgotten", 0), ("raises", 1), ("killed", -signal.SIGKILL)],
)
def test_end_of_an_attached_process_removes_nothing(make: Make, how: str, code: int) -> None:
    """cpython#82300: however a process ends that only attached, the block stays with its bytes."""
    block = make("lasting")
    block.buf[0] = 42
    done = run_program(ATTACH_AND_END, "lasting", how)
    assert done.returncode == code
    assert "resource_tracker" not in done.stderr
    with SharedMemory("lasting") as again:
        assert again.buf[0] == 42


def test_end_of_the_creator_removes_nothing(directory: Path) -> None:
    """Nor does the end of who made it: a block lives until somebody unlinks it."""
    done = run_program(
        "from msharefs.shared_memory import SharedMemory\n"
        "SharedMemory('left', create=True, size=10).buf[0] = 42\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    with SharedMemory("left") as block:
        assert block.buf[0] == 42
        block.unlink()


def test_no_helper_process_is_started(make: Make) -> None:
    """There is no resource tracker at all."""
    done = run_program(
        "import sys\n"
        "from msharefs.shared_memory import SharedMemory\n"
        "with SharedMemory(create=True, size=10) as block: block.unlink()\n"
        "assert not [name for name in sys.modules if name.startswith('multiprocessing')]\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_memory_that_is_not_there_is_an_error_at_once(make_mount: MakeMount) -> None:
    """cpython#114390: a full mount is ENOMEM for the creator, and never SIGBUS at an access."""
    directory = make_mount("size=8M").path

    def fill() -> tuple[int | None, int]:
        with SharedMemory("fits", create=True, size=6 * MIB, directory=directory) as fits:
            with pytest.raises(msharefs.OutOfMemory) as caught:
                SharedMemory("more", create=True, size=4 * MIB, directory=directory)
            fits.buf[:] = b"\1" * fits.size
            return caught.value.errno, fits.buf[fits.size - 1]

    assert in_child(fill) == (errno.ENOMEM, 1)
    assert sorted(os.listdir(directory)) == ["fits", "mshare_info"]
    SharedMemory("fits", directory=directory).unlink()


@pytest.mark.root_only("becomes another user")
def test_mode_group_and_owner_decide(make: Make, directory: Path) -> None:
    """A block is a file: the group of its mode may attach it, others may not, and root may give it."""
    old = os.umask(0)
    try:
        block = make("ours", mode=0o640)
    finally:
        os.umask(old)
    os.chown(directory / "ours", ALICE, BOB)
    status = (directory / "ours").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o640, ALICE, BOB)
    block.buf[0] = 1

    def rights() -> list[str]:
        answers = []
        for readonly in (False, True):
            try:
                with SharedMemory("ours", readonly=readonly) as mine:
                    answers.append("reads" if mine.buf.readonly else "writes")
            except PermissionError as error:
                answers.append(errno.errorcode[error.errno or 0])
        return answers

    assert as_user(ALICE, rights) == ["writes", "reads"]
    assert as_user(BOB, rights) == ["EACCES", "reads"]
    assert as_user(BOB + 1, rights) == ["EACCES", "EACCES"]
    assert as_user(BOB + 1, rights, groups=(BOB,)) == ["EACCES", "reads"]


def test_default_mode_is_private(make: Make, directory: Path) -> None:
    """Only the owner may use it, unless something else is asked for, as in the standard library."""
    make("private")
    assert stat.S_IMODE((directory / "private").stat().st_mode) == 0o600


@pytest.mark.root_only("becomes another user")
def test_user_makes_a_block_of_his_own(directory: Path) -> None:
    """It needs no right but that to the directory, and the sticky bit keeps others from removing it."""

    def make_own() -> str:
        with SharedMemory("alices", create=True, size=10, mode=0o666) as block:
            return block.name

    def remove() -> None:
        SharedMemory("alices").unlink()

    assert as_user(ALICE, make_own) == "alices"
    with pytest.raises(PermissionError):
        as_user(BOB, remove)
    as_user(ALICE, remove)
