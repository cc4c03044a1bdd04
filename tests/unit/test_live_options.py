"""Options that change while the mount is in use: who may, what may, and all or none."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from msharefs.daemon import live_options
from msharefs.daemon.live_options import LIVE, LiveOptions, limits_of
from msharefs.daemon.options import parse_options
from msharefs.daemon.remount import flags_of
from msharefs.daemon.state import Config
from msharefs.linux import syscalls
from tests.unit.support.worlds import ALIGN, MIB, PAGE, World, make_world, refused

OPTIONS = "size=64M,nr_inodes=1000,max_region=1T,max_mappings=65530,max_mappings_total=1000000,mode=755,metrics=off"
US = os.geteuid()


@pytest.fixture
def world() -> World:
    """The limits that OPTIONS name."""
    return make_world(max_mappings_total=1_000_000, max_files=16384)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the configuration is kept."""
    return tmp_path / "config.json"


@pytest.fixture
def moves() -> list[str]:
    """An entry for each time that the endpoint moved."""
    return []


@pytest.fixture
def live(world: World, file: Path, moves: list[str]) -> Iterator[LiveOptions]:
    """The options under test; the root logger is put back."""
    options = parse_options(OPTIONS, memory=1 << 33)
    config = Config("none", "/mnt", options, False, 1, "private", "boot")
    config.save(str(file))
    level = logging.getLogger().level
    yield LiveOptions(config, str(file), world.manager, lambda: moves.append("moved"))
    logging.getLogger().setLevel(level)


def change(live: LiveOptions, text: str) -> None:
    """As root does it."""
    ask(live, text.encode(), 12345, proven=True)


def ask(live: LiveOptions, text: bytes, uid: int, *, proven: bool) -> None:
    """What the mount does for a request."""
    trio.run(partial(live.change, text, uid, proven=proven))


def test_what_can_be_changed_is_told_as_mount_has_it(live: LiveOptions) -> None:
    """And can be said again."""
    assert live.text() == (
        f"size={64 * MIB},nr_inodes=1000,max_region={1 << 40},max_mappings=65530,"
        "max_mappings_total=1000000,max_files=16384,user_size=off,user_inodes=off,"
        "user_mappings=off,user_files=off,automap=off,log_level=info,metrics=off"
    )
    before = live.config
    change(live, live.text())
    assert live.config is before


def test_a_change_is_in_effect_and_kept(
    live: LiveOptions, world: World, file: Path, moves: list[str]
) -> None:
    """In core, in the log, and in the configuration that the next server reads."""
    change(live, "size=128M,nr_inodes=0,max_region=4M,max_mappings=7,log_level=error,metrics=:9999")
    options = live.config.options
    assert world.tables.ledger.capacity == 128 * MIB
    assert world.manager.limits == limits_of(options, reserve_always=False)
    assert (options.nr_inodes, options.max_region, options.max_mappings) == (2**31 - 1, 4 * MIB, 7)
    assert logging.getLogger().level == logging.ERROR
    assert moves == ["moved"]
    assert Config.load(str(file)) == live.config
    assert options.mode == 0o755
    change(live, "metrics=off")
    assert moves == ["moved", "moved"]


