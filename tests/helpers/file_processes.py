"""The processes that have callers' files for a mount, found by their parents and names."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from pathlib import Path

from tests.helpers.mount import Mount
from tests.survival.gap import has_ended


def broker_of(mounted: Mount) -> int | None:
    """The broker of files, if there is one: there is from the first file that was wanted on."""
    found = (child for child in children(mounted.pid) if name_of(child) == "msharefs-files")
    return next(found, None)


def helpers_of(mounted: Mount) -> list[int]:
    """The helpers that run."""
    broker = broker_of(mounted)
    return [] if broker is None else children(broker)


def kill_broker(mounted: Mount) -> None:
    """End it as kill -9 does, and wait for that."""
    broker = broker_of(mounted)
    assert broker is not None
    end(broker)


def end(pid: int) -> None:
    """End a process that is not our child, and wait for it; one that has ended is no error."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        assert select.select([pidfd], [], [], 10)[0]
    finally:
        os.close(pidfd)


def children(pid: int) -> list[int]:
    """Of a process, those that run."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [child for child in found if not has_ended(child)]


def name_of(pid: int) -> str:
    """What a process calls itself; nothing if it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def links_of(pid: int) -> set[str]:
    """What a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found.add(os.readlink(link))
    return found
