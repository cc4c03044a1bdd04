"""mshare dump and load: a region saved in a file, and brought back.

Owns what of a region is saved, and that neither command leaves half a result: a dump appears
under its name when it is whole, and so does a loaded region.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat as stat_module
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import click

from msharefs import MshareError, Region
from msharefs.abi import MAX_FILE_SIZE, PAGE_SIZE
from msharefs.cli import formatting, terminal
from msharefs.cli.errors import CommandError
from msharefs.cli.params import FILE, MODE, REGION
from msharefs.client.attachment import Attachment
from msharefs.client.layout import Layout, Mapping
from msharefs.inspect import copier, mounts
from msharefs.inspect.dumpfile import Reader, Writer

_STANDARD = "-"


@click.command(short_help="Save a region in a file.")
@click.argument("path", type=REGION)
@click.argument("file", type=FILE)
def dump(path: str, file: str) -> None:
    """Save the region at PATH, its layout and its bytes, in FILE; "-" is standard output.

    Zeros take no space. A region that is written meanwhile is saved as each part of it was when
    its turn came; if its layout changes, the dump fails.
    """
    with Region.open(path, writable=False) as region, _output(file) as fd:
        before = region.layout()
        if not before.size:
            raise CommandError(
                f"{formatting.name(path)} has no size yet, so there is nothing to save"
            )
        writer = Writer(fd, _header(region, before))
        mount = mounts.mount_of(path)
        trust = copier.nothing_is_swapped() and _plane(mount) == "passthrough"
        with (
            closing(copier.Copier(region.fileno(), trust_residency=trust)) as source,
            terminal.progress("saving", before.mapped) as advance,
        ):
            try:
                _save(writer, source, before.mappings, advance)
            except OSError as error:
                # What the kernel says of copying from where nothing is mapped any more.
                if error.errno == errno.EFAULT:
                    raise _changed(path) from error
                raise
        after = region.layout()
        if (after.maps, after.unmaps) != (before.maps, before.unmaps):
            raise _changed(path)
        writer.end()


@click.command(short_help="Bring a saved region back.")
@click.argument("file", type=FILE)
@click.argument("path", type=REGION)
@click.option("--mode", type=MODE, help="Instead of the mode that was saved.")
def load(file: str, path: str, *, mode: int | None) -> None:
    """Make a region at PATH as it was saved in FILE; "-" is standard input.

    It appears when all of it is there and every checksum is right. A torn or damaged file is
    refused (exit code 3). Root gives it the owner that it had.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    with _input(file) as (fd, total):
        reader = Reader(fd, "standard input" if file == _STANDARD else formatting.name(file))
        saved = _Saved.of(reader)
        # Under a name of its own until it is whole.
        hidden = os.path.join(os.path.dirname(path), f".mshare-load-{secrets.token_hex(8)}")
        try:
            with Region.create(hidden, saved.size) as region:
                try:
                    with terminal.progress("loading", total) as advance:
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


def _header(region: Region, layout: Layout) -> dict[str, Any]:
    facts = os.fstat(region.fileno())
    return {
        "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "name": os.path.basename(os.fsdecode(region.path)),
        "size": layout.size,
        "mode": stat_module.S_IMODE(facts.st_mode),
        "uid": facts.st_uid,
        "gid": facts.st_gid,
        "layout": [asdict(mapping) for mapping in layout.mappings],
    }


def _save(
    writer: Writer,
    copier: copier.Copier,
    mappings: tuple[Mapping, ...],
    advance: Callable[[int], None],
) -> None:
    for mapping in mappings:
        for length, runs in copier.chunks(mapping):
            for offset, data in runs:
                writer.block(offset, data)
            advance(length)


def _give_rights(fd: int, saved: _Saved, mode: int | None) -> None:
    """Owner before mode: a change of the owner may take mode bits away."""
    if os.geteuid() == 0:
        os.chown(fd, saved.uid, saved.gid)
    os.chmod(fd, saved.mode if mode is None else mode)


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


def _restore(region: Region, reader: Reader, saved: _Saved, advance: Callable[[int], None]) -> None:
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
            raise CommandError("the mount has no memory left for all of the region") from error
        raise


@contextmanager
def _output(file: str) -> Iterator[int]:
    """A descriptor to write to. A regular file gets its name when the body has succeeded."""
    if file == _STANDARD:
        if sys.stdout.isatty():
            raise CommandError("a dump is not for a terminal: name a file, or pipe it on")
        yield sys.stdout.fileno()
        return
    if os.path.exists(file) and not os.path.isfile(file):
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with _named(file):
                yield fd
        finally:
            os.close(fd)
        return
    target = os.path.realpath(file)
    directory = os.path.dirname(target)
    try:
        # Mode 0600: what processes share may be secret.
        fd, temporary = tempfile.mkstemp(prefix=".mshare-dump-", dir=directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, file) from error
    try:
        with _named(file):
            yield fd
            os.fsync(fd)
            os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


@contextmanager
def _named(file: str) -> Iterator[None]:
    """What write(2) refuses does not say of which file."""
    try:
        yield
    except MshareError:
        raise
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, file) from error
        raise


@contextmanager
def _input(file: str) -> Iterator[tuple[int, int | None]]:
    """A descriptor to read from, and how many bytes it has if that is known."""
    if file == _STANDARD:
        yield sys.stdin.fileno(), None
        return
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        facts = os.fstat(fd)
        yield fd, facts.st_size if stat_module.S_ISREG(facts.st_mode) else None
    finally:
        os.close(fd)


def _plane(mount: mounts.Mount) -> str:
    return str(mounts.status_or_nothing(mount).get("data_plane", {}).get("name"))


def _changed(path: str) -> CommandError:
    return CommandError(f"the layout of {formatting.name(path)} changed while it was saved")
