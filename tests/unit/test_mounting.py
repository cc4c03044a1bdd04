"""The conversation with fusermount3, where that does not do its part."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from msharefs.fuse import mounting
from tests.helpers.descriptors import open_descriptors

SENDS = f"""#!{sys.executable}
import os, socket, sys
ours = socket.socket(fileno=int(os.environ["_FUSE_COMMFD"]))
socket.send_fds(ours, [b"x"], [os.open("/", os.O_PATH)])
ours.close()
sys.stdin = None
os.execvp("sleep", ["sleep", "1000"])
"""
"""Mounts, so to speak, and does not end."""


def children() -> str:
    """The processes that this one has started and not waited for; the test run has some, too."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.mark.parametrize("script", ["#!/bin/sh\nexec sleep 1000\n", SENDS])
def test_a_helper_that_does_not_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    """A sentence, and no descriptor or process of it is left."""
    helper = tmp_path / mounting.HELPER
    helper.write_text(script)
    helper.chmod(0o755)
    sleep = shutil.which("sleep")
    assert sleep is not None
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.path.dirname(sleep)}")
    monkeypatch.setattr(mounting, "HELPER_TIMEOUT", 1.0)
    before, left = open_descriptors(), children()
    with pytest.raises(mounting.ChannelError, match="fusermount3 does not come back"):
        mounting.mount("/", "none", [])
    assert open_descriptors() == before
    assert children() == left
