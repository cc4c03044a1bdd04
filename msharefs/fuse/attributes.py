"""Attributes and extended attributes, read and set: hot, so answered by the switchboard.

Owns their decoding and encoding over RegionManager. pyfuse3 could carry them at twice
the cost, and each creation of a region asks several times: for its directory's
attributes anew, and for "security.capability" before the size is set.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, NoReturn, Protocol

from msharefs.abi import (
    ADVICE_ATTRIBUTE,
    AUTOMAP_ATTRIBUTE,
    CHANGED_ATTRIBUTE,
    LAYOUT_ATTRIBUTE,
    OPTIONS_ATTRIBUTE,
    PAGE_SIZE,
    STATUS_ATTRIBUTE,
    TRUSTED_OPTIONS_ATTRIBUTE,
)
from msharefs.core import reports
from msharefs.core.attributes import AttributeChange
from msharefs.core.errors import (
    InvalidArgument,
    NoAttribute,
    NotPermitted,
    NotSupported,
    RangeTooSmall,
)
from msharefs.core.inode import ROOT_INO, Automap, Directory, Inode
from msharefs.core.manager import RegionManager
from msharefs.core.region import Region
from msharefs.fuse import messages
from msharefs.fuse.changes import Changes
from msharefs.fuse.kernel import (
    FATTR_ATIME,
    FATTR_ATIME_NOW,
    FATTR_GID,
    FATTR_MODE,
    FATTR_MTIME,
    FATTR_MTIME_NOW,
    FATTR_SIZE,
    FATTR_UID,
    Opcode,
)
from msharefs.fuse.messages import Attributes, Header, SetattrIn
from msharefs.fuse.payload import request_of
from msharefs.fuse.write_back import WriteBack

FOR_EVER = 10**9
"""Seconds. Every change goes through this mount, so the kernel may cache without limit."""
LARGEST_VALUE = 1 << 16
"""Bytes of an extended attribute: the kernel's XATTR_SIZE_MAX."""
LAYOUT_GROWTH, STATUS_GROWTH = 1 << 10, 16 << 10
"""Bytes that a value may grow between the question for its size and its reading. A layout's numbers
become longer, and it gives as many mappings as there is room for; the status gets the counters
of kinds of requests that it had not seen."""
NUMBER_SIZE = 20
"""Bytes of the answer that is a number, whatever it is: it takes long to count, so that nobody has it counted to learn how
long the number is."""


class Options(Protocol):
    """The mount's options, as far as they can be changed while it is in use."""

    def text(self) -> str:
        """As they are now, the way mount -o has them."""

    async def change(self, text: bytes, uid: int, *, proven: bool) -> None:
        """Change those that are named, all or none; `uid` asks for it. With `proven` the kernel
        has seen that he has CAP_SYS_ADMIN. Others are served meanwhile. Raises RefusedError."""


