"""The systemd unit: systemd accepts it, and what it must not contain is not in it."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.helpers import mount
from tests.helpers.fixtures import MakeMount
from tests.survival.test_gap import ask_for_another_server

UNIT = mount.ROOT / "packaging" / "msharefs@.service"
COMMAND = "/usr/local/bin/msharefs-mount"
OWN_NAMESPACE = (
    "PrivateTmp",
    "PrivateDevices",
    "PrivateMounts",
    "ProtectSystem",
    "ProtectHome",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectProc",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "TemporaryFileSystem",
    "BindPaths",
    "MountFlags",
)


@pytest.fixture(scope="module")
def service() -> configparser.SectionProxy:
    """The unit's [Service] section; of settings that come twice the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=["="])
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """systemd-analyze verify finds nothing to complain about. Where the command is installed
    is a matter of the machine, so that one that is here stands in for it."""
    text = UNIT.read_text()
    assert f"ExecStart={COMMAND} " in text
    (tmp_path / UNIT.name).write_text(text.replace(COMMAND, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "msharefs@mnt-regions.service")],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        timeout=30,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "msharefs@" in line]
    assert (done.returncode, complaints) == (0, [])


def test_nothing_hides_the_mount(service: configparser.SectionProxy) -> None:
    """Settings that give the service a mount namespace would keep its mount there, so that it
    is made in the machine's. None of them hides what somebody may have mounted below."""
    own = [name for name in OWN_NAMESPACE if name in service]
    assert own
    assert "-N /proc/1/ns/mnt" in service["ExecStart"]
    assert "PrivateTmp" not in service
    assert service["ProtectHome"] == "read-only"


def test_restart_and_stop_reach_the_supervisor(service: configparser.SectionProxy) -> None:
    """Reload is SIGHUP to the supervisor, stop is SIGTERM to it alone, and its death is
    followed by another mount of the same place."""
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure"
    assert "CAP_SYS_ADMIN" in UNIT.read_text()


@pytest.mark.mount
def test_systemd_is_told(make_mount: MakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    """READY=1 when the mount answers, RELOADING=1 and READY=1 around a new server, STOPPING=1
    at the end, each with a STATUS where it helps."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(b"")
        manager.settimeout(20)
        name = manager.getsockname()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:].decode())
        mounted = make_mount("size=16M")
        assert manager.recv(4096).decode().split("\n") == [
            "READY=1",
            f"STATUS=serving {mounted.path}",
        ]
        ask_for_another_server(mounted)
        reloading = manager.recv(4096).decode().split("\n")
        assert reloading[0] == "RELOADING=1"
        assert reloading[1].startswith("MONOTONIC_USEC=")
        assert manager.recv(4096).decode().split("\n")[0] == "READY=1"
        assert mount.unmount(mounted.path).returncode == 0
        assert manager.recv(4096) == b"STOPPING=1"
        assert mounted.process.wait(mount.STOP_SECONDS) == 0