@pytest.mark.parametrize("name", LIVE)
def test_each_can_be_changed_alone(live: LiveOptions, name: str) -> None:
    """And no other changes with it."""
    values = {"automap": "grow", "log_level": "debug", "metrics": "[::1]:9998"}
    before = dict(word.split("=", 1) for word in live.text().split(","))
    change(live, f"{name}={values.get(name, '32M')}")
    after = dict(word.split("=", 1) for word in live.text().split(","))
    assert {key for key in before if before[key] != after[key]} == {name}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("size=banana", errno.EINVAL),
        ("sizes=1M", errno.EINVAL),
        ("size=\udcff", errno.EINVAL),
        ("mode=1777", errno.EINVAL),
        ("size=128M,mode=1777", errno.EINVAL),
        ("x-msharefs.crash=request_read", errno.EINVAL),
        (f"size={PAGE}", errno.EBUSY),
        (f"log_level=debug,size={PAGE}", errno.EBUSY),
        ("nr_inodes=2,log_level=debug", errno.EBUSY),
    ],
)
def test_refused_as_a_whole(
    live: LiveOptions, world: World, file: Path, moves: list[str], text: str, code: int
) -> None:
    """Nothing has changed, nowhere."""
    world.map(world.region(b"r", ALIGN), 0, 2 * PAGE)
    before = (live.config, world.manager.limits, world.snapshot(), file.read_bytes())
    level = logging.getLogger().level
    with refused(code):
        ask(live, os.fsencode(text), 0, proven=True)
    assert (live.config, world.manager.limits, world.snapshot(), file.read_bytes()) == before
    assert (logging.getLogger().level, moves) == (level, [])


def test_what_is_named_and_not_changed_is_no_matter(live: LiveOptions) -> None:
    """mount -o remount names all that a line of fstab does."""
    change(live, "mode=0755,size=32M,huge=always,nosuid,nofail")
    assert live.config.options.size == 32 * MIB


@pytest.mark.parametrize("privileged", [False, True])
def test_who_may(
    live: LiveOptions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    privileged: bool,
) -> None:
    """Whoever mounted it as a user; and where root did, CAP_SYS_ADMIN, not the name of root."""
    monkeypatch.setattr(live_options, "is_privileged", lambda: privileged)
    with refused(errno.EPERM):
        ask(live, b"size=32M", US + 1, proven=False)
    assert live.config.options.size == 64 * MIB
    if privileged:
        with refused(errno.EPERM):
            ask(live, b"size=32M", US, proven=False)
    else:
        ask(live, b"size=32M", US, proven=False)
    ask(live, b"size=16M", US + 1, proven=True)
    # A stranger cannot fill the log.
    assert "stay as they are" not in caplog.text


def test_the_log_says_why(live: LiveOptions, caplog: pytest.LogCaptureFixture) -> None:
    """The asker is told an errno alone."""
    with caplog.at_level(logging.INFO):
        with refused(errno.EINVAL):
            change(live, "align=4096")
        assert "options stay as they are: align: fixed while it is mounted" in caplog.text
        change(live, "nr_inodes=500")
    assert "options are now size=" in caplog.text


def test_a_configuration_that_cannot_be_written(
    live: LiveOptions, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk of the state: nothing has changed, or the next server would have other limits."""

    def full(config: Config, path: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    before = (live.config, world.manager.limits, world.snapshot())
    monkeypatch.setattr(Config, "save", full)
    with refused(errno.ENOSPC):
        change(live, "size=128M,nr_inodes=5000,log_level=debug")
    assert (live.config, world.manager.limits, world.snapshot()) == before
    assert logging.getLogger().level != logging.DEBUG


def test_an_address_that_is_taken(live: LiveOptions, moves: list[str]) -> None:
    """Refused, and the old endpoint stays."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with refused(errno.EINVAL):
            change(live, f"metrics=:{port},size=128M")
    assert (live.config.options.metrics, live.config.options.size, moves) == (None, 64 * MIB, [])


@pytest.mark.parametrize(
    ("words", "before", "after"),
    [
        (["ro"], 0, syscalls.MS_RDONLY),
        (["rw"], syscalls.MS_RDONLY | syscalls.MS_NOSUID, syscalls.MS_NOSUID),
        (["ro", "rw", "ro"], 0, syscalls.MS_RDONLY),
        (["nosuid", "nodev", "suid"], 0, syscalls.MS_NODEV),
        (["sync", "async", "noexec"], 0, syscalls.MS_NOEXEC),
        (["relatime", "user_id=0", "size=1G", ""], syscalls.MS_NODEV, syscalls.MS_NODEV),
    ],
)
def test_flags_of_a_remount(words: list[str], before: int, after: int) -> None:
    """The last word counts; what is not named stays."""
    assert flags_of(words, before) == after