class AttributeHandlers:
    """Handlers for the switchboard. `status` composes the mount's status; `advice` is what large
    attachments should be advised with, 0 for nothing."""

    def __init__(
        self,
        manager: RegionManager,
        changes: Changes,
        write_back: WriteBack,
        status: Callable[[], dict[str, Any]],
        options: Options,
        advice: int = 0,
    ) -> None:
        self._manager = manager
        self._changes = changes
        self._write_back = write_back
        self._status = status
        self._options = options
        self._advice = advice

    def handlers(self) -> Mapping[int, Callable[[Header, memoryview], bytes | Awaitable[bytes]]]:
        """Which request each of them answers."""
        return {
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.GETXATTR: self.getxattr,
            Opcode.SETXATTR: self.setxattr,
            Opcode.REMOVEXATTR: self.removexattr,
        }

    def getattr(self, header: Header, body: memoryview) -> bytes:
        """GETATTR: asked only where the kernel was told not to keep what it has."""
        inode = self._manager.getattr(header.nodeid)
        return attr_answer(inode)

    def setattr(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """SETATTR: chmod, chown, utimes, truncate. A size that comes with memory may be answered
        later."""
        change = _change(messages.decode_setattr(body))
        region = self._manager.sizing.region(header.nodeid)
        if region is not None and change.size is not None:
            plan = self._manager.sizing.plan_truncate
            make_plan = partial(plan, request_of(header), region, change.size, change)
            return self._changes.make(header.uid, region, make_plan, partial(attr_answer, region))
        inode = self._manager.setattr(request_of(header), header.nodeid, change)
        return attr_answer(inode)

    def getxattr(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """GETXATTR: the layout of a region, the status of the mount; what was changed in a region is counted
        and answered later."""
        room, name = messages.decode_getxattr(body)
        if name.startswith(CHANGED_ATTRIBUTE):
            region = self._manager.getattr(header.nodeid)
            found, place = _place_behind(CHANGED_ATTRIBUTE, name)
            if found and isinstance(region, Region):
                return self._changed(header.uid, region, place, room)
        if room == 0:
            size = len(self._value(header.nodeid, name, LARGEST_VALUE))
            return messages.encode_xattr_size(_announced(size, name))
        value = self._value(header.nodeid, name, room)
        if len(value) > room:
            raise RangeTooSmall(f"{name!r} has {len(value)} bytes")
        if name == AUTOMAP_ATTRIBUTE:
            return value
        # Who asked for the size before wants that many bytes, as rsync(1) does.
        return value.ljust(room) if room < LARGEST_VALUE else value

    def _changed(
        self, uid: int, region: Region, place: int | None, room: int
    ) -> bytes | Awaitable[bytes]:
        """Nothing is counted for who asks how much room it takes, or has too little."""
        if room == 0:
            return messages.encode_xattr_size(NUMBER_SIZE)
        if room < NUMBER_SIZE:
            raise RangeTooSmall(f"{CHANGED_ATTRIBUTE!r} has {NUMBER_SIZE} bytes")
        if not self._write_back.may_concern(region):
            return _number(0)
        return self._count(uid, region, place)

    async def _count(self, uid: int, region: Region, place: int | None) -> bytes:
        return _number(await self._write_back.changed(uid, region, place))

    def setxattr(self, header: Header, body: memoryview) -> bytes | Awaitable[bytes]:
        """SETXATTR: the mount's options, and automap of a region or directory. Answered here because
        it may be long (see outstanding.py). One that is sent again sets the same again."""
        name, value = messages.decode_setxattr(body)
        if name == AUTOMAP_ATTRIBUTE:
            self._manager.sizing.set_automap(None, header.nodeid, _automap(value))
            return b""
        if header.nodeid != ROOT_INO or name not in _OPTIONS:
            refuse_attribute_change(name)
        return self._change_options(header, bytes(value), proven=name == TRUSTED_OPTIONS_ATTRIBUTE)

    async def _change_options(self, header: Header, text: bytes, *, proven: bool) -> bytes:
        """All regions may have to be looked at, however many there are."""
        await self._options.change(text, header.uid, proven=proven)
        return b""

    def removexattr(self, header: Header, body: memoryview) -> bytes:
        """REMOVEXATTR: automap, which is then the mount's."""
        name = messages.decode_name(body)
        if name != AUTOMAP_ATTRIBUTE:
            refuse_attribute_change(name)
        self._manager.sizing.set_automap(None, header.nodeid, None)
        return b""

    def _value(self, ino: int, name: bytes, room: int) -> bytes:
        found = self._manager.getattr(ino)
        if name == AUTOMAP_ATTRIBUTE and isinstance(found, Region | Directory):
            return self._manager.sizing.automap(found).encode()
        if isinstance(found, Region):
            is_layout, start = _place_behind(LAYOUT_ATTRIBUTE, name)
            if is_layout:
                collapsed = self._manager.tables.collapsing.size_of(found.ino)
                return reports.layout_json(found, start or 0, room, collapsed=collapsed)
            if self._advice and name == ADVICE_ATTRIBUTE:
                return b"%d\n" % self._advice
        elif ino == ROOT_INO and name == STATUS_ATTRIBUTE:
            return json.dumps(self._status()).encode()
        elif ino == ROOT_INO and name == OPTIONS_ATTRIBUTE:
            return self._options.text().encode()
        if not name.startswith(_KINDS):
            # ACLs and labels. Who lists a directory asks each file for them, until he is told that
            # there can be none here.
            raise NotSupported(f"attribute {name!r}")
        raise NoAttribute(f"inode {ino} has no attribute {name!r}")


_KINDS = (b"user.", b"trusted.")
"""How the names of attributes begin that there may be."""
_OPTIONS = frozenset({OPTIONS_ATTRIBUTE, TRUSTED_OPTIONS_ATTRIBUTE})


def refuse_attribute_change(name: bytes) -> NoReturn:
    """What the mount tells cannot be told to it, and it stores no other."""
    if name.startswith(b"user.msharefs."):
        raise NotPermitted(f"{name!r} can only be read")
    raise NotSupported(f"attribute {name!r}")


def attributes(inode: Inode) -> Attributes:
    """What stat(2) shows; the page size is what st_blksize advises."""
    # In the order of the fields: names would cost as much as the values.
    return Attributes(
        inode.ino,
        inode.size,
        inode.blocks,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        PAGE_SIZE,
    )


def attr_answer(inode: Inode) -> bytes:
    """The answer to a request that shows an inode's attributes."""
    return messages.encode_attr(attributes(inode), attribute_lifetime(inode))


def entry_answer(inode: Inode) -> bytes:
    """The answer to a request that finds or makes a name."""
    return messages.encode_entry(attributes(inode), FOR_EVER, attribute_lifetime(inode))


def attribute_lifetime(inode: Inode) -> int:
    """For how many seconds the kernel may keep the attributes."""
    return FOR_EVER if inode.cacheable else 0


def _change(request: SetattrIn) -> AttributeChange:
    valid = request.valid
    now = time.time_ns() if valid & (FATTR_ATIME_NOW | FATTR_MTIME_NOW) else 0
    atime = now if valid & FATTR_ATIME_NOW else request.atime * 10**9 + request.atime_ns
    mtime = now if valid & FATTR_MTIME_NOW else request.mtime * 10**9 + request.mtime_ns
    return AttributeChange(
        mode=request.mode if valid & FATTR_MODE else None,
        uid=request.uid if valid & FATTR_UID else None,
        gid=request.gid if valid & FATTR_GID else None,
        size=request.size if valid & FATTR_SIZE else None,
        atime_ns=atime if valid & (FATTR_ATIME | FATTR_ATIME_NOW) else None,
        mtime_ns=mtime if valid & (FATTR_MTIME | FATTR_MTIME_NOW) else None,
    )


def _automap(value: bytes) -> Automap:
    try:
        return Automap(value.decode())
    except ValueError as error:
        words = ", ".join(Automap)
        raise InvalidArgument(f"automap is one of {words}, and not {value!r}") from error


def _announced(size: int, name: bytes) -> int:
    """How many bytes to keep ready for an attribute that has `size` bytes now. Less than
    LARGEST_VALUE, which is what those give who do not ask."""
    if name == AUTOMAP_ATTRIBUTE:
        return size
    growth = STATUS_GROWTH if name == STATUS_ATTRIBUTE else LAYOUT_GROWTH
    return min(size + growth, LARGEST_VALUE - 1)


def _number(value: int) -> bytes:
    return (b"%d" % value).ljust(NUMBER_SIZE)


def _place_behind(attribute: bytes, name: bytes) -> tuple[bool, int | None]:
    """Whether a name is that of an attribute, and the byte of the region that it names, if it is
    `ATTRIBUTE.N`."""
    if name == attribute:
        return True, None
    head, _, offset = name.rpartition(b".")
    if head == attribute and offset.isdigit():
        return True, int(offset)
    return False, None
