"""mshare run --dry-run: what would happen, with nothing made and nothing run.

Owns the sentences. What may be asked for is run.py's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from msharefs import notation
from msharefs.cli import formatting
from msharefs.inspect import mounts


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would begin with. Sizes in bytes."""

    command: str
    """Where the command was found."""
    obstacle: str | None
    """Why the command itself cannot have its memory in the region, if it cannot."""
    region: str
    region_size: int | None
    """Of a region that is there."""
    min_size: int
    with_segments: bool


def sentences(forecast: Forecast) -> Iterator[str]:
    """One after the other. Raises OSError and InspectError for what is no msharefs."""
    command = formatting.name(forecast.command)
    if forecast.obstacle is None:
        yield f"would run {command} with the library in it"
    else:
        yield f"would run {command}, which cannot have its memory in the region: {forecast.obstacle}"
    region = formatting.name(forecast.region)
    if forecast.region_size is None:
        yield f"would make the region {region}, and remove it at the end"
    else:
        size = notation.size(forecast.region_size)
        yield f"would use the region {region}, which is there, with {size}"
    what = "shared anonymous memory" + (" and segments" if forecast.with_segments else "")
    yield f"would put {what} from {notation.size(forecast.min_size)} on there; the rest is the kernel's"
    yield from _about_the_mount(forecast)


def _about_the_mount(forecast: Forecast) -> Iterator[str]:
    directory = os.path.dirname(forecast.region) or "."
    facts = os.statvfs(directory)
    free, size = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    yield f"{notation.size(free)} of the mount's {notation.size(size)} (size=) are free"
    mount = mounts.mount_of(directory)
    status = mounts.status_or_nothing(mount)
    if status.get("data_plane", {}).get("name") != "paged":
        return
    place = f"{formatting.name(mount.path)} is in the paged data plane"
    if status.get("direct_for") != "claimants":
        yield f"page tables would not be small: {place}"
    elif forecast.with_segments or forecast.region_size is not None:
        advice = "data=direct, or without --shm and a region of one's own, they would be"
        yield f"page tables would not be small: {place}; with {advice}"
