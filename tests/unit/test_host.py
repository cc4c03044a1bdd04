"""The checks of mshare doctor, on machines made of a few files."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from msharefs.inspect import host_memory, host_mounting
from msharefs.inspect.host import Finding, Host
from msharefs.linux import syscalls

THP = "sys/kernel/mm/transparent_hugepage"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine as it should be."""
    for name, text in {
        "proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\n",
        "proc/self/uid_map": "         0          0 4294967295\n",
        "proc/self/mountinfo": "1 0 0:1 / /sys/fs/fuse/connections rw - fusectl none rw\n",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\nSwapTotal: 0 kB\n",
        "proc/buddyinfo": "Node 0, zone   Normal " + " 5" * 9 + " 100 100\n",
        "proc/sys/vm/max_map_count": "65530\n",
        f"{THP}/shmem_enabled": "always within_size advise [never] deny force\n",
        f"{THP}/hpage_pmd_size": "2097152\n",
        "etc/fuse.conf": "user_allow_other\n",
        "etc/systemd/logind.conf": "[Login]\n#RemoveIPC=yes\nRemoveIPC=no\n",
        "boot/config-6.18.0": "CONFIG_FUSE_FS=y\nCONFIG_FUSE_PASSTHROUGH=y\n",
        "dev/fuse": "",
        "sys/fs/fuse/connections/README": "",
        "run/systemd/seats/README": "",
    }.items():
        put(tmp_path, name, text)
    (tmp_path / "dev/shm").mkdir()
    return tmp_path


def put(root: Path, name: str, text: str) -> None:
    """Write one file of the machine."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def look(root: Path, *, release: str = "6.18.0", euid: int = 0) -> dict[str, Finding]:
    """What the doctor finds there, by what it is about, but for the slow check."""
    host = Host(str(root), release, euid)
    checks = {*host_mounting.CHECKS, *host_memory.CHECKS} - {host_mounting.check_libraries}
    return {finding.about: finding for check in checks for finding in check(host)}


def test_nothing_is_wrong_with_a_good_machine(root: Path) -> None:
    """Every check says ok, for root and for others, and none has advice."""
    for euid in (0, 1000):
        found = look(root, euid=euid)
        # What it says of a user's rights is worth knowing on any machine.
        found.pop("rights")
        # The tests' own machine answers for the rest.
        for about in ("fusermount3", "limits", "/dev/shm", "collapse"):
            found.pop(about, None)
        assert {(each.level, each.advice) for each in found.values()} == {("ok", "")}, found


@pytest.mark.parametrize(
    ("code", "level", "word"),
    [
        (0, "ok", "can be put into huge pages"),
        (errno.EINVAL, "warn", "EINVAL"),
        (errno.ENOMEM, "warn", "ENOMEM"),
        (errno.EPERM, "?", "not permitted"),
    ],
)
def test_a_user_is_told_what_the_kernel_says_to_huge_pages(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int, level: str, word: str
) -> None:
    """It is tried, and nothing is left of it. Root's mounts ask by themselves."""

    def collapse(fd: int, start: int, size: int, huge_page: int) -> None:
        assert os.fstat(fd).st_size == size
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(syscalls, "collapse", collapse)
    finding = look(root, euid=1000)["collapse"]
    assert finding.level == level
    assert word in finding.sentence
    assert os.listdir(root / "dev/shm") == []
    assert "collapse" not in look(root)


