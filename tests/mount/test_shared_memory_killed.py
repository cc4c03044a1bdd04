"""A process that is killed while it makes a block leaves nothing for ever.

What is half made has a hidden name, and is told from what is being made by the lock that a
living maker holds. Each step of the making is the last of some process here.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import msharefs
from msharefs import Region
from msharefs.client import blocks
from msharefs.linux import syscalls
from msharefs.shared_memory import SharedMemory
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.helpers.users import ALICE, BOB, ChildKilledError, as_user, in_child
from tests.mount.blocks import Make, directory, make

__all__ = ["directory", "make"]

pytestmark = pytest.mark.mount

PLANES = ("passthrough", "paged")

MIB = 1 << 20
SIZE = 3 * MIB
STEPS: dict[str, tuple[object, str]] = {
    "before the lock": (fcntl, "flock"),
    "before the size": (os, "ftruncate"),
    "before the memory": (Region, "map"),
    "before the name": (syscalls, "rename_to_free"),
}


@pytest.fixture(autouse=True)
def looks_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look by chance: the tests say when."""
    monkeypatch.setattr(blocks, "_COLLECT_ONE_IN", 2**80)
    monkeypatch.setattr(blocks, "_COLLECT_EACH_BYTES", 2**160)


def hidden(directory: Path) -> list[str]:
    """The names that are no block's."""
    return [name for name in os.listdir(directory) if name.startswith(".")]


def die(*_: object, **__: object) -> None:
    """The step that is not done any more."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_maker(step: str, where: Path, size: int = SIZE) -> None:
    """A process that ends before this step of its making of a block."""

    def work() -> None:
        owner, name = STEPS[step]
        setattr(owner, name, die)
        SharedMemory("never", create=True, size=size, directory=where)

    with pytest.raises(ChildKilledError):
        in_child(work)


@pytest.mark.parametrize("step", STEPS)
def test_what_a_killed_maker_left_is_collected(mounted: Mount, directory: Path, step: str) -> None:
    """Wherever it was: its name is hidden, and the next look takes it away with its memory."""
    killed_maker(step, directory)
    assert len(hidden(directory)) == 1
    assert not (directory / "never").exists()
    assert blocks.collect(str(directory)) == 1
    assert os.listdir(directory) == ["mshare_info"]
    assert blocks.collect(str(directory)) == 0
    mounted.wait_until_empty()


@pytest.mark.parametrize("step", list(STEPS)[1:])
def test_what_is_being_made_is_left_alone(
    make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """However often somebody looks meanwhile: the maker lives, and the block is whole."""
    owner, name = STEPS[step]
    real: Callable[..., object] = getattr(owner, name)
    found: list[int] = []

    def meanwhile(*arguments: object, **words: object) -> object:
        found.append(in_child(lambda: blocks.collect(str(directory))))
        assert len(hidden(directory)) == 1
        return real(*arguments, **words)

    monkeypatch.setattr(owner, name, meanwhile)
    block = make("whole", SIZE)
    assert found == [0]
    assert (block.size, hidden(directory)) == (SIZE, [])
    assert in_child(lambda: blocks.collect(str(directory))) == 0


def test_maker_that_comes_to_its_lock_too_late(
    make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taken for dead in the moment between its file and its lock, it begins again."""
    real = fcntl.flock
    taken: list[int] = []

    def late(fd: int, operation: int) -> None:
        if not taken:
            monkeypatch.setattr(fcntl, "flock", real)
            taken.append(in_child(lambda: blocks.collect(str(directory))))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    block = make("again", SIZE)
    assert taken == [1]
    assert block.size == SIZE
    with SharedMemory("again") as same:
        assert same.size == SIZE


