"""Directories: handles on them, and listings, which end.

Owns how a listing goes on from one READDIRPLUS to the next, over RegionManager. A listing
shows what was there when it began: names that come later, by a rename of what was listed,
too, get places behind its end, else a program that renames what it finds would find it
again for ever. All that a listing needs is in its handle and in the offsets that the kernel
hands back, so that it goes on, and ends at the same name, in any process that serves the
mount.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from msharefs.core.errors import NotADirectory
from msharefs.core.inode import DOT_COOKIES, Directory, Inode
from msharefs.core.manager import RegionManager
from msharefs.fuse import messages
from msharefs.fuse.attributes import entry_answer
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header

PLACE_BITS = 40
"""Bits of an offset that hold a name's place: more names than a directory can live to see."""
MOST_LATER = (1 << 63 - PLACE_BITS) - 1
"""The other bits of an offset: how far behind the end of the handle this listing's end is.
From here on it is not known, and the listing ends when there is nothing more to show."""
LISTING_SIZE = 64 << 10
"""Bytes of an answer at most, so that nobody else waits long for a listing."""


class DirectoryHandlers:
    """Handlers for the switchboard. A handle is the directory's end when it was opened."""

    def __init__(self, manager: RegionManager) -> None:
        self._manager = manager

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], bytes]]:
        """Which request each of them answers."""
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
        }

    def opendir(self, header: Header, body: memoryview) -> bytes:
        """OPENDIR: the handle is the place behind the last name that is there now."""
        return messages.encode_open(self._directory(header.nodeid).end, 0)

    def readdirplus(self, header: Header, body: memoryview) -> bytes:
        """READDIRPLUS: names from an offset on, each with its attributes, as many as fit.
        The kernel counts each as a look-up, but not the dots."""
        request = messages.decode_read(body)
        directory = self._directory(header.nodeid)
        place, later = _position(request.offset, request.handle, directory)
        end = directory.end if later == MOST_LATER else request.handle + later
        room = min(request.size, LISTING_SIZE)
        answer = bytearray()
        for name, inode, cookie in self._listing(directory, place, end):
            entry = messages.encode_listed(
                entry_answer(inode), inode.ino, inode.mode, later << PLACE_BITS | cookie, name
            )
            if len(answer) + len(entry) > room:
                break
            answer += entry
            if cookie > DOT_COOKIES:
                inode.lookups += 1
        return bytes(answer)

    def releasedir(self, header: Header, body: memoryview) -> bytes:
        """RELEASEDIR: there is nothing to let go of."""
        return b""

    def _directory(self, ino: int) -> Directory:
        inode = self._manager.getattr(ino)
        if not isinstance(inode, Directory):
            raise NotADirectory(f"inode {ino} is not a directory")
        return inode

    def _listing(
        self, directory: Directory, place: int, end: int
    ) -> Iterator[tuple[bytes, Inode, int]]:
        """Name, inode and cookie of all between two places, the dots first."""
        dots = ((b".", directory.ino, 1), (b"..", directory.parent, DOT_COOKIES))
        for name, ino, cookie in dots:
            if place < cookie:
                yield name, self._manager.getattr(ino), cookie
        for entry, inode in self._manager.listing(directory.ino, place, end):
            yield entry.name, inode, entry.cookie


def _position(offset: int, handle: int, directory: Directory) -> tuple[int, int]:
    """The place that a listing has come to, and how far its end is behind the handle's."""
    if offset:
        return offset & (1 << PLACE_BITS) - 1, offset >> PLACE_BITS
    # It begins, or begins again after rewinddir(3), and shows what is there by now.
    return 0, min(max(0, directory.end - handle), MOST_LATER)
