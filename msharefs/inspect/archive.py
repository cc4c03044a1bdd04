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
from dataclasses import dataclass

from msharefs import Region
from msharefs.client.attachment import Attachment
from msharefs.client.layout import Layout
from msharefs.inspect import mounts
from msharefs.inspect.copier import Copier, nothing_is_swapped
from msharefs.inspect.dumpfile import Reader, Writer
from msharefs.inspect.dumpheader import Header, HeaderError
from msharefs.inspect.errors import InspectError

Advance = Callable[[int], None]
"""Told of each number of bytes that is done."""


def save(region: Region, layout: Layout, fd: int, advance: Advance) -> None:
    """Write the region, whose layout is `layout`, to `fd`. Raises OSError; InspectError if the
    layout changes meanwhile."""
    path = os.fsdecode(region.path)
    try:
        header = _header(region, layout)
    except HeaderError as error:
        raise InspectError(f"{path}: {error}") from error
    writer = Writer(fd, header.encode())
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


@dataclass(frozen=True, slots=True)
class Rights:
    """What a loaded region gets of what was saved."""

    mode: int | None = None
    """Instead of the one that was saved."""
    owner: bool = False
    """Whether it gets the owner and the group that it had; else it is the caller's."""


def load(fd: int, name: str, path: str, rights: Rights, advance: Advance) -> Header:
    """Make a region at `path` of the dump that `fd` gives, whose `name` is for messages. Returns what
    the dump says of it.

    It appears when all of it is there. Memory for it is needed as it is read, and for us no more
    than the header takes. Bytes of files come back as memory: the files that the dump names may be
    others by now, or of somebody else's choice, and none is looked for. Raises OSError and DamagedError.
    """
    reader = Reader(fd, name)
    try:
        header = Header.parse(reader.header)
    except HeaderError:
        raise reader.damaged("its header") from None
    # Under a name of its own until it is whole.
    hidden = os.path.join(os.path.dirname(path), f".mshare-load-{secrets.token_hex(8)}")
    try:
        with Region.create(hidden, header.size) as region:
            try:
                _restore(region, reader, header, advance)
                # In the paged data plane this is where the pages reach the daemon.
                os.fsync(region.fileno())
                _give_rights(region.fileno(), header, rights)
                # The file itself, whatever has the hidden name by now. And not rename, which
                # would replace a region made meanwhile.
                os.link(f"/proc/self/fd/{region.fileno()}", path, src_dir_fd=region.fileno())
            finally:
                region.unlink()
    except OSError as error:
        # Nobody knows the hidden name.
        if error.filename is not None:
            error.filename = path
            error.filename2 = None
        raise
    return header


class _Target:
    """The memory of a new region, one mapping after the other, in order of the offsets."""

    def __init__(self, region: Region, header: Header) -> None:
        """Map all of it; the memory is there then, or comes at first touch."""
        for mapping in header.mappings():
            region.map(
                mapping.offset,
                mapping.size,
                prot=mapping.prot,
                huge=mapping.huge,
                reserve=mapping.reserve,
            )
        self._region = region
        self._left = header.mappings()
        self._current = next(self._left, None)
        self._window: Attachment | None = None
        self._position = 0

    def place(self, offset: int, length: int) -> memoryview | None:
        """The memory of a block, or None if it lies in no mapping or before the end of the last."""
        if offset < self._position:
            return None
        self._position = offset + length
        while self._current is not None and self._current.end <= offset:
            self._current = next(self._left, None)
            self.close()
        mapping = self._current
        if mapping is None or offset < mapping.offset or offset + length > mapping.end:
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


def _restore(region: Region, reader: Reader, header: Header, advance: Advance) -> None:
    """Map what was mapped, then fill it."""
    with closing(_Target(region, header)) as target:
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


def _header(region: Region, layout: Layout) -> Header:
    facts = os.fstat(region.fileno())
    return Header.of(
        layout.mappings,
        saved=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        name=os.path.basename(os.fsdecode(region.path)),
        size=layout.size,
        mode=stat.S_IMODE(facts.st_mode),
        uid=facts.st_uid,
        gid=facts.st_gid,
    )


def _give_rights(fd: int, header: Header, rights: Rights) -> None:
    """Owner before mode: a change of the owner may take mode bits away."""
    if rights.owner:
        os.chown(fd, header.uid, header.gid)
    # Set-user-ID and the like mean nothing to a region, and a dump may come from anybody.
    os.chmod(fd, header.mode & 0o777 if rights.mode is None else rights.mode)


def _is_passthrough(path: str) -> bool:
    status = mounts.status_or_nothing(mounts.mount_of(path))
    return bool(status.get("data_plane", {}).get("name") == "passthrough")


def _changed(path: str) -> InspectError:
    return InspectError(f"the layout of {path} changed while it was saved")
