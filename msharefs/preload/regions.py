"""The region of a run: which one may be used, known again after its mount, and removed.

Owns by what a region is known to be the same: its inode, and the process that made it. A mount
that comes up again gives its files another device.
"""

from __future__ import annotations

import os
from contextlib import suppress

from msharefs.client.errors import MshareError
from msharefs.client.region import Region
from msharefs.client.segments import segment_of
from msharefs.preload.run_file import RunFile


def creator_of(region: Region) -> int:
    """The process that made it, as the mount has noted it."""
    return region.layout().creator.pid


def be_first(region: Region, run_file: RunFile) -> None:
    """Have the memory of the region itself, if its mount gives that, before anybody maps its file: the
    processes of the run are told to do the same. It stays so as long as `region` is open, or any
    of them has it. Raises OSError."""
    segment = segment_of(region.fileno())
    run_file.tell_how_it_is_had(direct=segment is not None)
    if segment is not None:
        os.close(segment)


def open_again(run_file: RunFile) -> Region | None:
    """The run's region under its name, and the run told where it is now. None if another file,
    or nothing that answers, has the name."""
    story = run_file.story
    try:
        region = Region.open(story.region)
    except MshareError:
        return None
    status = os.fstat(region.fileno())
    with suppress(OSError):
        if status.st_ino == run_file.region_identity[1] and creator_of(region) == story.creator:
            be_first(region, run_file)
            run_file.region_identity = status.st_dev, status.st_ino
            return region
    region.close()
    return None


def remove(run_file: RunFile) -> None:
    """Take the region's names away, as far as they are still the region's. OSError if one cannot
    go."""
    with suppress(FileNotFoundError):
        os.unlink(name_in_the_making(run_file, run_file.story.region))
    region = open_again(run_file)
    if region is not None:
        with region:
            os.unlink(run_file.story.region)


def name_in_the_making(run_file: RunFile, path: str) -> str:
    """How a region for `path` is called until it is complete: so it is known to be the run's,
    whoever is killed when."""
    return os.path.join(os.path.dirname(path), run_file.name)