def test_lock_of_a_block_is_free_when_it_is_made(make: Make, directory: Path) -> None:
    """The making's lock is not the block's: programs use flock(2) on it as on any file."""
    make("unlocked")
    with (directory / "unlocked").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_half_made_memory_gives_way(make_mount: MakeMount) -> None:
    """What killed makers hold is taken away before anybody is told that there is no memory."""
    where = make_mount("size=8M").path
    killed_maker("before the name", where, 6 * MIB)
    with SharedMemory("fits", create=True, size=6 * MIB, directory=where) as block:
        assert hidden(where) == []
        with pytest.raises(msharefs.OutOfMemory) as caught:
            SharedMemory("more", create=True, size=6 * MIB, directory=where)
        assert caught.value.filename == str(where / "more")
        assert hidden(where) == []
        block.unlink()


def test_half_made_names_give_way(make_mount: MakeMount) -> None:
    """So do their inodes."""
    where = make_mount("size=8M,nr_inodes=4").path
    killed_maker("before the name", where, 1)
    killed_maker("before the size", where, 1)
    with SharedMemory("fits", create=True, size=1, directory=where) as block:
        block.unlink()


@pytest.mark.parametrize("limit", ["_COLLECT_ONE_IN", "_COLLECT_EACH_BYTES"])
def test_look_comes_by_itself(
    make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """One in so many blocks looks around, and one in so many bytes; here each."""
    killed_maker("before the name", directory)
    make("between")
    assert len(hidden(directory)) == 1
    monkeypatch.setattr(blocks, limit, 1)
    make("next")
    assert hidden(directory) == []


def test_other_names_are_left_alone(directory: Path) -> None:
    """A file of a user whose name only looks alike is his."""
    names = [".shm-", ".shm-0123", ".shm-0123456789abcdeg", ".shm-0123456789abcdef0", "a.shm-"]
    for name in names:
        (directory / name).touch()
    assert blocks.collect(str(directory)) == 0
    for name in names:
        (directory / name).unlink()


@pytest.mark.root_only("becomes other users")
def test_other_users_leftovers_are_theirs(directory: Path) -> None:
    """Nobody can remove them but their owner and root, and nobody fails for it."""

    def be_killed() -> None:
        Region.map = die  # type: ignore[method-assign]
        SharedMemory(create=True, size=1, directory=directory)

    with pytest.raises(ChildKilledError):
        as_user(ALICE, be_killed)
    assert as_user(BOB, lambda: blocks.collect(str(directory))) == 0
    # Not even a lock is tried for: his files may be any number, and each would be a request.
    assert as_user(BOB, lambda: opened_by(directory)) == []
    assert as_user(ALICE, lambda: blocks.collect(str(directory))) == 1


def test_very_many_are_collected_bit_by_bit(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single look takes long; by and by all of them go."""
    monkeypatch.setattr(blocks, "_COLLECT_AT_MOST", 3)
    for number in range(8):
        (directory / f".shm-{number:016x}").touch()
    assert [blocks.collect(str(directory)) for _ in range(4)] == [3, 3, 2, 0]


def test_look_where_one_may_not_list(tmp_path: Path) -> None:
    """It finds nothing, and that is no error."""
    assert blocks.collect(str(tmp_path / "missing")) == 0


def opened_by(directory: Path) -> list[object]:
    """What a look opens."""
    opened: list[object] = []
    real = os.open

    def watched(path: str, *arguments: int) -> int:
        opened.append(path)
        return real(path, *arguments)

    os.open = watched  # type: ignore[assignment]
    blocks.collect(str(directory))
    return opened


def make_and_unlink_for_ever(where: Path) -> None:
    """What a busy program does."""
    while True:
        block = SharedMemory(create=True, size=SIZE, directory=where)
        block.close()
        block.unlink()


def test_makers_killed_at_random(mounted: Mount, directory: Path) -> None:
    """At whatever instruction: after one look nothing hidden is there, and nothing half made."""
    chance = random.Random(7)
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            try:
                make_and_unlink_for_ever(directory)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.02, 0.06))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    blocks.collect(str(directory))
    assert hidden(directory) == []
    for name in set(os.listdir(directory)) - {"mshare_info"}:
        with SharedMemory(name) as block:
            assert block.size == SIZE
            block.unlink()
    mounted.wait_until_empty()
