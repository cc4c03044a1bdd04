"""Capabilities, the user namespace and logind's settings, on machines made of a few files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msharefs.linux import host

USER = 1000


def put(root: Path, name: str, text: str) -> None:
    """Write one file of the machine."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with logind, and without a setting of it."""
    put(tmp_path, "run/systemd/seats/README", "")
    return tmp_path


@pytest.mark.parametrize(
    ("mask", "ids", "privileged"),
    [
        ("000001ffffffffff", "         0          0 4294967295\n", True),
        ("0000000000200000", "0 0 4294967295\n", True),
        ("00000000a80425fb", "0 0 4294967295\n", False),
        ("000001ffffffffff", "0 1000 1\n", False),
        ("000001ffffffffff", "0 0 1000\n1000 1000 4294966295\n", False),
    ],
)
def test_who_is_privileged(root: Path, mask: str, ids: str, privileged: bool) -> None:
    """CAP_SYS_ADMIN, where user ids are the machine's own."""
    put(root, "proc/self/status", f"Name:\tCapEff: 0\nCapEff:\t{mask}\n")
    put(root, "proc/self/uid_map", ids)
    assert host.is_privileged(str(root)) == privileged


def test_this_machine_can_be_asked() -> None:
    """An ordinary user has no capability."""
    if os.geteuid():
        assert not host.is_privileged()
    assert isinstance(host.has_capability(host.CAP_SYS_ADMIN), bool)


def test_logind_removes_by_default_and_only_of_users(root: Path) -> None:
    """Where it runs; system users are spared."""
    assert host.logind_removes_ipc(USER, str(root))
    assert not host.logind_removes_ipc(0, str(root))
    assert not host.logind_removes_ipc(999, str(root))
    (root / "run/systemd/seats/README").unlink()
    (root / "run/systemd/seats").rmdir()
    assert not host.logind_removes_ipc(USER, str(root))


@pytest.mark.parametrize(
    ("text", "removes"),
    [
        ("[Login]\nRemoveIPC=no\n", False),
        ("[Login]\n  RemoveIPC = Off  \n", False),
        ("[Login]\nRemoveIPC=n\n", False),
        ("[Login]\n#RemoveIPC=no\n; RemoveIPC=no\n", True),
        ("[Manager]\nRemoveIPC=no\n", True),
        ("RemoveIPC=no\n", True),
        ("[Login]\nRemoveIPC=no\nRemoveIPC=perhaps\nRemoveIPC=\n", False),
        ("[Login]\nRemoveIPC=no\nRemoveIPC=1\n", True),
        ("[Login]\nRemoveIPC=\\\n  no\n", False),
        ("[Login]\nXRemoveIPC=no\nRemoveIPCs=no\n", True),
    ],
)
def test_the_settings_are_read_as_systemd_does(root: Path, text: str, removes: bool) -> None:
    """Of its section alone, the last word that is one; what is no word is passed over."""
    put(root, "etc/systemd/logind.conf", text)
    assert host.logind_removes_ipc(USER, str(root)) == removes


NO, YES = "[Login]\nRemoveIPC=no\n", "[Login]\nRemoveIPC=yes\n"


@pytest.mark.parametrize(
    ("files", "removes"),
    [
        ({"usr/lib/systemd/logind.conf": NO}, False),
        ({"usr/lib/systemd/logind.conf": NO, "etc/systemd/logind.conf": "[Login]\n"}, True),
        ({"etc/systemd/logind.conf": YES, "usr/lib/systemd/logind.conf.d/1.conf": NO}, False),
        (
            {
                "usr/lib/systemd/logind.conf.d/50.conf": NO,
                "etc/systemd/logind.conf.d/50.conf": YES,
            },
            True,
        ),
        (
            {
                "run/systemd/logind.conf.d/50.conf": NO,
                "usr/local/lib/systemd/logind.conf.d/50.conf": YES,
            },
            False,
        ),
        (
            {
                "etc/systemd/logind.conf.d/10.conf": YES,
                "usr/lib/systemd/logind.conf.d/60.conf": NO,
            },
            False,
        ),
        ({"etc/systemd/logind.conf.d/10": NO}, True),
    ],
)
def test_drop_ins_have_systemds_precedence(
    root: Path, files: dict[str, str], removes: bool
) -> None:
    """The main file of the strongest directory; drop-ins by name, whatever directory they are
    in; of one name that of the strongest directory."""
    for name, text in files.items():
        put(root, name, text)
    assert host.logind_removes_ipc(USER, str(root)) == removes


def test_a_drop_in_that_is_masked_counts_for_nothing(root: Path) -> None:
    """A link to /dev/null, as systemctl mask makes one."""
    put(root, "usr/lib/systemd/logind.conf.d/50.conf", NO)
    (root / "etc/systemd/logind.conf.d").mkdir(parents=True)
    (root / "etc/systemd/logind.conf.d/50.conf").symlink_to("/dev/null")
    assert host.logind_removes_ipc(USER, str(root))


@pytest.mark.parametrize(
    ("ids", "uid", "outside"),
    [
        ("0 0 4294967295\n", 1000, 1000),
        ("0 1000 1\n", 0, 1000),
        ("0 1000 1\n", 65534, 65534),
        ("0 1000 1\n1 100000 65536\n", 5, 100004),
        ("", 7, 7),
    ],
)
def test_who_a_user_is_outside(root: Path, ids: str, uid: int, outside: int) -> None:
    """By the table of the user namespace; one who is not in it stays who he seems to be."""
    put(root, "proc/self/uid_map", ids)
    assert host.uid_outside(uid, str(root)) == outside
