"""Where segments are kept: what an earlier mount left there is taken up or thrown away."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.daemon import backing
from msharefs.daemon.backing import discard, make_backing
from msharefs.daemon.options import parse_options
from msharefs.daemon.state import Config, StateDirectory
from msharefs.memory import shared
from msharefs.state_layout import CONFIG, boot_id

OPTIONS = parse_options("size=1M", memory=1 << 30, sloppy=False)


@pytest.fixture
def segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """One that a user's mount left when its supervisor was killed."""
    monkeypatch.setattr(backing, "is_privileged", lambda: False)
    prefix = shared.new_prefix()
    state = StateDirectory("/mnt/place", str(tmp_path), fresh=False)
    Config("msharefs", "/mnt/place", OPTIONS, False, 1, prefix, boot_id()).save(state.file(CONFIG))
    state.keep()
    path = Path("/dev/shm", f"{prefix}{uuid.uuid4().int % 1000 + 3}")
    path.write_bytes(b"kept")
    yield path
    path.unlink(missing_ok=True)


def test_segments_are_taken_up(tmp_path: Path, segment: Path) -> None:
    """The next mount has them under the same names."""
    state = StateDirectory("/mnt/place", str(tmp_path), fresh=False)
    address = make_backing(state, OPTIONS).address
    assert segment.name.startswith(address)
    assert segment.read_bytes() == b"kept"
    state.remove()


def test_fresh_removes_the_segments(tmp_path: Path, segment: Path) -> None:
    """-o fresh of an ordinary user: their memory is free, and no name of them is used again."""
    state = StateDirectory("/mnt/place", str(tmp_path), fresh=True)
    discard(state)
    address = make_backing(state, OPTIONS).address
    assert not segment.name.startswith(address)
    assert not segment.exists()
    assert os.listdir(state.path) == ["lock"]
    state.remove()
