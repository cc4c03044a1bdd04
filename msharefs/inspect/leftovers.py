"""What mounts have left whose daemon is gone: memory and regions that wait for the next mount.

A supervisor that is killed leaves them on purpose; a place that is given up keeps them until the
next boot. Owns finding them, in the state of the caller's own mounts. It changes nothing.
"""

from __future__ import annotations

import json
import os
import re
import stat
from dataclasses import asdict, dataclass
from typing import Any

from msharefs import state_layout
from msharefs.linux.namespaces import beneath

_SEGMENT_PREFIX = re.compile(r"msharefs-[0-9a-f]+-")


@dataclass(frozen=True, slots=True)
class Leftover:
    """What one mount has left. Bytes."""

    mountpoint: str
    source: str
    directory: str
    """Its state directory."""
    segments: int
    """Regions with memory, unlinked ones that nobody has attached any more among them."""
    memory: int
    size: int
    """What the mount might have used."""

    def document(self) -> dict[str, Any]:
        """The same as plain data, for JSON."""
        return asdict(self)


def leftovers() -> list[Leftover]:
    """Of all mounts of this user that nobody serves, by their mount points."""
    base = state_layout.state_base()
    try:
        # The daemon takes no other's directory either; in /tmp it might be anybody's.
        if os.lstat(base).st_uid != os.geteuid():
            return []
        directories = [os.path.join(base, name) for name in os.listdir(base)]
    except OSError:
        return []
    found = filter(None, map(_left_in, directories))
    return sorted(found, key=lambda left: left.mountpoint)


def left_at(mountpoint: str) -> Leftover | None:
    """Of the mount on that directory, which need not be there any more."""
    place = os.path.realpath(mountpoint)
    return next((left for left in leftovers() if left.mountpoint == place), None)


def _left_in(directory: str) -> Leftover | None:
    try:
        if state_layout.is_locked(directory):
            return None
        with open(os.path.join(directory, state_layout.CONFIG), encoding="utf-8") as file:
            config = json.load(file)
        if config["boot"] != state_layout.boot_id():
            return None  # its memory went with that boot
        names = _segments(directory, config["arena"])
        return Leftover(
            mountpoint=str(config["mountpoint"]),
            source=str(config["source"]),
            directory=directory,
            segments=len(names),
            memory=sum(names.values()),
            size=int(config["options"]["size"]),
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None  # being made or taken away, or none of ours


def _segments(directory: str, address: str) -> dict[str, int]:
    """The segments of a mount by their names, and how much memory each has."""
    if address == state_layout.PRIVATE:
        arena = os.path.join(directory, state_layout.ARENA)
        # The daemon hides it from df by an empty file system over it.
        text = beneath(arena, lambda: json.dumps(_segments_in(arena, "")).encode())
        return dict(json.loads(text))
    if _SEGMENT_PREFIX.fullmatch(address):
        return _segments_in(state_layout.SHM, address)
    raise ValueError(address)


def _segments_in(place: str, prefix: str) -> dict[str, int]:
    found: dict[str, int] = {}
    with os.scandir(place) as entries:
        for entry in entries:
            number = entry.name.removeprefix(prefix)
            if entry.name.startswith(prefix) and number.isdecimal():
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode):
                    found[entry.name] = facts.st_blocks * 512
    return found