@pytest.mark.parametrize(
    ("name", "text", "about", "level", "advice"),
    [
        (f"{THP}/shmem_enabled", "always [deny] force", "huge pages", "warn", "echo never"),
        (f"{THP}/hpage_pmd_size", "536870912", "huge pages", "warn", "4 KiB"),
        (
            "proc/buddyinfo",
            "Node 0, zone Normal 9 9 9 9 9 9 9 9 9 3 0",
            "huge pages",
            "warn",
            "compact",
        ),
        ("proc/self/status", "CapEff:\t00000000a80425fb\n", "rights", "FAIL", "SYS_ADMIN"),
        ("proc/self/uid_map", "0 1000 1\n", "rights", "warn", "outside"),
        ("proc/self/mountinfo", "", "fusectl", "warn", "mount -t fusectl"),
        ("proc/sys/kernel/yama/ptrace_scope", "3\n", "files", "warn", "boot"),
        ("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 100 kB\n", "memory", "warn", "size="),
        ("proc/sys/vm/max_map_count", "100", "limits", "warn", "vm.max_map_count"),
        (
            "boot/config-6.18.0",
            "# CONFIG_FUSE_PASSTHROUGH is not set\n",
            "kernel",
            "warn",
            "kernel",
        ),
    ],
)
def test_each_fault_is_found_and_advised_on(
    root: Path, name: str, text: str, about: str, level: str, advice: str
) -> None:
    """One thing wrong gives one finding, with what to do about it."""
    put(root, name, text)
    finding = look(root)[about]
    assert finding.level == level
    assert advice in finding.advice


@pytest.mark.parametrize(("scope", "euid", "level"), [(1, 0, "ok"), (1, 1000, "warn")])
def test_whose_files_can_be_mapped(root: Path, scope: int, euid: int, level: str) -> None:
    """Root looks into everybody, where a user's daemon may not."""
    put(root, "proc/sys/kernel/yama/ptrace_scope", f"{scope}\n")
    assert look(root, euid=euid)["files"].level == level


def test_root_who_may_not_look_into_others(root: Path) -> None:
    """As in most containers: a daemon there sees root's own programs alone."""
    put(root, "proc/self/status", f"CapEff:\t{(1 << 40) - 1 & ~(1 << 19):016x}\n")
    finding = look(root)["files"]
    assert (finding.level, "SYS_PTRACE" in finding.advice) == ("warn", True)
    assert look(root, euid=1000)["files"].level == "ok"


