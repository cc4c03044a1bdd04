"""Runs that are over and could not clean up: they are known by their files in /dev/shm.

Owns the search for them. A run is over when the kernel has none of its locks any more: neither
its collector lives nor anybody who has memory of it, wherever that may be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msharefs.client.errors import MshareError
from msharefs.preload import regions
from msharefs.preload.collector import give_all_back
from msharefs.preload.run_file import PREFIX, RunFile, open_existing


def runs_of(parent: Path) -> Iterator[RunFile]:
    """The runs of this user that have a file in `parent`, over or not, open while it is given."""
    for entry in sorted(parent.glob(f"{PREFIX}*")):
        try:
            run_file = open_existing(entry)
        except (OSError, ValueError):
            continue  # another user's, or being made or removed just now
        try:
            yield run_file
        finally:
            run_file.close()


def clean_up(parent: Path) -> None:
    """Take away what runs of this user that are over have left in regions and in `parent`."""
    for run_file in runs_of(parent):
        if run_file.is_alive() or not run_file.claim_alone():
            continue
        with suppress(MshareError, OSError):
            _leave_region(run_file)
        run_file.remove()


def is_in_use(parent: Path, own: RunFile) -> bool | None:
    """Whether another run lives on the same region. None: one is just about to."""
    found: bool | None = False
    for other in runs_of(parent):
        if other.directory == own.directory or other.region_identity != own.region_identity:
            continue
        if other.is_settled():
            return True
        if other.is_alive():
            found = None
    return found


def _leave_region(run_file: RunFile) -> None:
    if not run_file.story.region:
        return
    if run_file.story.made:
        regions.remove(run_file)
        return
    region = regions.open_again(run_file)
    if region is not None:
        with region:
            give_all_back(region, run_file)
