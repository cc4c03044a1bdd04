"""A kernel that ends mounts whose server does not answer in time (fs.fuse.default_request_timeout)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.fixtures import MakeMount

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("requires_fuse")]

DEFAULT = Path("/proc/sys/fs/fuse/default_request_timeout")
LONGER = 36.0
"""Seconds. The kernel takes 15 for the least, and looks every 15 (fs/fuse/fuse_i.h)."""


@contextmanager
def system_default(seconds: int) -> Iterator[None]:
    """For mounts that are made meanwhile."""
    before = DEFAULT.read_text()
    DEFAULT.write_text(str(seconds))
    try:
        yield
    finally:
        DEFAULT.write_text(before)


@pytest.mark.slow
@pytest.mark.root_only("sets a sysctl of the machine")
@pytest.mark.skipif(not DEFAULT.exists(), reason="this kernel has no request timeouts (Linux 6.16)")
def test_a_server_that_is_stopped_for_long_goes_on(make_mount: MakeMount) -> None:
    """The system's default would end the mount; a request that waits is answered when the
    server runs again."""
    with system_default(15):
        mounted = make_mount("size=16M")
    (mounted.path / "there").touch()
    answers: list[int] = []
    server = mounted.server_pid
    os.kill(server, signal.SIGSTOP)
    try:
        asking = threading.Thread(
            target=lambda: answers.append(os.statvfs(mounted.path).f_bsize), daemon=True
        )
        asking.start()
        # The time itself is what is tried.
        time.sleep(LONGER)
        assert answers == []
    finally:
        os.kill(server, signal.SIGCONT)
    asking.join(timeout=20)
    assert answers == [4096]
    assert (mounted.path / "there").exists()
