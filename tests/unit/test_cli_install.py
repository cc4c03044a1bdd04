"""mshare install: what goes where, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from msharefs.cli import system_files
from tests.cli.tool import mshare
from tests.helpers.mount import ROOT


def files_below(root: Path) -> dict[str, Path]:
    """Everything that is no directory, by its path in the system."""
    return {
        f"/{path.relative_to(root)}": path
        for path in root.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def test_all_is_placed_and_taken_away_again(tmp_path: Path) -> None:
    """Twice, because an upgrade places it once more; directories of ours go, others stay."""
    for _ in range(2):
        mshare("install", "--root", tmp_path).ok()
    placed = files_below(tmp_path)
    assert {
        "/usr/local/bin/mshare",
        "/usr/local/bin/msharefs-mount",
        "/sbin/mount.msharefs",
        "/sbin/mount.fuse.msharefs",
        "/etc/systemd/system/msharefs@.service",
        "/usr/local/include/msharefs/msharefs.h",
        "/usr/local/include/msharefs/linux/msharefs.h",
        "/usr/local/include/msharefs/msharefs_attach.h",
        "/usr/local/share/pkgconfig/msharefs.pc",
        "/usr/local/share/bash-completion/completions/mshare",
        "/usr/local/share/zsh/site-functions/_mshare",
        "/usr/local/share/fish/vendor_completions.d/mshare.fish",
        "/usr/local/share/doc/msharefs/examples/attach.c",
        "/usr/local/share/doc/msharefs/examples/monitoring/alerts.yml",
        "/usr/local/share/doc/msharefs/examples/producer.c",
    } <= placed.keys()
    assert os.readlink(placed["/sbin/mount.msharefs"]) == "/usr/local/bin/msharefs-mount"
    assert os.access(placed["/usr/local/bin/mshare"], os.X_OK)
    header = ROOT / "msharefs" / "include" / "msharefs.h"
    assert placed["/usr/local/include/msharefs/msharefs.h"].read_bytes() == header.read_bytes()
    mshare("install", "--root", tmp_path, "--remove").ok()
    assert files_below(tmp_path) == {}
    assert not list(tmp_path.rglob("*msharefs*"))
    assert (tmp_path / "usr/local/bin").is_dir()


def test_the_prefix_is_in_what_is_placed(tmp_path: Path) -> None:
    """In the unit, for pkg-config, and where packages have things."""
    mshare("install", "--root", tmp_path, "--prefix", "/usr").ok()
    placed = files_below(tmp_path)
    unit = placed["/usr/lib/systemd/system/msharefs@.service"].read_text(encoding="utf-8")
    assert "ExecStart=/usr/bin/msharefs-mount " in unit
    assert "/usr/sbin/mount.msharefs" in placed
    done = subprocess.run(
        ["pkg-config", "--cflags", "msharefs"],
        env={**os.environ, "PKG_CONFIG_PATH": f"{tmp_path}/usr/share/pkgconfig"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["-I/usr/include/msharefs"]


def test_commands_alone(tmp_path: Path) -> None:
    """As make install-helper has it."""
    mshare("install", "--root", tmp_path, "--commands-only").ok()
    assert sorted(map(os.path.basename, files_below(tmp_path))) == [
        "mount.fuse.msharefs",
        "mount.msharefs",
        "mshare",
        "msharefs-mount",
    ]


def test_what_is_somebody_elses_stays(tmp_path: Path) -> None:
    """A command of the same name that is no link of ours."""
    other = tmp_path / "usr/local/bin/mshare"
    other.parent.mkdir(parents=True)
    other.write_text("mine", encoding="utf-8")
    result = mshare("install", "--root", tmp_path, "--commands-only", "--remove").ok()
    assert "is not ours and stays" in result.err
    assert other.read_text(encoding="utf-8") == "mine"


def test_a_refusal_is_a_sentence_that_names_the_file(tmp_path: Path) -> None:
    """Here because a file is where a directory is wanted."""
    (tmp_path / "usr").write_text("", encoding="utf-8")
    assert f"{tmp_path}/usr" in mshare("install", "--root", tmp_path).refused()
    assert "not an absolute path" in mshare("install", "--prefix", "local").refused(2)


def test_what_others_cannot_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command and a helper of an installation below a closed directory, as root's home is: a
    sentence to who cannot run it, and to others what they asked for. The helper keeps its name, by which it
    knows that it is one."""
    closed = tmp_path / "ro'ot"
    interpreter = closed / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    program = closed / "bin" / "msharefs-mount"
    for path in (interpreter, program):
        path.write_text('#!/bin/sh\necho "$0" "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    closed.chmod(0o700)
    found = system_files.closed_to_others()
    assert found is not None
    placed = {}
    for each in system_files.programs("/usr/local", str(closed)):
        placed[each.path] = path = tmp_path / each.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(each, system_files.Link):
            path.symlink_to(each.target)
        else:
            path.write_bytes(
                each.content.replace(b"/usr/local/", f"{tmp_path}/usr/local/".encode())
            )
            path.chmod(each.mode)
    helper = placed["/sbin/mount.msharefs"]

    def run() -> subprocess.CompletedProcess[str]:
        words = [str(helper), "none", "/a b"]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0
    assert done.stdout.split("\n")[0].endswith("/mount.msharefs none /a b")
    interpreter.chmod(0o644)
    done = run()
    assert done.returncode == 1
    assert done.stderr == (
        f"msharefs: you may not run this installation: {closed} is closed to you;"
        " it has to be installed where everybody may run it\n"
    )


def test_what_is_closed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter, a directory on the way to it, the package."""
    place = tmp_path / "some" / "package"
    place.mkdir(parents=True)
    monkeypatch.setattr(system_files, "PACKAGE", Path("/"))
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    assert system_files.closed_to_others() is None
    monkeypatch.setattr(system_files, "PACKAGE", place)
    place.parent.chmod(0o750)
    found = system_files.closed_to_others()
    assert found is not None
    assert found in {str(place.parent), *map(str, tmp_path.parents), str(tmp_path)}


def test_what_others_can_change_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory on the way that everybody may write to, unless it is sticky, as /tmp is."""
    place = tmp_path / "open" / "package"
    place.mkdir(parents=True)
    monkeypatch.setattr(system_files, "PACKAGE", place)
    monkeypatch.setattr(sys, "prefix", "/")
    monkeypatch.setattr(sys, "executable", "/bin/sh")
    before = system_files.changeable_by_others()
    assert before is None or not before.startswith(str(tmp_path))
    if before is None:
        place.parent.chmod(0o777)
        assert system_files.changeable_by_others() == str(place.parent)
