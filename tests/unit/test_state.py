"""State directories: their names, who may hold one, and what an earlier mount left there.

In a directory of the test's own; the mounting of an arena is tried in test_memory.py.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs.daemon import state as state_module
from msharefs.daemon.options import parse_options
from msharefs.daemon.state import (
    DEVICES,
    HANDLES,
    INIT,
    JOURNAL,
    Config,
    InUseError,
    StateDirectory,
    is_held,
    read_devices,
    state_name,
)
from msharefs.state_layout import CONFIG, boot_id, state_base

MOUNTPOINT = "/mnt/shared regions"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is about to let go of a lock here."""
    monkeypatch.setattr(state_module, "ENDING_TIME", 0.05)


@pytest.fixture
def base(tmp_path: Path) -> str:
    """Where the state directories are; not there yet."""
    return str(tmp_path / "state")


def config(boot: str = "") -> Config:
    """A configuration with something in every field."""
    options = parse_options(
        "size=1G,rw,nosuid,mpol=bind:0,x-msharefs.without=resend", memory=1 << 33, testing=True
    )
    return Config("source", MOUNTPOINT, options, True, 4321, "private", boot or boot_id())


# Names


@pytest.mark.parametrize(
    ("mountpoint", "name"),
    [
        ("/mnt", "mnt"),
        ("/mnt/a/b.c_D9", "mnt-a-b.c_D9"),
        ("/mnt/a-b", r"mnt-a\x2db"),
        ("/mnt/a b", r"mnt-a\x20b"),
        ("/mnt/\N{SNOWMAN}", r"mnt-\xe2\x98\x83"),
        (os.fsdecode(b"/mnt/\xff\n"), r"mnt-\xff\x0a"),
        ("/", "-"),
        ("/mnt/", "mnt"),
    ],
)
def test_names_are_readable(mountpoint: str, name: str) -> None:
    """As systemd-escape --path makes them."""
    assert state_name(mountpoint) == name


def test_long_names_end_in_a_digest() -> None:
    """They fit into a file name, and differ where only their ends do."""
    one, other = ("/" + "x" * 1000 + end for end in ("a", "b"))
    assert len(state_name(one)) == 200
    assert state_name(one) != state_name(other)
    assert state_name(one)[:160] == "x" * 160


paths = st.lists(st.text("ab-. \\/x2d", min_size=1, max_size=8), min_size=1, max_size=3).map(
    lambda parts: "/" + "/".join(part.replace("/", "") or "a" for part in parts)
)


@given(paths, paths)
def test_names_of_two_paths_differ(one: str, other: str) -> None:
    """Whatever signs they are made of."""
    assert (state_name(one) == state_name(other)) == (one == other)


def test_the_root_is_no_name_that_a_path_could_have() -> None:
    """ "/-" is another mount point than "/"."""
    assert state_name("/-") != state_name("/")


def test_where_the_directories_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root's in /run, a user's where his session's files are, or in a directory of his own."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert state_base() == "/run/msharefs"
    monkeypatch.setattr(os, "geteuid", lambda: 123456)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert state_base() == str(tmp_path / "msharefs")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert state_base() == "/tmp/msharefs-123456"


# Who holds it


def test_a_directory_is_for_its_owner_alone(base: str) -> None:
    """Mode 0700, whatever the umask, and so is the one above."""
    old = os.umask(0)
    try:
        state = StateDirectory(MOUNTPOINT, base, fresh=False)
    finally:
        os.umask(old)
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (base, state.path)]
    assert modes == [0o700, 0o700]
    assert os.path.basename(state.path) == state_name(MOUNTPOINT)
    state.remove()


def test_only_one_may_hold_it(base: str) -> None:
    """InUseError for a second one; another mount point has another directory."""
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert is_held(MOUNTPOINT, base)
    with pytest.raises(InUseError):
        StateDirectory(MOUNTPOINT, base, fresh=False)
    with pytest.raises(InUseError):
        StateDirectory(MOUNTPOINT, base, fresh=True)
    other = StateDirectory("/mnt/other", base, fresh=False)
    other.remove()
    state.remove()


def test_nobody_holds_what_is_not_there(base: str) -> None:
    """Neither before nor after; asking makes nothing."""
    assert not is_held(MOUNTPOINT, base)
    assert not os.path.exists(base)
    StateDirectory(MOUNTPOINT, base, fresh=False).remove()
    assert not is_held(MOUNTPOINT, base)


def test_removing_leaves_nothing(base: str) -> None:
    """The directory above goes with the last one."""
    one = StateDirectory("/one", base, fresh=False)
    other = StateDirectory("/other", base, fresh=False)
    Path(one.file(JOURNAL)).write_bytes(b"x")
    one.remove()
    assert os.listdir(base) == ["other"]
    other.remove()
    assert not os.path.exists(base)


