"""The limits of memory groups, on machines made of a few files, and on this one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msharefs.linux import cgroup

MIB = 1 << 20
V1 = "sys/fs/cgroup/memory"
V2 = "sys/fs/cgroup"
NO_LIMIT = str((1 << 63) - 4096)


class Machine:
    """A root directory with groups in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("proc/meminfo", "MemTotal: 16000000 kB\nSwapFree: 0 kB\n")

    def put(self, name: str, text: str) -> None:
        """Write one file of the machine."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def v1(self, path: str, *, mounted: str = "/") -> None:
        """The process is in the group `path` of v1."""
        self.put("proc/self/cgroup", f"8:pids:/\n4:memory:{path}\n0::/\n")
        self.put(
            "proc/self/mountinfo",
            f"35 31 0:32 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        )

    def v2(self, path: str, *, mounted: str = "/") -> None:
        """The process is in the group `path` of v2."""
        self.put("proc/self/cgroup", f"0::{path}\n")
        self.put(
            "proc/self/mountinfo", f"41 31 0:38 {mounted} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        )

    def group_v1(self, path: str, limit: int | str, used: int, **stat: int) -> None:
        """A group of v1."""
        self.put(f"{V1}{path}/memory.limit_in_bytes", f"{limit}\n")
        self.put(f"{V1}{path}/memory.usage_in_bytes", f"{used}\n")
        self.put(f"{V1}{path}/memory.stat", "".join(f"{k} {v}\n" for k, v in stat.items()))

    def group_v2(self, path: str, limit: int | str, used: int, **files: int | str) -> None:
        """A group of v2; `files` are more of its files, with _ for the point."""
        self.put(f"{V2}{path}/memory.max", f"{limit}\n")
        self.put(f"{V2}{path}/memory.current", f"{used}\n")
        for name, value in files.items():
            self.put(f"{V2}{path}/memory.{name.replace('_', '.')}", f"{value}\n")

    def limit(self) -> int | None:
        """What is read."""
        return cgroup.memory_limit(str(self.root))

    def available(self) -> int | None:
        """What is read."""
        return cgroup.available_memory(str(self.root))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Without groups."""
    return Machine(tmp_path)


def test_without_groups_there_is_no_limit(machine: Machine) -> None:
    """No file, no hierarchy, groups without limits."""
    assert (machine.limit(), machine.available()) == (None, None)
    machine.v1("/")
    assert machine.limit() is None
    machine.group_v1("", NO_LIMIT, 5 * MIB)
    assert machine.limit() is None
    machine.v2("/a")
    machine.group_v2("/a", "max", 5 * MIB, high="max")
    assert machine.limit() is None


def test_v1_counts_with_its_ancestors(machine: Machine) -> None:
    """The smallest limit, and the smallest rest, which may be another group's."""
    machine.v1("/outer/inner")
    machine.group_v1("", NO_LIMIT, 900 * MIB)
    machine.group_v1("/outer", 500 * MIB, 450 * MIB)
    machine.group_v1("/outer/inner", 300 * MIB, 100 * MIB)
    assert machine.limit() == 300 * MIB
    assert machine.available() == 50 * MIB
    assert [group.limit for group in cgroup.memory_groups(str(machine.root))] == [
        300 * MIB,
        500 * MIB,
    ]


def test_v2_counts_with_its_ancestors(machine: Machine) -> None:
    """memory.high is as good as a limit: beyond it nobody gets anywhere."""
    machine.v2("/outer/inner")
    machine.group_v2("/outer", 500 * MIB, 450 * MIB)
    machine.group_v2("/outer/inner", "max", 100 * MIB, high=str(200 * MIB))
    assert machine.limit() == 200 * MIB
    assert machine.available() == 50 * MIB


def test_the_cache_of_files_is_given_back(machine: Machine) -> None:
    """It is charged, and goes by itself; shared memory does not."""
    stat = {"total_inactive_file": 60 * MIB, "total_active_file": 20 * MIB, "total_shmem": MIB}
    machine.v1("/a")
    machine.group_v1("/a", 300 * MIB, 290 * MIB, inactive_file=MIB, **stat)
    assert machine.available() == 90 * MIB
    machine.v2("/a")
    machine.group_v2("/a", 300 * MIB, 310 * MIB, stat="shmem 4096\ninactive_file 20971520\n")
    assert machine.available() == 10 * MIB


def test_a_full_group_has_nothing_left(machine: Machine) -> None:
    """Never less than that."""
    machine.v2("/a")
    machine.group_v2("/a", 300 * MIB, 310 * MIB)
    assert machine.available() == 0


def test_swap_counts_as_far_as_the_group_may_have_it(machine: Machine) -> None:
    """v1 limits memory and swap together, v2 each by itself; there is no more than is free."""
    machine.put("proc/meminfo", "MemTotal: 16000000 kB\nSwapFree: 102400 kB\n")
    machine.v2("/a")
    machine.group_v2("/a", 300 * MIB, 200 * MIB, swap_max="max")
    assert machine.available() == 200 * MIB
    machine.group_v2("/a", 300 * MIB, 200 * MIB, swap_max=50 * MIB, swap_current=20 * MIB)
    assert machine.available() == 130 * MIB
    machine.v1("/a")
    machine.group_v1("/a", 300 * MIB, 200 * MIB)
    machine.put(f"{V1}/a/memory.memsw.limit_in_bytes", str(320 * MIB))
    machine.put(f"{V1}/a/memory.memsw.usage_in_bytes", str(210 * MIB))
    assert machine.available() == 110 * MIB


@pytest.mark.parametrize("path", ["/docker/me", "/docker/me/child", "/../other", "/elsewhere"])
def test_in_a_container_what_is_mounted_counts(machine: Machine, path: str) -> None:
    """Groups are named as the host has them, and a part of them is mounted; or they lie beside it."""
    machine.v1(path, mounted="/docker/me")
    machine.group_v1("", 300 * MIB, 100 * MIB)
    machine.group_v1("/child", NO_LIMIT, MIB)
    assert machine.limit() == 300 * MIB


def test_this_machine_can_be_asked() -> None:
    """Whatever it is."""
    for group in cgroup.memory_groups():
        assert os.path.isdir(group.path)
        assert group.limit > 0
        assert group.available >= 0
