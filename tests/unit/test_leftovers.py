"""What mounts have left whose daemon is gone: found in their state, and thrown away."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs import state_layout
from msharefs.daemon import discarding
from msharefs.daemon.discarding import DiscardError, throw_away
from msharefs.daemon.options import parse_options
from msharefs.daemon.state import ENDING_TIME, Config, StateDirectory
from msharefs.inspect.leftovers import left_at, leftovers
from msharefs.memory import shared

OPTIONS = parse_options("size=1M", memory=1 << 30)
PLACE = "/mnt/place"
PAGE = 4096


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where state directories are."""
    monkeypatch.setattr(state_layout, "state_base", lambda: str(tmp_path))
    monkeypatch.setattr(discarding, "state_base", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def prefix() -> Iterator[str]:
    """The beginning of the names of a user's segments, of which two have a page each."""
    start = shared.new_prefix()
    for number in (3, 4):
        Path("/dev/shm", f"{start}{number}").write_bytes(b"x")
    yield start
    for path in Path("/dev/shm").glob(f"{start}*"):
        path.unlink()


def leave(base: Path, prefix: str, *, boot: str | None = None) -> StateDirectory:
    """As a supervisor leaves it that was killed, but for the lock, which goes with `keep`."""
    state = StateDirectory(PLACE, str(base), fresh=False)
    boot = boot or state_layout.boot_id()
    Config("source", PLACE, OPTIONS, False, 1, prefix, boot).save(state.file(state_layout.CONFIG))
    return state


def test_what_is_left_is_found(base: Path, prefix: str) -> None:
    """With its memory."""
    assert leftovers() == []
    state = leave(base, prefix)
    state.keep()
    (left,) = leftovers()
    assert (left.mountpoint, left.source, left.directory) == (PLACE, "source", state.path)
    assert (left.segments, left.memory, left.size) == (2, 2 * PAGE, 1 << 20)
    assert left_at("/mnt/../mnt/place") == left
    assert left_at("/mnt/other") is None


def test_a_mount_that_is_served_has_left_nothing(base: Path, prefix: str) -> None:
    """Its lock is held; to look does not disturb who wants to hold it."""
    state = leave(base, prefix)
    assert leftovers() == []
    state.keep()
    assert len(leftovers()) == 1
    again = StateDirectory(PLACE, str(base), fresh=False)
    assert again.left is not None
    again.keep()


def test_what_is_no_state_is_passed_over(base: Path, prefix: str) -> None:
    """Of another boot, half made, damaged, or with a name for its memory that is none of ours."""
    leave(base, prefix, boot="another").keep()
    (base / "half").mkdir()
    (base / "damaged").mkdir()
    (base / "damaged" / "config.json").write_text("[")
    assert leftovers() == []
    leave(base, "../../etc/").keep()
    assert leftovers() == []


def test_a_base_of_somebody_else_is_not_believed(
    base: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In /tmp it may be anybody's."""
    leave(base, prefix).keep()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert leftovers() == []


def test_it_is_thrown_away(base: Path, prefix: str) -> None:
    """Memory and state; the second time there is nothing."""
    leave(base, prefix).keep()
    assert throw_away(PLACE)
    assert leftovers() == []
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))
    assert not base.exists() or not list(base.iterdir())
    assert not throw_away(PLACE)


def test_what_is_served_is_not_thrown_away(
    base: Path, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds it keeps all of it."""
    assert ENDING_TIME > 0
    monkeypatch.setattr("msharefs.daemon.state.ENDING_TIME", 0.0)
    state = leave(base, prefix)
    with pytest.raises(DiscardError, match="is served"):
        throw_away(PLACE)
    assert len(list(Path("/dev/shm").glob(f"{prefix}*"))) == 2
    state.keep()


def test_a_lock_that_is_asked_for_is_not_taken(base: Path, prefix: str) -> None:
    """Two that look at once do not take each other for the daemon."""
    state = leave(base, prefix)
    state.keep()
    with open(state.file(state_layout.LOCK), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not state_layout.is_locked(state.path)
        assert len(leftovers()) == 1
