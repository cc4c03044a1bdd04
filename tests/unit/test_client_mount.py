"""Which directory is the default, told from the environment or from a table of mounts."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import msharefs
from msharefs.client import mount


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of mounts that stands in for that of the kernel; no variable is set."""
    path = tmp_path / "mounts"
    monkeypatch.setattr(mount, "_MOUNTS", str(path))
    monkeypatch.delenv("MSHAREFS_DIR", raising=False)
    return path


def test_first_mount_that_may_be_entered(table: Path, tmp_path: Path) -> None:
    """Other file systems and directories that are shut or gone are passed over."""
    first, second = tmp_path / "a blank", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    escaped = str(first).replace(" ", "\\040")
    table.write_text(
        f"proc {second} proc rw 0 0\n"
        f"msharefs {tmp_path}/gone fuse.msharefs rw 0 0\n"
        f"msharefs {escaped} fuse.msharefs rw 0 0\n"
        f"msharefs {second} fuse.msharefs rw 0 0\n"
    )
    assert msharefs.default_directory() == str(first)


def test_variable_goes_before_the_mounts(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set, it is taken as it is; empty, it is as good as none."""
    table.write_text("")
    monkeypatch.setenv("MSHAREFS_DIR", "/some/where")
    assert msharefs.default_directory() == "/some/where"
    monkeypatch.setenv("MSHAREFS_DIR", "")
    with pytest.raises(msharefs.NotMounted, match="MSHAREFS_DIR") as caught:
        msharefs.default_directory()
    assert caught.value.errno == errno.ENODEV
