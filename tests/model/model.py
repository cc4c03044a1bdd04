"""What a mount should be after any sequence of requests: the rules of semantics.md, plainly.

No line of msharefs is used here but the numbers of abi.py. Regions are dicts of pages and
directories dicts of names; nothing is fast, and nothing is clever. Each request has a
method `..._errors`, which gives every errno that a rule would refuse it with (none: it
must succeed), and one that does it. Which of several errnos comes first is not said here.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from msharefs import abi

PAGE = abi.PAGE_SIZE
HUGE = abi.HUGE_PAGE_SIZE
NAME_MAX = 255

NOREPLACE = 1
EXCHANGE = 2

ROOT = 1
INFO = 2

Errors = set[int]


@dataclass
class Limits:
    """What the mount was made with. Sizes in bytes."""

    capacity: int
    align: int
    max_region: int
    max_mappings: int
    nr_inodes: int


@dataclass(frozen=True)
class Piece:
    """What one CREATE_MAPPING put in place; pages with the same piece side by side are one
    mapping."""

    serial: int
    prot: int
    reserve: bool
    huge: bool


@dataclass
class Node:
    """An inode. `lookups` is what the kernel knows of it."""

    ino: int
    mode: int
    uid: int
    gid: int
    nlink: int = 1
    lookups: int = 0
    opens: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether it can hold names."""
        return stat.S_ISDIR(self.mode)


@dataclass
class Folder(Node):
    """A directory."""

    parent: int = ROOT
    names: dict[bytes, int] = field(default_factory=dict)
    removed: bool = False


@dataclass
class Area(Node):
    """A region. `touched` are the pages that have memory of those not reserved, `data` what
    clients wrote to the beginning of a page."""

    size: int | None = None
    pages: dict[int, Piece] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)
    data: dict[int, bytes] = field(default_factory=dict)
    has_segment: bool = False
    maps: int = 0
    unmaps: int = 0

    def runs(self) -> Iterator[tuple[int, int, Piece]]:
        """The mappings: first page, page behind the last, piece."""
        first = 0
        for page in sorted(self.pages):
            piece = self.pages[page]
            if self.pages.get(page - 1) is not piece:
                first = page
            if self.pages.get(page + 1) is not piece:
                yield first, page + 1, piece

    def pages_with(self, *, reserve: bool) -> int:
        """How many pages are mapped with or without reservation."""
        return sum(piece.reserve is reserve for piece in self.pages.values())


@dataclass(frozen=True)
class MapRequest:
    """A CREATE_MAPPING of anonymous memory, by a descriptor that is `writable` or not."""

    start: int
    size: int
    prot: int
    flags: int
    writable: bool


