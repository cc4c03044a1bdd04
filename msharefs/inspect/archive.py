"""A region saved in a dump and brought back, between descriptors and without a file's name.

Owns what of a region is saved, and that nothing of a region appears under its name before all of
it is there. The form of the file is dumpfile's.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from msharefs import Region
from msharefs.abi import MAX_FILE_SIZE, PAGE_SIZE
from msharefs.client.attachment import Attachment
from msharefs.client.layout import Layout, Mapping
from msharefs.inspect import mounts
from msharefs.inspect.copier import Copier, nothing_is_swapped
from msharefs.inspect.dumpfile import Reader, Writer
from msharefs.inspect.errors import InspectError

Advance = Callable[[int], None]
"""Told of each number of bytes that is done."""


def save(region: Region, layout: Layout, fd: int, advance: Advance) -> None:
    """Write the region, whose layout is `layout`, to `fd`. Raises OSError; InspectError if the
    layout changes meanwhile."""
    path = os.fsdecode(region.path)
    writer = Writer(fd, _header(region, layout))
    trust = nothing_is_swapped() and _is_passthrough(path)
    with closing(Copier(region.fileno(), trust_residency=trust)) as source:
        try:
            for mapping in layout.mappings:
                for length, runs in source.chunks(mapping):
                    for offset, data in runs:
                        writer.block(offset, data)
                    advance(length)
        except OSError as error:
            # What the kernel says of copying from where nothing is mapped any more.
            if error.errno == errno.EFAULT:
                raise _changed(path) from error
            raise
    if region.layout().generation != layout.generation:
        raise _changed(path)
    writer.end()


def load(fd: int, name: str, path: str, mode: int | None, advance: Advance) -> None:
    """Make a region at `path` of the dump that `fd` gives, whose `name` is for messages.

    It appears when all of it is there. `mode` is for another one than the saved one. Raises
    OSError and DamagedError.
    """
    reader = Reader(fd, name)
    saved = _Saved.of(reader)
    # Under a name of its own until it is whole.
    hidden = os.path.join(os.path.dirname(path), f".mshare-load-{secrets.token_hex(8)}")
    try:
        with Region.create(hidden, saved.size) as region:
            try:
                _restore(region, reader, saved, advance)
                # In the paged data plane this is where the pages reach the daemon.
                os.fsync(region.fileno())
                _give_rights(region.fileno(), saved, mode)
                # Not rename, which would replace a region made meanwhile.
                os.link(hidden, path)
            finally:
                region.unlink()
    except OSError as error:
        # Nobody knows the hidden name.
        if error.filename is not None:
            error.filename = path
        raise


@dataclass(frozen=True, slots=True)
class _Saved:
    """The header of a dump, checked."""

    size: int
    mode: int
    uid: int
    gid: int
    mappings: tuple[Mapping, ...]

    @classmethod
    def of(cls, reader: Reader) -> _Saved:
        """Read it. DamagedError for one that no dump writes."""
        try:
            header = reader.header
            mappings = tuple(
                Mapping(
                    offset=int(each["offset"]),
                    size=int(each["size"]),
                    prot=str(each["prot"]),
                    reserve=bool(each["reserve"]),
                    huge=bool(each["huge"]),
                )
                for each in header["layout"]
            )
            size, mode, uid, gid = (int(header[key]) for key in ("size", "mode", "uid", "gid"))
            saved = cls(size, mode, uid, gid, mappings)
        except (KeyError, TypeError, ValueError):
            raise reader.damaged("its header") from None
        if not saved.is_sound():
            raise reader.damaged("the layout in it")
        return saved

    def is_sound(self) -> bool:
        """Whether the mappings lie in the region, in order, and nothing is absurd."""
        position = 0
        for mapping in self.mappings:
            if mapping.offset < position or mapping.size <= 0 or mapping.offset % PAGE_SIZE:
                return False
            position = mapping.end
        return position <= self.size <= MAX_FILE_SIZE and 0 <= self.mode <= 0o7777


class _Target:
    """The memory of a new region, one mapping after the other, in order of the offsets."""

    def __init__(self, region: Region, mappings: tuple[Mapping, ...]) -> None:
        """Map all of it; the memory is there then, or comes at first touch."""
        for mapping in mappings:
            region.map(
                mapping.offset,
                mapping.size,
                prot=mapping.prot,
                huge=mapping.huge,
                reserve=mapping.reserve,
            )
        self._region = region
        self._left = list(reversed(mappings))
        self._window: Attachment | None = None

    def place(self, offset: int, length: int) -> memoryview | None:
        """The memory of a block, or None if it lies in no mapping or before the last block's."""
        while self._left and self._left[-1].end <= offset:
            self._left.pop()
            self.close()
        if not self._left:
            return None
        mapping = self._left[-1]
        if offset < mapping.offset or offset + length > mapping.end:
            return None
        if self._window is None:
            # By descriptor: a mapping that programs may not write to is filled as well.
            self._window = Attachment(
                self._region.fileno(), mapping.offset, mapping.size, writable=True
            )
        start = offset - mapping.offset
        return self._window.buf[start : start + length]

    def close(self) -> None:
        """Take the window away that is open."""
        if self._window is not None:
            self._window.close()
            self._window = None


def _restore(region: Region, reader: Reader, saved: _Saved, advance: Advance) -> None:
    """Map what was mapped, then fill it."""
    with closing(_Target(region, saved.mappings)) as target:
        while (block := reader.next_block()) is not None:
            offset, length = block
            memory = target.place(offset, length)
            if memory is None:
                raise reader.damaged("the place of a block")
            with memory:
                _fill(reader, memory)
            advance(length)


def _fill(reader: Reader, memory: memoryview) -> None:
    try:
        reader.read_into(memory)
    except OSError as error:
        if error.errno == errno.EFAULT:
            raise InspectError("the mount has no memory left for all of the region") from error
        raise


def _header(region: Region, layout: Layout) -> dict[str, Any]:
    facts = os.fstat(region.fileno())
    return {
        "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": os.path.basename(os.fsdecode(region.path)),
        "size": layout.size,
        "mode": stat.S_IMODE(facts.st_mode),
        "uid": facts.st_uid,
        "gid": facts.st_gid,
        "layout": [asdict(mapping) for mapping in layout.mappings],
    }


def _give_rights(fd: int, saved: _Saved, mode: int | None) -> None:
    """Owner before mode: a change of the owner may take mode bits away."""
    if os.geteuid() == 0:
        os.chown(fd, saved.uid, saved.gid)
    os.chmod(fd, saved.mode if mode is None else mode)


def _is_passthrough(path: str) -> bool:
    status = mounts.status_or_nothing(mounts.mount_of(path))
    return bool(status.get("data_plane", {}).get("name") == "passthrough")


def _changed(path: str) -> InspectError:
    return InspectError(f"the layout of {path} changed while it was saved")
