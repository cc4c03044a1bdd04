"""How much memory may be reserved, on other machines than this one."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from msharefs.memory.headroom import KEPT_BACK, LARGEST_GRANT, Headroom, available_memory

MIB = 1 << 20


class Looks:
    """What is left, as the test says, and how often it was asked for."""

    def __init__(self, left: int) -> None:
        self.left = left
        self.count = 0

    def __call__(self) -> int:
        """A look."""
        self.count += 1
        return self.left + KEPT_BACK


def refusal(headroom: Headroom, size: int) -> str:
    """The sentence with which so many bytes are refused."""
    with pytest.raises(OSError) as caught:
        headroom.take(size)
    assert caught.value.errno == errno.ENOMEM
    return str(caught.value)


def test_the_last_byte_can_be_had() -> None:
    """But for what the mount itself needs."""
    looks = Looks(8 * MIB)
    headroom = Headroom(looks)
    headroom.take(8 * MIB)
    looks.left = 0
    assert "1 bytes wanted, 0 left" in refusal(headroom, 1)


def test_it_looks_again_before_it_can_be_used_up() -> None:
    """Others take memory, too, so a fourth of what was left is given without a look."""
    looks = Looks(80 * MIB)
    headroom = Headroom(looks)
    for _ in range(20):
        headroom.take(MIB)
    assert looks.count == 1
    looks.left = 2 * MIB
    headroom.take(MIB)
    assert looks.count == 2
    assert "2097152 left" in refusal(headroom, 3 * MIB)


def test_what_is_given_back_can_be_taken_again() -> None:
    """Without a look, but never more than one has granted."""
    looks = Looks(80 * MIB)
    headroom = Headroom(looks)
    for _ in range(100):
        headroom.take(20 * MIB)
        headroom.give_back(20 * MIB)
    assert looks.count == 1
    headroom.give_back(1 << 40)
    headroom.take(20 * MIB)
    looks.left = 0
    assert "1 bytes wanted, 0 left" in refusal(headroom, 1)


def test_it_does_not_look_for_each_small_one() -> None:
    """On a machine with much memory once for so many bytes."""
    looks = Looks(1 << 40)
    headroom = Headroom(looks)
    for _ in range(4 * LARGEST_GRANT // MIB):
        headroom.take(MIB)
    assert looks.count == 4


def test_a_check_takes_nothing() -> None:
    """It says whether it could be taken at this moment."""
    looks = Looks(8 * MIB)
    headroom = Headroom(looks)
    headroom.check(8 * MIB)
    headroom.check(8 * MIB)
    with pytest.raises(OSError, match="9437184 bytes wanted"):
        headroom.check(9 * MIB)
    headroom.take(8 * MIB)


def test_nothing_is_left_where_more_is_used_than_there_is() -> None:
    """A group whose limit was lowered."""
    headroom = Headroom(lambda: 0)
    assert "0 left" in refusal(headroom, 1)


def machine(root: Path, *, limit: str) -> str:
    """The root directory of a machine with 100 MiB left, whose only group has a limit."""
    group = root / "sys/fs/cgroup/group"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemAvailable: 102400 kB\nSwapFree: 0 kB\n")
    (root / "proc/self/cgroup").write_text("0::/group\n")
    (root / "proc/self/mountinfo").write_text(
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    )
    (group / "memory.max").write_text(limit)
    (group / "memory.current").write_text("10485760")
    return str(root)


@pytest.mark.parametrize(
    ("limit", "left"), [("31457280", 20 * MIB), ("max", 100 * MIB), ("1073741824", 100 * MIB)]
)
def test_the_group_counts_as_the_machine_does(tmp_path: Path, limit: str, left: int) -> None:
    """The smaller of the two."""
    assert available_memory(machine(tmp_path, limit=limit)) == left


def test_available_memory_is_a_part_of_the_machine() -> None:
    """Something, and not more than all memory and swap together."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    assert 0 < available_memory() <= sizes["MemTotal"] + sizes["SwapTotal"]
