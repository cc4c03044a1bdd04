"""Inodes: what they have in common, and the two kinds that are not regions.

Owns attributes, link, lookup and handle counts, and the order of names in a directory.
Rules about names are in namespace.py, rules about regions in region.py.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from msharefs.abi import PAGE_SIZE

ROOT_INO = 1
INFO_INO = 2
FIRST_FREE_INO = 3


class Automap(StrEnum):
    """Whether what sets a region's size maps all of it, too, and whether it may grow."""

    OFF = "off"
    ON = "on"
    GROW = "grow"


AUTOMAPS = (None, *Automap)
"""With "as the mount says"; in the journal they are told by their places."""


DOT_COOKIES = 2
"""Directory offsets 1 and 2 are "." and ".."; names count from 3."""


class Caller(NamedTuple):
    """Who asks: the thread id and the credentials that the kernel reports."""

    pid: int
    uid: int
    gid: int


class Inode:
    """One object of the file system. Numbers are never used again."""

    __slots__ = (
        "atime_ns",
        "automap",
        "ctime_ns",
        "gid",
        "ino",
        "lookups",
        "mode",
        "mtime_ns",
        "nlink",
        "opens",
        "place",
        "uid",
    )

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now_ns: int) -> None:
        self.ino = ino
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.nlink = 0
        self.lookups = 0
        self.opens = 0
        self.place: tuple[int, bytes] | None = None
        """Where it got its latest name, for messages alone: the directory and the name. The name
        may be gone, and others may be left."""
        # None: as the mount says. What is made in a directory begins with that of the directory.
        self.automap: Automap | None = None
        self.atime_ns = self.mtime_ns = self.ctime_ns = now_ns

    @property
    def size(self) -> int:
        """st_size in bytes: 0 for what has no contents."""
        return 0

    @property
    def blocks(self) -> int:
        """st_blocks: memory in units of 512 bytes."""
        return 0

    @property
    def cacheable(self) -> bool:
        """Whether attributes change only through requests, so that the kernel may keep them."""
        return True

    @property
    def referenced(self) -> bool:
        """Whether a name, the kernel's inode cache or a handle still needs it."""
        return self.nlink > 0 or self.lookups > 0 or self.opens > 0

    @property
    def names(self) -> int:
        """What it takes of `nr_inodes`: itself, and each further name."""
        return 1 if self.is_directory else max(1, self.nlink)

    @property
    def is_directory(self) -> bool:
        """Whether names can be in it."""
        return stat.S_ISDIR(self.mode)


class InfoFile(Inode):
    """mshare_info: the mount's alignment as text, read only, there from the start."""

    __slots__ = ("text",)

    def __init__(self, text: bytes, uid: int, gid: int, now_ns: int) -> None:
        super().__init__(INFO_INO, stat.S_IFREG | 0o444, uid, gid, now_ns)
        self.text = text

    @property
    def size(self) -> int:
        """The length of the text."""
        return len(self.text)


class Entry(NamedTuple):
    """A name in a directory. `cookie` is its place in a listing and never used again."""

    name: bytes
    ino: int
    cookie: int


class Directory(Inode):
    """Names in the order of their making, so that a listing can go on from any cookie
    while names come and go."""

    __slots__ = ("_by_cookie", "_by_name", "_cookies", "_next_cookie", "parent")

    def __init__(self, ino: int, parent: int, mode: int, uid: int, gid: int, now_ns: int) -> None:
        super().__init__(ino, mode, uid, gid, now_ns)
        self.parent = parent
        self.nlink = 2
        self._by_name: dict[bytes, Entry] = {}
        self._by_cookie: dict[int, Entry] = {}
        self._cookies: list[int] = []
        self._next_cookie = DOT_COOKIES + 1

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def size(self) -> int:
        """One page, as other file systems show for a directory."""
        return PAGE_SIZE

    def find(self, name: bytes) -> int | None:
        """The inode number behind `name`, or None."""
        entry = self._by_name.get(name)
        return None if entry is None else entry.ino

    def entry(self, name: bytes) -> Entry:
        """The entry of `name`, which is there."""
        return self._by_name[name]

    def put(self, name: bytes, ino: int) -> None:
        """Add `name`, which is not there, at the end."""
        cookie = self._next_cookie
        entry = Entry(name, ino, cookie)
        self._next_cookie = cookie + 1
        self._by_name[name] = self._by_cookie[cookie] = entry
        self._cookies.append(cookie)

    def put_again(self, entries: list[Entry]) -> None:
        """Fill it, which is empty, with these, at least one, in the order of their cookies."""
        self._by_name = {entry.name: entry for entry in entries}
        self._by_cookie = {entry.cookie: entry for entry in entries}
        self._cookies = list(self._by_cookie)
        self.begin_after(self._cookies[-1])

    def begin_after(self, cookie: int) -> None:
        """Never give a cookie up to this one again: names that had them may be gone."""
        self._next_cookie = max(self._next_cookie, cookie + 1)

    def drop(self, name: bytes) -> None:
        """Take `name`, which is there, out."""
        entry = self._by_name.pop(name)
        del self._by_cookie[entry.cookie]
        if len(self._cookies) > 2 * len(self._by_cookie) + 64:
            # Dropped cookies stay in the list until they are the majority.
            self._cookies = list(self._by_cookie)

    @property
    def end(self) -> int:
        """The last cookie that was given: names that come later get greater ones."""
        return self._next_cookie - 1

    def listing(self, after: int, end: int) -> Iterator[Entry]:
        """Entries whose cookie is greater than `after`, up to `end` and with it, in order.
        Names may come and go between two entries."""
        cookies = self._cookies
        for index in range(bisect_right(cookies, after), bisect_right(cookies, end)):
            entry = self._by_cookie.get(cookies[index])
            if entry is not None:
                yield entry
