"""The state directory of a mount: its name, its lock, and the configuration in it.

Owns /run/msharefs/NAME: who may hold it (one supervisor, by a lock that dies with it),
and what a supervisor that was killed left there. The arena in it is memory's.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from typing import Any, Self

from msharefs.daemon.options import MountOptions
from msharefs.linux import syscalls
from msharefs.state_layout import ARENA, CONFIG, LOCK, boot_id, is_locked

log = logging.getLogger(__name__)

INIT, JOURNAL, HANDLES, LOG = "init", "journal.sqlite", "handles", "log"
REQUESTS, IN_SERVICE, ENDED, DEVICES = "requests", "in-service", "ended", "devices"
"""The files of a state directory. INIT is the kernel's first request, which it does not
send again to a new server; REQUESTS are those that a server has read and not answered;
IN_SERVICE tells which it was working on; ENDED says that the regions are being thrown away; DEVICES has
the device number (st_dev) of each mount that had these regions, the last one's last."""
LONGEST_NAME = 200
ENDING_TIME, ENDING_LOOK = 3.0, 0.02
"""Seconds that a daemon whose mount is gone gets to end, and between looks."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.")


class InUseError(Exception):
    """Another supervisor holds the state directory."""


@dataclass(frozen=True, slots=True)
class Config:
    """All that a server needs to know of its mount. `arena` is how the backing says
    where the segments are (backing.py)."""

    source: str
    mountpoint: str
    options: MountOptions
    foreground: bool
    supervisor: int
    arena: str
    boot: str

    def save(self, path: str) -> None:
        """Write it as JSON, whole or not at all. Raises OSError."""
        write_whole(path, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, path: str) -> Self:
        """Read what `save` wrote. Raises OSError, or ValueError, TypeError or KeyError where it is
        something else."""
        with open(path, encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
        options = values.pop("options")
        for name in ("passed_on", "without", "metrics"):
            if options[name] is not None:
                options[name] = tuple(options[name])
        return cls(options=MountOptions(**options), **values)


class StateDirectory:
    """A locked state directory. It ends by `remove`, or by `keep` for a later mount.

    `left` is what an earlier mount left to be taken up, `discarded` what it left to be
    thrown away: with `fresh`, or because it came to its end, but not all the way.
    """

    def __init__(self, mountpoint: str, base: str, *, fresh: bool) -> None:
        """Make the directory of a mount point, or take over what a supervisor that died
        left there. Raises InUseError or OSError (PermissionError if somebody else owns
        `base`)."""
        self.path = os.path.join(base, state_name(mountpoint))
        self._lock = self._take_lock()
        earlier = self._what_was_left()
        ended = fresh or os.path.exists(self.file(ENDED))
        self.left = None if ended else earlier
        self.discarded = earlier if ended else None
        # The connection that it belonged to is gone.
        with suppress(FileNotFoundError):
            os.unlink(self.file(INIT))

    @property
    def arena(self) -> str:
        """Where the arena's tmpfs is mounted."""
        return os.path.join(self.path, ARENA)

    def file(self, name: str) -> str:
        """The path of one of the files."""
        return os.path.join(self.path, name)

    def keep(self) -> None:
        """Leave all for a later mount."""
        os.close(self._lock)

    def note_device(self, number: int) -> None:
        """The regions are on a mount with this device number now. Raises OSError."""
        with open(self.file(DEVICES), "a", encoding="ascii") as file:
            file.write(f"{number}\n")

    def end(self) -> None:
        """From now on nothing of it will be taken up, even if we are killed meanwhile."""
        with open(self.file(ENDED), "wb"):
            pass

    def clear(self) -> None:
        """Take away the arena, which frees its memory, and the files, but not the lock."""
        if os.path.isdir(self.arena):
            _unmount_all(self.arena)
            os.rmdir(self.arena)
        # The mark goes last.
        for name in sorted(os.listdir(self.path), key=lambda name: name == ENDED):
            if name != LOCK:
                os.unlink(self.file(name))

    def remove(self) -> None:
        """Take away everything, and let go of it."""
        # A cleaner of old files may have been here before.
        with suppress(FileNotFoundError):
            self.clear()
            os.unlink(self.file(LOCK))
        # The next mount may have made its lock already, and others may have theirs beside it.
        with suppress(OSError):
            os.rmdir(self.path)
            os.rmdir(os.path.dirname(self.path))
        os.close(self._lock)

    def _take_lock(self) -> int:
        """umount returns before the daemon has ended, and a mount may follow at once: whatever the
        daemon takes away at its end is made again."""
        deadline = time.monotonic() + ENDING_TIME
        while (fd := self._lock_it()) is None:
            if time.monotonic() > deadline:
                raise InUseError(self.path)
            time.sleep(ENDING_LOOK)
        return fd

    def _lock_it(self) -> int | None:
        """None where somebody else holds the lock, or is just taking it away."""
        with suppress(BlockingIOError, FileNotFoundError), ExitStack() as undo:
            self._make()
            fd = os.open(self.file(LOCK), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(self.file(LOCK)), os.fstat(fd)):
                undo.pop_all()
                return fd
        return None

    def _make(self) -> None:
        """The directory, and the one above. Raises OSError: FileNotFoundError where somebody is
        just taking that away, PermissionError where it is somebody else's."""
        base = os.path.dirname(self.path)
        with suppress(FileExistsError):
            os.makedirs(base, mode=0o700)
        if os.lstat(base).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to somebody else", base)
        with suppress(FileExistsError):
            os.mkdir(self.path, mode=0o700)

    def _what_was_left(self) -> Config | None:
        """The configuration of an earlier mount whose memory is here still."""
        try:
            config = Config.load(self.file(CONFIG))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            log.exception("%s cannot be read and is set aside", self.file(CONFIG))
            return None
        return config if config.boot == boot_id() else None


def read_devices(path: str) -> list[int]:
    """The device numbers in a file DEVICES, the present one last; none without the file."""
    try:
        with open(path, encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return []


def is_held(mountpoint: str, base: str) -> bool:
    """Whether a supervisor holds the state directory of a mount point."""
    return is_locked(os.path.join(base, state_name(mountpoint)))


def write_whole(path: str, content: bytes) -> None:
    """Write a file that is there with all of its content or as it was before, even if we are
    killed meanwhile."""
    draft = f"{path}.draft"
    with open(draft, "wb") as file:
        file.write(content)
    os.replace(draft, path)


def state_name(mountpoint: str) -> str:
    """A file name for an absolute path, readable as systemd-escape --path makes it; a long
    one ends in a digest."""
    raw = os.fsencode(mountpoint).strip(b"/")
    if not raw:
        return "-"
    name = "".join(
        "-" if byte == ord("/") else chr(byte) if chr(byte) in _PLAIN else f"\\x{byte:02x}"
        for byte in raw
    )
    if len(name) <= LONGEST_NAME:
        return name
    return name[: LONGEST_NAME - 33] + "-" + hashlib.sha256(raw).hexdigest()[:32]


def _unmount_all(directory: str) -> None:
    """A tmpfs may be there more than once after a crash in between."""
    while True:
        try:
            syscalls.umount(directory, syscalls.MNT_DETACH)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # not a mount point
            raise