@pytest.mark.parametrize(("used", "level"), [(100 << 20, "ok"), (299 << 20, "warn")])
def test_a_limit_of_the_memory_group_is_told(root: Path, used: int, level: str) -> None:
    """A container has less than the machine; what is charged already is gone."""
    assert "memory group" not in look(root)
    put(root, "proc/self/cgroup", "0::/box\n")
    put(root, "proc/self/mountinfo", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    put(root, "sys/fs/cgroup/box/memory.max", f"{300 << 20}\n")
    put(root, "sys/fs/cgroup/box/memory.current", f"{used}\n")
    finding = look(root)["memory group"]
    assert finding.level == level
    assert "/sys/fs/cgroup/box" in finding.sentence
    assert "300 MiB in all" in finding.sentence
    assert ("memory.max" in finding.advice) == (level == "warn")


def test_a_missing_device_fails(root: Path) -> None:
    """With what to do on a machine and in a container."""
    (root / "dev/fuse").unlink()
    finding = look(root)["/dev/fuse"]
    assert finding.level == "FAIL"
    assert "modprobe fuse" in finding.advice
    assert "--device" in finding.advice


def test_old_kernels_are_told_what_they_lack(root: Path) -> None:
    """Passthrough came with 6.9, and refusing read(2) in the other plane with 6.6."""
    assert look(root, release="6.9.1")["kernel"].level == "ok"
    assert look(root, release="6.8.0-generic")["kernel"].level == "warn"
    assert "read(2)" not in look(root, release="6.8.0-generic")["kernel"].sentence
    assert "read(2)" in look(root, release="6.1.0")["kernel"].sentence


def test_without_huge_pages_in_the_kernel_it_says_so(root: Path) -> None:
    """The file is missing then."""
    (root / THP / "shmem_enabled").unlink()
    assert "CONFIG_TRANSPARENT_HUGEPAGE" in look(root)["huge pages"].advice


@pytest.mark.parametrize(
    ("gone", "about"),
    [
        ("sys", "huge pages"),
        ("sys/fs/cgroup", "memory group"),
        ("proc/meminfo", "memory"),
    ],
)
def test_what_is_not_there_to_be_looked_at_is_said(root: Path, gone: str, about: str) -> None:
    """As in a container without /sys: neither well nor wrong."""
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cgroup.controllers", "memory\n")
    assert about == "memory group" or look(root)[about].level == "ok"
    path = root / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    finding = look(root)[about]
    assert finding.level == "?"
    assert finding.sentence.startswith("could not be looked at: ")


def test_free_blocks_that_a_user_cannot_see_are_not_counted(root: Path) -> None:
    """Newer kernels show them to root alone; and none is worse than few."""
    put(root, "proc/buddyinfo", "Node 0, zone   Normal " + " 5" * 9 + " 0 0\n")
    assert look(root)["huge pages"].level == "warn"
    (root / "proc/buddyinfo").unlink()
    finding = look(root, euid=1000)["huge pages"]
    assert (finding.level, "root can see" in finding.sentence) == ("ok", True)


def test_a_user_who_gains_no_rights_cannot_mount(root: Path) -> None:
    """no_new_privs takes the set-uid bit of fusermount3 away, as in hardened services."""
    put(root, "proc/self/status", "Name:\tx\nNoNewPrivs:\t1\nCapEff:\t0\n")
    finding = look(root, euid=1000)["fusermount3"]
    assert (finding.level, "no_new_privs" in finding.sentence) == ("FAIL", True)
    assert look(root, euid=0)["fusermount3"].level == "ok"


def test_users_are_told_of_allow_other(root: Path) -> None:
    """Commented out is not said."""
    put(root, "etc/fuse.conf", "#user_allow_other\n")
    assert look(root, euid=1000)["fuse.conf"].level == "warn"
    assert "fuse.conf" not in look(root, euid=0)


def test_users_are_told_of_logind(root: Path) -> None:
    """Its default is to remove; the last drop-in by name wins; root's mounts do not care."""
    put(root, "etc/systemd/logind.conf", "#RemoveIPC=no\n")
    assert look(root, euid=1000)["logind"].level == "warn"
    assert "logind" not in look(root, euid=0)
    put(root, "etc/systemd/logind.conf.d/50-ipc.conf", "[Login]\nRemoveIPC=no\n")
    assert look(root, euid=1000)["logind"].level == "ok"
    put(root, "usr/lib/systemd/logind.conf.d/60-ipc.conf", "[Login]\nRemoveIPC=yes\n")
    assert look(root, euid=1000)["logind"].level == "warn"


def test_a_missing_helper_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts are made by fusermount3."""
    monkeypatch.setenv("PATH", "/nonexistent")
    finding = look(root)["fusermount3"]
    assert finding.level == "FAIL"
    assert "fuse3" in finding.advice


def test_a_helper_without_its_bit_fails_for_users(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only set-uid root it can mount for them."""
    put(root, "bin/fusermount3", "#!/bin/sh\n")
    (root / "bin/fusermount3").chmod(0o755)
    monkeypatch.setenv("PATH", str(root / "bin"))
    assert look(root, euid=1000)["fusermount3"].level == "FAIL"
    assert look(root, euid=0)["fusermount3"].level == "ok"
    os.chmod(root / "bin/fusermount3", 0o4755)
    assert look(root, euid=1000)["fusermount3"].level == "ok"


def test_broken_libraries_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason is the last line of the interpreter; here they are whole."""
    (fine,) = host_mounting.check_libraries(Host())
    assert fine.level == "ok"
    put(tmp_path, "broken/pyfuse3.py", "raise ImportError('libfuse3.so.3 is missing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    (finding,) = host_mounting.check_libraries(Host())
    assert finding.level == "FAIL"
    assert "(ImportError: libfuse3.so.3 is missing)" in finding.sentence
