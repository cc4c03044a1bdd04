"""Directories, names and hard links: which inode a name means, and which change is allowed.

Owns the inode table and the rules of semantics.md under "Names". It knows nothing of
memory or of open files beyond their counts. Each method checks everything first and
then changes, so that a refusal leaves all as it was. Permissions are checked by the
kernel (default_permissions), and so are paths, loops of links and sticky directories.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from msharefs.core.errors import (
    AlreadyExists,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    NotPermitted,
    OutOfInodes,
    TooManyLinks,
)
from msharefs.core.inode import (
    FIRST_FREE_INO,
    INFO_INO,
    ROOT_INO,
    Caller,
    Directory,
    InfoFile,
    Inode,
)
from msharefs.core.quotas import Quotas, Share
from msharefs.core.region import Region

NAME_MAX = 255
LINK_MAX = 65000
LONGEST_WALK = 8192
"""Directories above a place that are looked at: some 10 ms."""
LEVELS_SHOWN = 16
"""Of a path in a message."""

A_NAME = Share(inodes=1)

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


@dataclass(frozen=True, slots=True)
class RootAttributes:
    """Mode bits and owner of the root directory, from the mount options."""

    mode: int = 0o1777
    uid: int = 0
    gid: int = 0


class Namespace:
    """The tree of names over the table of inodes."""

    def __init__(
        self,
        root: RootAttributes,
        *,
        info_name: bytes,
        info_text: bytes,
        nr_inodes: int,
        quotas: Quotas,
        clock: Callable[[], int],
    ) -> None:
        """`quotas` are told of whose the names are."""
        self._clock = clock
        self._quotas = quotas
        self.nr_inodes = nr_inodes
        now = clock()
        top = Directory(ROOT_INO, ROOT_INO, stat.S_IFDIR | root.mode, root.uid, root.gid, now)
        info = InfoFile(info_text, root.uid, root.gid, now)
        # The kernel holds the root for as long as the mount lives, without a look-up.
        top.lookups = 1
        top.put(info_name, INFO_INO)
        info.nlink, info.place = 1, (ROOT_INO, info_name)
        self._inodes: dict[int, Inode] = {ROOT_INO: top, INFO_INO: info}
        # Names of regions beyond the first of each.
        self._further_names = 0
        self._next_ino = FIRST_FREE_INO
        # Who made the last region. Few programs make many, and those are all of one caller.
        self._creator: Caller | None = None
        quotas.add(root.uid, Share(inodes=2))

    def __len__(self) -> int:
        """How many inodes and further names there are, which is what `nr_inodes` limits."""
        return len(self._inodes) + self._further_names

    def get(self, ino: int) -> Inode:
        """The inode with this number. Raises NotFound."""
        inode = self._inodes.get(ino)
        if inode is None:
            raise NotFound(f"no inode {ino}")
        return inode

    def peek(self, ino: int) -> Inode | None:
        """The inode with this number, or None."""
        return self._inodes.get(ino)

    def path_of(self, ino: int) -> bytes | None:
        """A path from the root directory to an inode, for messages; None if it has no name, or
        only some that were given before another one that is gone. What is far down begins with
        "..."."""
        names: list[bytes] = []
        while ino != ROOT_INO:
            inode = self._inodes.get(ino)
            if inode is None or inode.place is None:
                return None
            parent, name = inode.place
            directory = self._inodes.get(parent)
            if not isinstance(directory, Directory) or directory.find(name) != ino:
                return None
            names.append(name)
            if len(names) == LEVELS_SHOWN:
                return b"/".join([b"...", *reversed(names)])
            ino = parent
        return b"/" + b"/".join(reversed(names))

    def nameless(self) -> list[Inode]:
        """Inodes that only handles, mappings or the kernel's cache keep."""
        return [inode for inode in self._inodes.values() if inode.nlink == 0]

    def others(self) -> Iterator[Inode]:
        """All inodes that are no regions."""
        return (inode for inode in self._inodes.values() if not isinstance(inode, Region))

    def restore(self, inodes: dict[int, Inode], *, last_ino: int) -> None:
        """Take the place of what is here: the tree of an earlier process, which gave
        numbers up to `last_ino`."""
        self._inodes = dict(inodes)
        # Links of directories are no names.
        linked = (inode for inode in inodes.values() if inode.nlink > 1)
        self._further_names = sum(inode.names - 1 for inode in linked)
        self._next_ino = max(FIRST_FREE_INO, last_ino + 1, max(inodes) + 1)

    def directory(self, ino: int) -> Directory:
        """The directory with this number. Raises NotFound or NotADirectory."""
        inode = self._inodes.get(ino)
        if not isinstance(inode, Directory):
            raise NotADirectory(f"inode {self.get(ino).ino} is not a directory")
        return inode

    def find(self, parent: int, name: bytes) -> Inode | None:
        """The inode behind a name, or None. Raises NameTooLong."""
        directory = self.directory(parent)
        _check_name(name)
        if name == b".":
            return directory
        if name == b"..":
            return self.get(directory.parent)
        ino = directory.find(name)
        return None if ino is None else self.get(ino)

    def existing(self, parent: int, name: bytes) -> Inode:
        """The inode behind a name. Raises NotFound."""
        inode = self.find(parent, name)
        if inode is None:
            raise NotFound(f"no name {name!r} in directory {parent}")
        return inode

    def new_region(self, parent: int, name: bytes, mode: int, caller: Caller) -> Region:
        """A region for `name`, which is free, not yet in the tree: see `add`."""
        directory = self._check_new(parent, name, caller.uid)
        gid = directory.gid if directory.mode & stat.S_ISGID else caller.gid
        bits = mode & 0o7777
        if caller != self._creator:
            self._creator = caller
        region = Region(self._next_ino, bits, caller.uid, gid, self._clock(), self._creator)
        region.automap = directory.automap
        return region

    def new_directory(self, parent: int, name: bytes, mode: int, caller: Caller) -> Directory:
        """A directory for `name`, which is free, not yet in the tree: see `add`."""
        directory = self._check_new(parent, name, caller.uid)
        gid, bits = caller.gid, stat.S_IFDIR | mode & 0o7777
        if directory.mode & stat.S_ISGID:
            gid, bits = directory.gid, bits | stat.S_ISGID
        made = Directory(self._next_ino, parent, bits, caller.uid, gid, self._clock())
        made.automap = directory.automap
        return made

    def add(self, parent: int, name: bytes, inode: Inode) -> None:
        """Put what new_region or new_directory made into the tree."""
        self._next_ino = inode.ino + 1
        self._inodes[inode.ino] = inode
        self._quotas.add(inode.uid, A_NAME)
        self._attach(self.directory(parent), name, inode)

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """A further name for an inode that is not a directory. It counts for whom the inode
        belongs to."""
        inode = self.get(ino)
        if inode.is_directory or ino == INFO_INO:
            raise NotPermitted(f"inode {ino} takes no further names")
        directory = self._check_new(parent, name, inode.uid)
        if inode.nlink == 0:
            raise NotFound(f"inode {ino} has no name left to link")
        if inode.nlink >= LINK_MAX:
            raise TooManyLinks(f"inode {ino} has {inode.nlink} names")
        self._attach(directory, name, inode)
        return inode

    def unlink(self, parent: int, name: bytes) -> Inode:
        """Take a name that is not a directory's away. Returns what it meant."""
        _check_not_dots(name)
        inode = self.existing(parent, name)
        if inode.is_directory:
            raise IsADirectory(f"{name!r} is a directory")
        _check_not_info(inode)
        self._detach(self.directory(parent), name, inode)
        return inode

    def rmdir(self, parent: int, name: bytes) -> Inode:
        """Take an empty directory away. Returns it."""
        _check_not_dots(name)
        inode = self.existing(parent, name)
        if not isinstance(inode, Directory):
            raise NotADirectory(f"{name!r} is not a directory")
        if len(inode):
            raise DirectoryNotEmpty(f"{name!r} has {len(inode)} names")
        self._detach(self.directory(parent), name, inode)
        inode.nlink = 0
        return inode

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> Inode | None:
        """Move a name, or with RENAME_EXCHANGE swap two. Returns what lost its name, if any."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE) or flags == 3:
            raise InvalidArgument(f"rename flags {flags:#x}")
        _check_not_dots(name)
        _check_not_dots(new_name)
        inode = self.existing(parent, name)
        target = self._rename_target(new_parent, new_name, flags)
        _check_not_info(inode)
        if target is inode:
            return None
        self._check_not_below(inode, parent, new_parent)
        if target is not None:
            if flags & RENAME_EXCHANGE:
                self._check_not_below(target, new_parent, parent)
            else:
                _check_replaceable(inode, target)
        source, goal = self.directory(parent), self.directory(new_parent)
        self._detach(source, name, inode)
        if target is not None:
            self._detach(goal, new_name, target)
        self._attach(goal, new_name, inode)
        if flags & RENAME_EXCHANGE and target is not None:
            self._attach(source, name, target)
            return None
        if isinstance(target, Directory):
            target.nlink = 0
        return target

    def _rename_target(self, parent: int, name: bytes, flags: int) -> Inode | None:
        """What the new name means now, which the flags must allow."""
        target = self.find(parent, name)
        if target is not None:
            _check_not_info(target)
            if flags & RENAME_NOREPLACE:
                raise AlreadyExists(f"{name!r} is there already")
        elif flags & RENAME_EXCHANGE:
            raise NotFound(f"no name {name!r} in directory {parent}")
        else:
            self._living_directory(parent)
        return target

    def drop_unreferenced(self, inode: Inode) -> bool:
        """Forget the inode where nothing needs it any more. Returns whether it went."""
        if inode.referenced:
            return False
        if self._inodes.pop(inode.ino, None) is None:
            return False
        self._quotas.take(inode.uid, A_NAME)
        return True

    def _check_free(self, parent: int, name: bytes) -> Directory:
        if self.find(parent, name) is not None:
            raise AlreadyExists(f"{name!r} is there already")
        return self._living_directory(parent)

    def _living_directory(self, ino: int) -> Directory:
        directory = self.directory(ino)
        if directory.nlink == 0:
            raise NotFound(f"directory {ino} was removed")
        return directory

    def _check_new(self, parent: int, name: bytes, owner: int) -> Directory:
        directory = self._check_free(parent, name)
        if len(self) >= self.nr_inodes:
            raise OutOfInodes(f"nr_inodes={self.nr_inodes} is used up")
        self._quotas.check(owner, A_NAME)
        return directory

    def _check_not_below(self, inode: Inode, parent: int, directory: int) -> None:
        """A directory cannot move from its parent into itself or below.

        Only that of a directory with directories in it takes a walk up. Who is that far down is
        believed that the kernel has looked, as it does (rename(2)), in less time.
        """
        if not isinstance(inode, Directory) or directory == parent:
            return
        above = directory
        for _ in range(LONGEST_WALK):
            if above == inode.ino:
                raise InvalidArgument(f"directory {inode.ino} cannot move below itself")
            if above == ROOT_INO or inode.nlink <= 2:
                return
            above = self.directory(above).parent

    def _attach(self, directory: Directory, name: bytes, inode: Inode) -> None:
        directory.put(name, inode.ino)
        inode.place = (directory.ino, name)
        directory.mtime_ns = directory.ctime_ns = inode.ctime_ns = self._clock()
        if isinstance(inode, Directory):
            inode.parent = directory.ino
            directory.nlink += 1  # its ".."
        else:
            if inode.nlink > 0:
                self._further_names += 1
                self._quotas.add(inode.uid, A_NAME)
            inode.nlink += 1

    def _detach(self, directory: Directory, name: bytes, inode: Inode) -> None:
        directory.drop(name)
        directory.mtime_ns = directory.ctime_ns = inode.ctime_ns = self._clock()
        if isinstance(inode, Directory):
            directory.nlink -= 1
        else:
            inode.nlink -= 1
            if inode.nlink > 0:
                self._further_names -= 1
                self._quotas.take(inode.uid, A_NAME)


def _check_name(name: bytes) -> None:
    if len(name) > NAME_MAX:
        raise NameTooLong(f"a name of {len(name)} bytes")
    # The kernel sends no such name.
    if not name or b"/" in name or b"\0" in name:
        raise InvalidArgument(f"{name!r} is no name")


def _check_not_dots(name: bytes) -> None:
    """They are in no table, so that they cannot go or be replaced. The kernel does not ask."""
    if name in (b".", b".."):
        raise InvalidArgument(f"{name!r} stays")


def _check_not_info(inode: Inode) -> None:
    if inode.ino == INFO_INO:
        raise NotPermitted("mshare_info belongs to the file system")


def _check_replaceable(inode: Inode, target: Inode) -> None:
    """Whether a rename of `inode` may take the name of `target`."""
    if inode.is_directory and not target.is_directory:
        raise NotADirectory("a directory cannot replace a file")
    if target.is_directory and not inode.is_directory:
        raise IsADirectory("a file cannot replace a directory")
    if isinstance(target, Directory) and len(target):
        raise DirectoryNotEmpty(f"the directory to replace has {len(target)} names")
