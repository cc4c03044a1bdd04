"""SharedMemory on a real mount has the interface of the standard library's class, and keeps it."""

from __future__ import annotations

import errno
import inspect
import mmap
import os
import sys
from multiprocessing import shared_memory as standard
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import msharefs
from msharefs import Region
from msharefs.linux import syscalls
from msharefs.shared_memory import SharedMemory
from tests.helpers.descriptors import open_descriptors
from tests.helpers.fixtures import MakeMount
from tests.helpers.users import ALICE, as_user
from tests.mount.blocks import Make, directory, make, run_program

__all__ = ["directory", "make"]

pytestmark = pytest.mark.mount

PLANES = ("passthrough", "paged", "direct")

PAGE = os.sysconf("SC_PAGESIZE")
MIB = 1 << 20
UNIT = 2 * MIB
FOOTER = 16


def test_interface_is_the_standard_one() -> None:
    """Every public name is there, and its arguments come in the same order with the same defaults."""
    public = {name for name in vars(standard.SharedMemory) if not name.startswith("_")}
    assert public <= set(dir(SharedMemory))
    theirs = inspect.signature(standard.SharedMemory).parameters
    ours = inspect.signature(SharedMemory).parameters
    assert list(ours)[: len(theirs)] == list(theirs) or list(ours)[:3] == list(theirs)
    for name, parameter in theirs.items():
        assert (ours[name].default, ours[name].kind) == (parameter.default, parameter.kind)


