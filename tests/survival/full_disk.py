"""What is done on a mount whose state directory's file system is full: the part that runs in a
mount namespace of its own, where /run is small (see test_full_disk.py).

`python -m tests.survival.full_disk SCENE OPTIONS`; an assertion that fails ends it with 1.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import raw
from tests.helpers.mount import Mount, run_command, unmount
from tests.helpers.raw import PAGE, refused
from tests.survival import gap

FILL = Path("/run/fill")
LONG = "n" * 240


def fill_the_disk() -> None:
    """Somebody else takes all that is left."""
    with FILL.open("ab", buffering=0) as file, refused(errno.ENOSPC):
        while True:
            file.write(bytes(PAGE))


def use_the_journal_up(root: Path) -> list[Path]:
    """Make directories until one is refused. Returns those that were made."""
    made: list[Path] = []
    with refused(errno.ENOSPC):
        while len(made) < 20_000:
            path = root / f"{len(made):05}{LONG}"
            path.mkdir()
            made.append(path)
    return made


def only_the_asker_is_refused(mounted: Mount) -> None:
    """Whatever adds is ENOSPC; what others do goes on, and so does what takes away."""
    root = mounted.path
    with raw.region(root / "region", 64 * PAGE, mapped=False) as fd:
        raw.create_mapping(fd, 0, 4 * PAGE)
        fill_the_disk()
        made = use_the_journal_up(root)
        names = sorted(os.listdir(root))
        with refused(errno.ENOSPC):
            os.mknod(root / f"new{LONG}")
        with refused(errno.ENOSPC):
            os.link(root / "region", root / f"other{LONG}")
        assert sorted(os.listdir(root)) == names
        os.fchmod(fd, 0o640)
        assert raw.mapped_ranges(root / "region") == [(0, 4 * PAGE)]
        raw.unmap(fd, PAGE, PAGE)
        for path in made:
            path.rmdir()
        # What was freed is room again, without a byte of disk; inode numbers and cookies take
        # more bytes by now.
        for path in made[: -len(made) // 50]:
            path.mkdir()
    assert mounted.status()["restarts"] == 0


def a_server_that_dies_is_replaced(mounted: Mount) -> None:
    """The next one needs no room that there is not, and knows all that was done."""
    mounted.expect_log(gap.DEATHS)
    fill_the_disk()
    made = use_the_journal_up(mounted.path)
    for restarts in (1, 2, 3):
        os.kill(mounted.server_pid, signal.SIGKILL)
        assert mounted.status()["restarts"] == restarts
        assert set(mounted.path.iterdir()) == {*made, mounted.path / "mshare_info"}
        with refused(errno.ENOSPC):
            (mounted.path / f"new{LONG}").mkdir()
    made.pop().rmdir()
    FILL.unlink()
    (mounted.path / f"new{LONG}").mkdir()


def a_mount_without_room_is_a_sentence(mounted: Mount) -> None:
    """A further mount fails, says why in one line, and leaves nothing; the first goes on."""
    before = set(Path("/run/msharefs").iterdir())
    fill_the_disk()
    place = mounted.base / "second"
    place.mkdir()
    done = run_command("msharefs", place)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "No space left on device" in line
    assert set(Path("/run/msharefs").iterdir()) == before
    (mounted.path / "directory").mkdir()


SCENES: dict[str, Callable[[Mount], None]] = {
    scene.__name__: scene
    for scene in (
        only_the_asker_is_refused,
        a_server_that_dies_is_replaced,
        a_mount_without_room_is_a_sentence,
    )
}


@contextmanager
def mount_with(options: str) -> Iterator[Mount]:
    """A mount that has to end well, its disk still full."""
    mounted = Mount(options)
    try:
        mounted.wait_until_it_answers()
        yield mounted
        mounted.check_log()
        done = unmount(mounted.path)
        assert done.returncode == 0, done.stderr
        mounted.wait_for_end()
    finally:
        mounted.discard()


def main() -> int:
    """The command."""
    name, options = sys.argv[1:]
    with mount_with(f"size=16M,align=4096,{options}") as mounted:
        SCENES[name](mounted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