class Model:
    """A mount."""

    def __init__(self, limits: Limits, mode: int, *, die_slowly: bool) -> None:
        """Owned by root; with `die_slowly` a region's memory is free once it is `reclaimed`."""
        self.limits = limits
        self.die_slowly = die_slowly
        self.nodes: dict[int, Node] = {
            ROOT: Folder(ROOT, stat.S_IFDIR | mode, 0, 0, nlink=2, names={b"mshare_info": INFO}),
            INFO: Node(INFO, stat.S_IFREG | 0o444, 0, 0),
        }
        self.reclaiming: list[Area] = []
        self._serials = itertools.count()

    # Questions

    def folder(self, ino: int) -> Folder:
        """The directory with this number."""
        node = self.nodes[ino]
        assert isinstance(node, Folder)
        return node

    def area(self, ino: int) -> Area:
        """The region with this number."""
        node = self.nodes[ino]
        assert isinstance(node, Area)
        return node

    def areas(self) -> list[Area]:
        """All regions that are there."""
        return [node for node in self.nodes.values() if isinstance(node, Area)]

    def find(self, parent: int, name: bytes) -> Node | None:
        """What a name means."""
        ino = self.folder(parent).names.get(name)
        return None if ino is None else self.nodes[ino]

    def reserved(self) -> int:
        """Bytes promised for good, those of regions that are being reclaimed included."""
        every = [*self.areas(), *self.reclaiming]
        return sum(area.pages_with(reserve=True) for area in every) * PAGE

    def optional(self) -> int:
        """Bytes that may come at first touch."""
        every = [*self.areas(), *self.reclaiming]
        return sum(area.pages_with(reserve=False) for area in every) * PAGE

    def used(self) -> int:
        """Bytes that have memory."""
        touched = sum(len(area.touched) for area in [*self.areas(), *self.reclaiming])
        return self.reserved() + touched * PAGE

    # Names

    def inodes_used(self) -> int:
        """What nr_inodes limits: every inode, and every name of an area after its first."""
        areas = [node for node in self.nodes.values() if isinstance(node, Area)]
        return len(self.nodes) + sum(max(0, area.nlink - 1) for area in areas)

    def new_name_errors(self, parent: int, name: bytes) -> Errors:
        """Of every request that makes a name in the place of none."""
        errors = set()
        if len(name) > NAME_MAX:
            errors.add(errno.ENAMETOOLONG)
        if name in self.folder(parent).names:
            errors.add(errno.EEXIST)
        if self.folder(parent).removed:
            errors.add(errno.ENOENT)
        return errors

    def one_more_errors(self, parent: int, name: bytes) -> Errors:
        """Of create, mknod, mkdir and link: every inode and every further name counts."""
        errors = self.new_name_errors(parent, name)
        if self.inodes_used() >= self.limits.nr_inodes:
            errors.add(errno.ENOSPC)
        return errors

    def _group(self, parent: int, gid: int) -> int:
        folder = self.folder(parent)
        return folder.gid if folder.mode & stat.S_ISGID else gid

    def add_area(
        self, ino: int, parent: int, name: bytes, mode: int, owner: tuple[int, int]
    ) -> Area:
        """A region, known to the kernel once."""
        uid, gid = owner
        area = Area(ino, stat.S_IFREG | mode, uid, self._group(parent, gid), lookups=1)
        self.nodes[ino] = area
        self.folder(parent).names[name] = ino
        return area

    def add_folder(
        self, ino: int, parent: int, name: bytes, mode: int, owner: tuple[int, int]
    ) -> None:
        """A directory, known to the kernel once."""
        uid, gid = owner
        above = self.folder(parent)
        bits = mode | (above.mode & stat.S_ISGID)
        self.nodes[ino] = Folder(
            ino,
            stat.S_IFDIR | bits,
            uid,
            self._group(parent, gid),
            nlink=2,
            lookups=1,
            parent=parent,
        )
        above.names[name] = ino
        above.nlink += 1

    def link_errors(self, ino: int, parent: int, name: bytes) -> Errors:
        """Of link."""
        errors = self.one_more_errors(parent, name)
        node = self.nodes[ino]
        if not isinstance(node, Area):
            errors.add(errno.EPERM)
        elif node.nlink == 0:
            errors.add(errno.ENOENT)
        return errors

    def link(self, ino: int, parent: int, name: bytes) -> None:
        """A further name."""
        node = self.nodes[ino]
        self.folder(parent).names[name] = ino
        node.nlink += 1
        node.lookups += 1

    def old_name_errors(self, parent: int, name: bytes) -> Errors:
        """Of every request about a name that should be there."""
        if len(name) > NAME_MAX:
            return {errno.ENAMETOOLONG}
        return set() if self.find(parent, name) else {errno.ENOENT}

    def unlink_errors(self, parent: int, name: bytes) -> Errors:
        """Of unlink."""
        errors = self.old_name_errors(parent, name)
        node = self.find(parent, name)
        if node is not None and node.ino == INFO:
            errors.add(errno.EPERM)
        if isinstance(node, Folder):
            errors.add(errno.EISDIR)
        return errors

    def unlink(self, parent: int, name: bytes) -> None:
        """A name goes."""
        node = self.nodes[self.folder(parent).names.pop(name)]
        node.nlink -= 1
        self.reap(node)

    def rmdir_errors(self, parent: int, name: bytes) -> Errors:
        """Of rmdir."""
        errors = self.old_name_errors(parent, name)
        node = self.find(parent, name)
        if node is not None and not isinstance(node, Folder):
            errors.add(errno.ENOTDIR)
        if isinstance(node, Folder) and node.names:
            errors.add(errno.ENOTEMPTY)
        return errors

    def rmdir(self, parent: int, name: bytes) -> None:
        """An empty directory goes."""
        above = self.folder(parent)
        self._removed(self.folder(above.names.pop(name)))
        above.nlink -= 1

    def _removed(self, folder: Folder) -> None:
        folder.removed = True
        folder.nlink = 0
        self.reap(folder)

    def rename_errors(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> Errors:
        """Of rename."""
        errors = self.old_name_errors(parent, name)
        if len(new_name) > NAME_MAX:
            errors.add(errno.ENAMETOOLONG)
        if flags not in (0, NOREPLACE, EXCHANGE):
            return errors | {errno.EINVAL}
        node, target = self.find(parent, name), self.find(new_parent, new_name)
        if INFO in (getattr(node, "ino", None), getattr(target, "ino", None)):
            errors.add(errno.EPERM)
        if flags == NOREPLACE and target is not None:
            errors.add(errno.EEXIST)
        if flags == EXCHANGE and target is None:
            errors.add(errno.ENOENT)
        if self.folder(new_parent).removed:
            errors.add(errno.ENOENT)
        if errors or node is None or node is target:
            return errors
        if self._is_within(new_parent, node) or (
            flags == EXCHANGE and target is not None and self._is_within(parent, target)
        ):
            errors.add(errno.EINVAL)
        if target is not None and flags != EXCHANGE:
            errors |= self._replace_errors(node, target)
        return errors

    def _replace_errors(self, node: Node, target: Node) -> Errors:
        if node.is_directory and not target.is_directory:
            return {errno.ENOTDIR}
        if target.is_directory and not node.is_directory:
            return {errno.EISDIR}
        return {errno.ENOTEMPTY} if isinstance(target, Folder) and target.names else set()

    def _is_within(self, ino: int, node: Node) -> bool:
        while ino != ROOT:
            if ino == node.ino:
                return True
            ino = self.folder(ino).parent
        return False

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int
    ) -> None:
        """Move a name, or swap two."""
        source, goal = self.folder(parent), self.folder(new_parent)
        node, target = self.find(parent, name), self.find(new_parent, new_name)
        assert node is not None
        if node is target:
            return
        del source.names[name]
        goal.names[new_name] = node.ino
        self._moved(node, source, goal)
        if flags == EXCHANGE:
            assert target is not None
            source.names[name] = target.ino
            self._moved(target, goal, source)
        elif isinstance(target, Folder):
            goal.nlink -= 1
            self._removed(target)
        elif target is not None:
            target.nlink -= 1
            self.reap(target)

    def _moved(self, node: Node, source: Folder, goal: Folder) -> None:
        if isinstance(node, Folder):
            node.parent = goal.ino
            source.nlink -= 1
            goal.nlink += 1

    # Life

    def reap(self, node: Node) -> None:
        """Gone, if nothing refers to it."""
        if node.ino in (ROOT, INFO) or node.nlink or node.lookups or node.opens:
            return
        gone = self.nodes.pop(node.ino, None) is not None
        if gone and self.die_slowly and isinstance(node, Area):
            self.reclaiming.append(node)

    def reclaimed(self) -> None:
        """The memory of all regions that are being reclaimed is free."""
        self.reclaiming.clear()

    def open_errors(self, ino: int, flags: int) -> Errors:
        """Of open."""
        node = self.nodes[ino]
        if isinstance(node, Folder):
            return {errno.EISDIR}
        if isinstance(node, Area):
            sized = node.size is not None
            return {errno.EINVAL} if flags & os.O_TRUNC and sized else set()
        return {errno.EACCES} if flags & (os.O_ACCMODE | os.O_TRUNC) else set()

    def opened(self, ino: int, flags: int = 0) -> None:
        """One handle more."""
        node = self.nodes[ino]
        node.opens += 1
        if isinstance(node, Area):
            node.has_segment = True
            if flags & os.O_TRUNC:
                self.drop_privileges(node)

    def released(self, ino: int) -> None:
        """One handle less."""
        node = self.nodes[ino]
        node.opens -= 1
        self.reap(node)

    def forgotten(self, ino: int, lookups: int) -> None:
        """The kernel knows it that many times less."""
        node = self.nodes[ino]
        node.lookups -= lookups
        self.reap(node)

    # Attributes and size

    def drop_privileges(self, node: Node) -> None:
        """A file with a new owner or size loses set-user-ID (chown(2))."""
        if not node.is_directory:
            node.mode &= ~stat.S_ISUID
            if node.mode & stat.S_IXGRP:
                node.mode &= ~stat.S_ISGID

    def size_errors(self, ino: int, size: int) -> Errors:
        """Of ftruncate."""
        node = self.nodes[ino]
        if ino == INFO:
            return {errno.EPERM}
        if not isinstance(node, Area):
            return {errno.EISDIR}
        errors = set()
        if node.size is not None or size < 0 or size % self.limits.align:
            errors.add(errno.EINVAL)
        if size > self.limits.max_region:
            errors.add(errno.EFBIG)
        return errors

    def fallocate_errors(self, ino: int, mode: int, offset: int, length: int) -> Errors:
        """Of fallocate, of which the region's state does not matter to the first two."""
        if mode:
            return {errno.EOPNOTSUPP}
        if offset:
            return {errno.EINVAL}
        return self.size_errors(ino, length)

    def set_size(self, ino: int, size: int) -> None:
        """0 leaves it without one."""
        area = self.area(ino)
        if size:
            area.size = size
            area.has_segment = True
        self.drop_privileges(area)

    # Memory

    def _range_errors(self, area: Area, start: int, size: int, unit: int) -> Errors:
        end = -(-(start + size) // unit) * unit
        fits = area.size is not None and size > 0 and start + size <= area.size
        if not fits or start % unit or end > (area.size or 0):
            return {errno.EINVAL}
        return set()

    def map_errors(self, ino: int, request: MapRequest) -> Errors:
        """Of CREATE_MAPPING."""
        area = self.area(ino)
        needed = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS
        forbidden = (abi.MAP_TYPE & ~abi.MAP_SHARED) | abi.MAP_GROWSDOWN
        unit = HUGE if request.flags & abi.MAP_HUGETLB else PAGE
        errors = set() if request.writable else {errno.EACCES}
        errors |= self._range_errors(area, request.start, request.size, unit)
        if request.flags & needed != needed or request.flags & forbidden:
            errors.add(errno.EINVAL)
        if errors:
            return errors
        pages = self._pages(request.start, request.size, unit)
        if request.flags & abi.MAP_FIXED_NOREPLACE and any(page in area.pages for page in pages):
            errors.add(errno.EEXIST)
        reserve = not request.flags & abi.MAP_NORESERVE
        return errors | self._room_errors(area, pages, reserve=reserve)

    def _room_errors(self, area: Area, pages: range, *, reserve: bool) -> Errors:
        if reserve:
            there = sum(1 for p in pages if p in area.pages and area.pages[p].reserve)
            if self.used() + (len(pages) - there) * PAGE > self.limits.capacity:
                return {errno.ENOMEM}
        after = Area(0, 0, 0, 0, pages=dict(area.pages))
        piece = Piece(-1, 0, reserve=True, huge=False)
        after.pages.update(dict.fromkeys(pages, piece))
        too_many = len(list(after.runs())) > self.limits.max_mappings
        return {errno.ENOMEM} if too_many else set()

    @staticmethod
    def _pages(start: int, size: int, unit: int) -> range:
        return range(start // PAGE, -(-(start + size) // unit) * unit // PAGE)

    def map(self, ino: int, request: MapRequest) -> None:
        """The range reads as zeros."""
        area = self.area(ino)
        huge = bool(request.flags & abi.MAP_HUGETLB)
        reserve = not request.flags & abi.MAP_NORESERVE
        piece = Piece(next(self._serials), request.prot & abi.PROT_ALL, reserve, huge)
        for page in self._pages(request.start, request.size, HUGE if huge else PAGE):
            self._clear(area, page)
            area.pages[page] = piece
        area.maps += 1

    def unmap_errors(self, ino: int, start: int, size: int, *, writable: bool) -> Errors:
        """Of UNMAP."""
        area = self.area(ino)
        errors = set() if writable else {errno.EACCES}
        errors |= self._range_errors(area, start, size, PAGE)
        if not errors:
            gone = self._pages(start, size, PAGE)
            rest = {page: piece for page, piece in area.pages.items() if page not in gone}
            before, after = list(area.runs()), list(Area(0, 0, 0, 0, pages=rest).runs())
            if len(after) > max(len(before), self.limits.max_mappings):
                errors.add(errno.ENOMEM)
        return errors

    def unmap(self, ino: int, start: int, size: int) -> None:
        """The range is gone."""
        area = self.area(ino)
        for page in self._pages(start, size, PAGE):
            self._clear(area, page)
            area.pages.pop(page, None)
        area.unmaps += 1

    def can_touch(self, ino: int, page: int) -> bool:
        """Whether a client that writes to a mapped page gets no SIGBUS."""
        area = self.area(ino)
        if area.pages[page].reserve or page in area.touched:
            return True
        return self.used() + PAGE <= self.limits.capacity

    def touch(self, ino: int, page: int, data: bytes) -> None:
        """A client writes to the beginning of a mapped page."""
        area = self.area(ino)
        if not area.pages[page].reserve:
            area.touched.add(page)
        area.data[page] = data

    @staticmethod
    def _clear(area: Area, page: int) -> None:
        area.touched.discard(page)
        area.data.pop(page, None)