def test_two_programs_share_a_block(make: Make) -> None:
    """One attaches by name what the other made, and each sees what the other writes."""
    block = make("block", 10)
    block.buf[:5] = b"hello"
    done = run_program(
        "from msharefs.shared_memory import SharedMemory\n"
        "block = SharedMemory('block')\n"
        "assert (block.size, len(block.buf), bytes(block.buf[:5])) == (10, 10, b'hello')\n"
        "block.buf[:5] = b'world'\n"
        "block.close()\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bytes(block.buf[:5]) == b"world"


@pytest.mark.parametrize(
    "size",
    [
        1,
        PAGE - FOOTER - 1,
        PAGE - FOOTER,
        PAGE - FOOTER + 1,
        PAGE,
        PAGE + 1,
        UNIT - FOOTER,
        UNIT,
        5 * MIB + 7,
    ],
)
def test_size_is_just_what_was_asked_for(make: Make, size: int) -> None:
    """Here and for who attaches, though the file is as long as the alignment wants."""
    block = make("sized", size)
    with SharedMemory("sized") as other:
        for each in (block, other):
            assert (each.size, len(each.buf), each.buf.format) == (size, size, "B")
        block.buf[size - 1] = 7
        assert other.buf[size - 1] == 7
        assert bytes(other.buf[: size - 1]) == bytes(size - 1)
    length = os.stat(os.path.join(block.directory, "sized")).st_size
    assert length % UNIT == 0
    assert size < length < size + FOOTER + UNIT


def test_new_block_is_zeros(make: Make) -> None:
    """As long as nobody has written there."""
    assert not any(make(size=3 * PAGE).buf)


def test_name_is_chosen_where_none_is_given(make: Make) -> None:
    """Each has another one, by which it can be attached; a leading slash means nothing."""
    first, second = make(), make()
    assert first.name != second.name
    first.buf[0] = 1
    with SharedMemory("/" + first.name) as same:
        assert (same.name, same.buf[0]) == (first.name, 1)


def test_name_that_is_taken(make: Make) -> None:
    """FileExistsError, and the block that is there keeps what it holds."""
    make("taken").buf[0] = 1
    with pytest.raises(FileExistsError) as caught:
        SharedMemory("taken", create=True, size=10)
    assert caught.value.errno == errno.EEXIST
    with SharedMemory("taken") as same:
        assert (same.size, same.buf[0]) == (100, 1)


def test_name_that_is_taken_on_a_full_mount(make_mount: MakeMount) -> None:
    """It is still FileExistsError and not ENOMEM: the name is looked at before any memory."""
    directory = make_mount("size=8M").path
    with SharedMemory("taken", create=True, size=6 * MIB, directory=directory) as block:
        with pytest.raises(FileExistsError):
            SharedMemory("taken", create=True, size=4 * MIB, directory=directory)
        block.unlink()


def test_other_process_that_is_faster(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who loses the race for a name gets FileExistsError, and nothing of its own stays."""
    real = syscalls.rename_to_free

    def late(source: str, target: str) -> None:
        monkeypatch.setattr(syscalls, "rename_to_free", real)
        make(os.path.basename(target), 10)
        real(source, target)

    monkeypatch.setattr(syscalls, "rename_to_free", late)
    with pytest.raises(FileExistsError) as caught:
        SharedMemory("race", create=True, size=100)
    assert caught.value.filename == os.path.join(os.environ["MSHAREFS_DIR"], "race")
    assert ".shm-" not in Path("/proc/self/maps").read_text()
    with SharedMemory("race") as winner:
        assert winner.size == 10


def test_block_appears_complete(
    make: Make, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can attach it by its name before its memory and its size are there."""
    seen: list[bool] = []
    real = Region.map

    def slow(region: Region, start: int, size: int, *, replace: bool) -> None:
        seen.append((directory / "late").exists())
        real(region, start, size, replace=replace)

    monkeypatch.setattr(Region, "map", slow)
    make("late")
    assert seen == [False]
    assert (directory / "late").exists()


@pytest.mark.parametrize(
    ("name", "create", "size"),
    [
        (None, False, 0),
        (None, True, 0),
        ("a", True, -1),
        ("", True, 1),
        ("..", True, 1),
        ("a/b", True, 1),
        ("a\0", True, 1),
        (".", False, 0),
        ("/", False, 0),
    ],
)
def test_arguments_that_make_no_sense(
    directory: Path, name: str | None, size: int, *, create: bool
) -> None:
    """ValueError, before anything is made."""
    with pytest.raises(ValueError, match=r"name|size|byte|range"):
        SharedMemory(name, create, size)
    assert os.listdir(directory) == ["mshare_info"]


def test_block_that_is_not_there(directory: Path) -> None:
    """FileNotFoundError, as for any file; mshare_info is no block."""
    with pytest.raises(FileNotFoundError):
        SharedMemory("missing")
    with pytest.raises(msharefs.NotARegion):
        SharedMemory("mshare_info", readonly=True)


@pytest.mark.root_only("becomes another user")
def test_mode_that_shuts_its_owner_out(make: Make) -> None:
    """As with open(2), the mode is for those who come later, not for who makes the block."""

    def make_shut() -> int:
        with SharedMemory("shut", create=True, size=1, mode=0o400) as block:
            block.buf[0] = 1
            block.unlink()
            return block.buf[0]

    assert as_user(ALICE, make_shut) == 1


def test_unlinked_block_lives_until_it_is_closed(make: Make) -> None:
    """The name goes at once, for who has attached it nothing changes; a second time it is gone."""
    block = make("gone")
    block.unlink()
    with pytest.raises(FileNotFoundError):
        SharedMemory("gone")
    block.buf[0] = 1
    fresh = make("gone")
    assert fresh.buf[0] == 0
    with pytest.raises(FileNotFoundError):
        block.unlink()
    block.close()
    with SharedMemory("gone"):
        pass


def test_close_while_an_array_views_it(make: Make) -> None:
    """BufferError, and the array stays valid; afterwards it closes, and buf is a ValueError."""
    block = make("array", 80)
    array = np.ndarray((10,), dtype="f8", buffer=block.buf)
    with pytest.raises(BufferError):
        block.close()
    array[9] = 1.5
    assert block.buf[72:80].tobytes() == np.float64(1.5).tobytes()
    del array
    block.close()
    block.close()
    with pytest.raises(ValueError, match="closed"):
        bytes(block.buf)
    assert repr(block) == "SharedMemory('array', size=80)"


def mapped_files() -> list[str]:
    """What this process has mapped shared, whatever its name is."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    return sorted(" ".join(line[3:]) for line in lines if line[1].endswith("s"))


def test_block_that_is_forgotten(make: Make) -> None:
    """Without close nothing leaks once it is collected, and the block stays for the others."""
    kept = make("kept")
    kept.buf[0] = 1
    before, mapped = open_descriptors(), mapped_files()
    forgotten = [SharedMemory("kept")]
    assert open_descriptors() > before
    forgotten.clear()
    assert open_descriptors() == before
    assert mapped_files() == mapped


def test_region_of_another_making(directory: Path) -> None:
    """A region that a C program made is as long as what is mapped from its start."""
    path = directory / "region"
    with Region.create(path, UNIT) as region:
        with pytest.raises(ValueError, match="nothing is mapped"):
            SharedMemory("region")
        region.map(0, PAGE)
        region.map(PAGE, PAGE, prot="r")
        region.map(5 * PAGE, PAGE)
        with SharedMemory("region") as block:
            assert (block.size, block.buf.readonly) == (2 * PAGE, True)
    path.unlink()


def test_region_that_only_looks_like_a_block(directory: Path) -> None:
    """What is mapped elsewhere, or anew since the block was made, is seen without a touch of what
    is not there."""
    path = directory / "region"
    with Region.create(path, UNIT) as region:
        region.map(5 * PAGE, PAGE)
        with pytest.raises(ValueError, match="nothing is mapped at its start"):
            SharedMemory("region")
    path.unlink()
    with SharedMemory("region", create=True, size=3 * PAGE) as block:
        with Region.open(path) as region:
            # Where the footer would be, were what is mapped in one piece.
            block.buf[3 * PAGE - FOOTER :] = b"mshr.len" + (1 << 40).to_bytes(8, sys.byteorder)
            region.unmap(PAGE, PAGE)
            with SharedMemory("region") as same:
                assert same.size == PAGE
            region.map(PAGE, PAGE)
            with SharedMemory("region") as same:
                assert same.size == 3 * PAGE
            region.map(3 * PAGE, PAGE)
            with SharedMemory("region") as same:
                assert same.size == 4 * PAGE
        block.unlink()


def test_what_work_arounds_reach_for(make: Make, directory: Path) -> None:
    """The standard class's own attributes mean here what they mean there, open and closed."""
    block = make("around", 100)
    theirs = standard.SharedMemory(create=True, size=100)
    try:
        each: Any
        for each in (block, theirs):
            assert each._name == f"/{each.name}"
            assert os.fstat(each._fd).st_ino
            assert isinstance(each._mmap, mmap.mmap)
            assert len(each._mmap) >= each.size
            each._mmap.flush()
            each.close()
            assert each._fd == -1
            assert each._mmap is None
    finally:
        theirs.unlink()


def test_directory_by_argument_and_environment(make_mount: MakeMount, directory: Path) -> None:
    """directory= goes before MSHAREFS_DIR; what comes after that is in test_default_directory.py."""
    other = make_mount("size=8M").path
    (other / "below").mkdir()
    for wanted, given in ((other / "below", other / "below"), (directory, None)):
        with SharedMemory("where", create=True, size=1, directory=given) as block:
            assert block.directory == str(wanted)
            assert (wanted / "where").exists()
            block.unlink()


def test_directory_that_is_no_mount(tmp_path: Path) -> None:
    """NotMounted, and no file is left there."""
    with pytest.raises(msharefs.NotMounted) as caught:
        SharedMemory(create=True, size=1, directory=tmp_path)
    assert caught.value.errno == errno.ENODEV
    assert os.listdir(tmp_path) == []
