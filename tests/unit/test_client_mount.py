"""Which directory is the default, told from the environment or from a table of mounts."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import msharefs
from msharefs.linux import mountinfo


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of mounts that stands in for that of the kernel; no variable is set."""
    path = tmp_path / "mounts"
    monkeypatch.setattr(mountinfo, "OWN", str(path))
    monkeypatch.delenv("MSHAREFS_DIR", raising=False)
    return path


def test_first_mount_that_may_be_entered(table: Path, tmp_path: Path) -> None:
    """Other file systems and directories that are shut or gone are passed over."""
    first, second = tmp_path / "a blank", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    escaped = str(first).replace(" ", "\\040")
    table.write_text(
        f"20 1 0:4 / {second} rw - proc proc rw\n"
        f"21 1 0:5 / {tmp_path}/gone rw - fuse.msharefs msharefs rw\n"
        f"22 1 0:6 / {escaped} rw - fuse.msharefs msharefs rw\n"
        f"23 1 0:7 / {second} rw - fuse.msharefs msharefs rw\n"
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