def test_it_is_taken_when_its_holder_lets_go(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """umount returns before the daemon has ended, and the next mount comes at once: it
    waits, and makes the directory again that the daemon removes last."""
    monkeypatch.setattr(state_module, "ENDING_TIME", 10)
    holder = StateDirectory(MOUNTPOINT, base, fresh=False)
    looks = iter([None, None, holder.remove])

    def look(seconds: float) -> None:
        let_go = next(looks)
        if let_go is not None:
            let_go()

    monkeypatch.setattr(time, "sleep", look)
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert list(looks) == []
    assert is_held(MOUNTPOINT, base)
    assert os.path.isdir(state.path)
    state.remove()
    assert not os.path.exists(base)


def test_many_take_turns(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes the directory away at his end takes nothing from the one who comes."""
    monkeypatch.setattr(state_module, "ENDING_TIME", 60)
    monkeypatch.setattr(state_module, "ENDING_LOOK", 0)
    holders: list[int] = []

    def hold(number: int) -> list[int]:
        state = StateDirectory(MOUNTPOINT, base, fresh=False)
        holders.append(number)
        seen = list(holders)
        holders.remove(number)
        state.remove()
        return seen

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(hold, range(1000))) == [[number] for number in range(1000)]
    assert not os.path.exists(base)


def test_removing_what_is_gone(base: str) -> None:
    """Those who clean directories for temporary files may have been there before."""
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    shutil.rmtree(base)
    state.remove()
    assert not os.path.exists(base)


def test_a_directory_of_somebody_else_is_not_used(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that he made in /tmp to wait for us."""
    os.mkdir(base)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(PermissionError):
        StateDirectory(MOUNTPOINT, base, fresh=False)
    assert os.listdir(base) == []


# What is left


@pytest.fixture
def left(base: str) -> str:
    """The directory of a mount that was killed, with all its files."""
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    config().save(state.file(CONFIG))
    for name in (JOURNAL, HANDLES, INIT):
        Path(state.file(name)).write_bytes(name.encode())
    state.keep()
    return state.path


def test_what_was_kept_is_found(base: str, left: str) -> None:
    """The configuration, the journal and the counts; the connection is a new one."""
    assert not is_held(MOUNTPOINT, base)
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert state.left == config()
    assert sorted(os.listdir(left)) == sorted([CONFIG, HANDLES, JOURNAL, "lock"])
    assert Path(state.file(JOURNAL)).read_bytes() == JOURNAL.encode()
    state.remove()


def test_a_holder_that_was_killed_holds_no_more(base: str) -> None:
    """The lock dies with the process."""
    program = (
        "import os, signal, sys\n"
        "from msharefs.daemon.state import StateDirectory\n"
        "StateDirectory(sys.argv[1], sys.argv[2], fresh=False)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, MOUNTPOINT, base]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -9
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert state.left is None
    state.remove()


def test_fresh_discards_what_was_kept(base: str, left: str) -> None:
    """-o fresh: as if nothing had been there."""
    state = StateDirectory(MOUNTPOINT, base, fresh=True)
    assert (state.left, state.discarded) == (None, config())
    state.clear()
    assert os.listdir(left) == ["lock"]
    state.remove()


def test_what_was_on_its_way_out_is_discarded(base: str, left: str) -> None:
    """A supervisor that was killed while it took a mount down had said that it does."""
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    state.end()
    state.keep()
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert (state.left, state.discarded) == (None, config())
    state.remove()


def test_a_configuration_is_written_whole_or_not_at_all(
    base: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it is written again, the supervisor leaves the one before."""

    def killed(_old: str, _new: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        config("another boot").save(os.path.join(left, CONFIG))
    monkeypatch.undo()
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert state.left == config()
    state.remove()


def test_what_was_kept_before_a_boot_is_discarded(base: str, left: str) -> None:
    """Its memory went with the machine's."""
    config("another boot").save(os.path.join(left, CONFIG))
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert (state.left, state.discarded) == (None, None)
    state.remove()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "5",
        "[]",
        '"text"',
        "{}",
        '{"options": 5}',
        '{"options": {}}',
        "\x00",
        "\xff",
    ],
)
def test_a_configuration_that_cannot_be_read_is_discarded(
    base: str, left: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged, and the mount begins anew."""
    Path(left, CONFIG).write_bytes(text.encode("latin-1"))
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert state.left is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    state.remove()


def test_a_configuration_comes_back(tmp_path: Path) -> None:
    """Every field, of the types that it had."""
    path = str(tmp_path / "config.json")
    config().save(path)
    loaded = Config.load(path)
    assert loaded == config()
    fields = dataclasses.fields(loaded.options)
    types = {f.name: type(getattr(loaded.options, f.name)) for f in fields}
    assert types == {f.name: type(getattr(config().options, f.name)) for f in fields}


def test_the_boot_has_a_name() -> None:
    """The same word at each look."""
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36


def test_devices_are_noted_as_long_as_the_regions_stay(base: str) -> None:
    """Of each mount that had them, the last one last."""
    state = StateDirectory(MOUNTPOINT, base, fresh=False)
    assert read_devices(state.file(DEVICES)) == []
    state.note_device(60)
    state.keep()
    again = StateDirectory(MOUNTPOINT, base, fresh=False)
    again.note_device(57)
    assert read_devices(again.file(DEVICES)) == [60, 57]
    again.clear()
    assert read_devices(again.file(DEVICES)) == []
    again.remove()
