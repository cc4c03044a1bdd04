"""A machine to look at, and what a look at it gives.

Owns how `mshare doctor` reads a machine: with the caller's rights, below one root directory,
changing nothing. What is looked for is in host_mounting and host_memory.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["ok", "warn", "FAIL", "?"]
"""The last is for what could not be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    level: Level
    about: str
    sentence: str
    advice: str = ""


def unseen(about: str, why: str, advice: str = "") -> Finding:
    """What is to be said where nothing can be."""
    return Finding("?", about, f"could not be looked at: {why}", advice)


@dataclass(frozen=True, slots=True)
class Host:
    """Where to look; tests make machines that are not there."""

    root: str = "/"
    release: str = field(default_factory=platform.release)
    euid: int = field(default_factory=os.geteuid)

    def path(self, name: str) -> str:
        """An absolute path on that machine."""
        return os.path.join(self.root, name.lstrip("/"))

    def read(self, name: str) -> str | None:
        """A file's text, or None if it cannot be read."""
        try:
            with open(self.path(name), encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return None

    def is_closed(self, name: str) -> bool:
        """Whether a file or directory is there and the caller may not read it."""
        try:
            os.close(os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    @property
    def kernel(self) -> tuple[int, int]:
        """Major and minor version."""
        match = re.match(r"(\d+)\.(\d+)", self.release)
        return (int(match[1]), int(match[2])) if match else (0, 0)

    @property
    def is_root(self) -> bool:
        """Whether the caller is root, so that passthrough may be had."""
        return self.euid == 0
