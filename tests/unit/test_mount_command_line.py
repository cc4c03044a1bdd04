"""msharefs-mount's command line, as a person writes it and as mount(8) does."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from msharefs import __version__
from msharefs.cli import mount_help
from msharefs.cli.mount import main, mount_request, parse_command_line
from msharefs.daemon.option_values import UsageError
from msharefs.daemon.options import _PARSERS, SWITCHES
from msharefs.daemon.startup import MountRequest


def requested(words: list[str]) -> MountRequest:
    """The mount that these words ask for."""
    return mount_request(parse_command_line(words))


def test_source_and_mountpoint(tmp_path: Path) -> None:
    """Enough for a mount with all defaults, in the background."""
    request = requested(["msharefs", str(tmp_path)])
    assert (request.source, request.mountpoint) == ("msharefs", str(tmp_path))
    assert (request.foreground, request.options.data) == (False, "auto")


@pytest.mark.parametrize("flag", ["-f", "--foreground"])
def test_foreground(flag: str) -> None:
    """Before or after the words."""
    assert requested([flag, "none", "/"]).foreground
    assert requested(["none", "/", flag]).foreground


def test_options_add_up() -> None:
    """Several -o are one list."""
    request = requested(["none", "/", "-o", "size=1G,rw", "-omode=700"])
    options = request.options
    assert (options.size, options.mode, options.passed_on) == (1 << 30, 0o700, ("rw",))


def test_the_line_of_mount_8(tmp_path: Path) -> None:
    """`mount -t fuse.msharefs-mount` and an fstab line call the helper so."""
    words = ["msharefs", str(tmp_path), "-sfnv", "-o", "rw,nosuid,_netdev", "-t", "fuse.x"]
    request = requested(words)
    assert request.mountpoint == str(tmp_path)
    assert request.options.passed_on == ("rw", "nosuid")


def test_sloppy_ignores_unknown_options() -> None:
    """mount -s: what is unknown, and what others know and cannot be had; not a bad value."""
    for word in ("what=ever", "auto_unmount", "x-msharefs.crash=request_read"):
        assert requested(["none", "/", "-s", "-o", word]) == requested(["none", "/"])
    with pytest.raises(UsageError, match="'size'"):
        requested(["none", "/", "-s", "-o", "size=what"])


def test_help_lists_every_option_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    """In 80 columns, with what it is for."""
    with pytest.raises(SystemExit) as ended:
        parse_command_line(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    listed = {
        word.strip().partition("=")[0]
        for _title, options in mount_help.GROUPS
        for names, _words in options
        for word in names.split(",")
    }
    assert set(_PARSERS) | SWITCHES <= listed
    for title, options in mount_help.GROUPS:
        assert f"\n  {title}:\n" in text
        for names, words in options:
            assert any(names in line and words in line for line in text.splitlines())
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("program", ["/sbin/mount.msharefs", "mount.fuse.msharefs"])
def test_fake_as_mount_8_says_it(program: str) -> None:
    """To a helper -f is --fake, alone or among other letters; to a person the foreground."""
    for flag in ("-f", "-sf", "-sfnv"):
        line = parse_command_line(["none", "/", flag], program=program)
        assert (line.dry_run, line.foreground) == (True, False)
        line = parse_command_line(["none", "/", flag], program="/usr/bin/msharefs-mount")
        assert (line.dry_run, line.foreground) == (False, True)
    assert not parse_command_line(["none", "/", "-v"], program=program).dry_run


def test_a_mount_namespace() -> None:
    """mount -N leaves the entering to its helper."""
    assert parse_command_line(["none", "/", "-N", "/proc/1/fd/3"]).namespace == "/proc/1/fd/3"
    assert parse_command_line(["none", "/"]).namespace is None


def test_fsname_is_the_source() -> None:
    """As in libfuse's file systems; the last word counts."""
    assert requested(["none", "/", "-o", "fsname=this"]).source == "this"
    assert requested(["none", "/"]).source == "none"


def test_private_options_take_the_environment_of_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """MSHAREFS_TESTING=1, and nothing else, lets a command line name them."""
    words = ["none", "/", "-o", "x-msharefs.crash=request_read"]
    for said in (None, "", "0", "yes"):
        monkeypatch.delenv("MSHAREFS_TESTING", raising=False)
        if said is not None:
            monkeypatch.setenv("MSHAREFS_TESTING", said)
        with pytest.raises(UsageError, match="for the tests alone"):
            requested(words)
    monkeypatch.setenv("MSHAREFS_TESTING", "1")
    assert requested(words).options.crash == "request_read"


def test_links_in_the_mount_point_are_followed(tmp_path: Path) -> None:
    """/proc/mounts shows the real path, and umount looks for it there."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    request = requested(["none", str(tmp_path / "link" / ".." / "link")])
    assert request.mountpoint == str(tmp_path / "real")


def test_a_relative_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute from here on: the daemon goes to another directory."""
    monkeypatch.chdir(tmp_path)
    assert requested(["none", "here"]).mountpoint == os.path.join(tmp_path, "here")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["none"],
        ["none", "/", "/tmp"],
        ["none", "/", "--what"],
        ["none", "/", "--fore"],
        ["none", "/", "-x"],
        ["none", "/", "-o"],
        ["none", "/", "-o", "what=ever"],
        ["none", "/", "-o", "size=x"],
    ],
)
def test_mistakes_are_usage_errors(words: list[str]) -> None:
    """One sentence, no traceback, no exit from within; no word is guessed from a part."""
    with pytest.raises(UsageError) as caught:
        requested(words)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("flag", "text"), [("-V", __version__), ("--version", __version__)])
def test_version(flag: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, and nothing else is needed."""
    with pytest.raises(SystemExit) as caught:
        requested([flag])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"msharefs {text}\n")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; what mount(8) alone uses is not shown."""
    with pytest.raises(SystemExit) as caught:
        requested(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert "mountpoint" in shown
    assert "--verbose" not in shown


def test_a_mistake_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1 and one line on stderr; nothing is mounted."""
    monkeypatch.setattr(sys, "argv", ["msharefs-mount", "none", "/", "-o", "siz=1G"])
    assert main() == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == ("msharefs-mount: unknown option 'siz'; the nearest known one is 'size'\n")


def test_a_mount_point_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 32, as mount(8) has it, and one line."""
    missing = tmp_path / "missing"
    monkeypatch.setattr(sys, "argv", ["msharefs-mount", "none", str(missing)])
    assert main() == 32
    assert capsys.readouterr().err == f"msharefs-mount: {missing} is not a directory\n"
