"""mshare create, map, unmap, sync, rm: the commands that change something.

They print nothing when it is done. The Python client does the work, but for the mapping of a
file, which is an ioctl of the API.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat as stat_module
from dataclasses import replace

import click

from msharefs import MshareError, Region, abi, notation
from msharefs.cli import formatting, terminal
from msharefs.cli.errors import EXIT_REFUSED, CommandError, inspected, sentence
from msharefs.cli.params import FILE, MODE, PROT, REGION, SIZE
from msharefs.inspect import mounts
from msharefs.inspect.errors import InspectError


@click.command(short_help="Make a region.")
@click.argument("path", type=REGION)
@click.argument("size", type=SIZE)
@click.option("--map", "mapped", is_flag=True, help="Map all of it, so that it can be used.")
@click.option("--mode", type=MODE, default="600", show_default=True, help="Less the umask.")
@click.option("--huge", is_flag=True, help="Map all of it in 2 MiB pages, or fail.")
def create(path: str, size: int, *, mapped: bool, mode: int, huge: bool) -> None:
    """Make a region of SIZE bytes at PATH.

    SIZE is a multiple of the mount's alignment, usually 2 MiB, and final. It costs nothing:
    memory is what is mapped. What fails leaves nothing behind.
    """
    with Region.create(path, size, mode=mode) as region:
        if not mapped and not huge:
            return
        try:
            with terminal.working(f"mapping {notation.size(size)}"):
                region.map(0, size, huge=huge)
        except BaseException:
            region.unlink()
            raise


@click.command("map", short_help="Map memory or a file into a region.")
@click.argument("path", type=REGION)
@click.argument("offset", type=SIZE)
@click.argument("size", type=SIZE)
@click.option("--file", "file", type=FILE, help="Map this file instead of zeroed memory.")
@click.option("--file-offset", type=SIZE, help="Begin so far into the file.  [default: 0]")
@click.option("--prot", type=PROT, help="r, rw, rwx or none.  [default: rw; r for a file]")
@click.option("--huge", is_flag=True, help="In 2 MiB pages, or fail.")
@click.option(
    "--no-reserve", is_flag=True, help="Let memory come at first touch, if the mount allows it."
)
@click.option("--no-replace", is_flag=True, help="Fail where something is mapped already.")
def map_(  # noqa: PLR0913 - click passes each option by itself
    path: str,
    offset: int,
    size: int,
    *,
    file: str | None,
    file_offset: int | None,
    prot: str | None,
    huge: bool,
    no_reserve: bool,
    no_replace: bool,
) -> None:
    """Map SIZE bytes at OFFSET of the region: zeroed memory, or a copy of a file. With --prot rw what
    is changed in the copy goes back to the file (see mshare sync).

    It is there at once, in every process that has the region attached. What was mapped there
    before is replaced.
    """
    if file is None and file_offset is not None:
        raise click.UsageError("--file-offset needs --file")
    if file is not None and huge:
        raise click.UsageError("--file and --huge do not go together")
    with Region.open(path) as region, terminal.working(f"mapping {notation.size(size)}"):
        if file is None:
            region.map(
                offset,
                size,
                prot="rw" if prot is None else prot,
                huge=huge,
                reserve=not no_reserve,
                replace=not no_replace,
            )
            return
        flags = abi.MAP_SHARED | abi.MAP_FIXED
        flags |= abi.MAP_NORESERVE if no_reserve else 0
        flags |= abi.MAP_FIXED_NOREPLACE if no_replace else 0
        bits = notation.prot_bits("r" if prot is None else prot)
        _map_file(region, file, abi.CreateMapping(offset, size, file_offset or 0, bits, flags))


@click.command(short_help="Take away what is mapped.")
@click.argument("path", type=REGION)
@click.argument("offset", type=SIZE)
@click.argument("size", type=SIZE)
def unmap(path: str, offset: int, size: int) -> None:
    """Take away what is mapped in SIZE bytes at OFFSET of the region.

    It is gone at once from every process, and its memory is free.
    """
    with Region.open(path) as region, terminal.working(f"unmapping {notation.size(size)}"):
        region.unmap(offset, size)


@click.command(short_help="Write mapped files back.")
@click.argument("path", type=REGION)
def sync(path: str) -> None:
    """Have files that are mapped for writing get what was changed in the region.

    Pages that were changed are written, and stored where they outlive the machine. What cannot be
    written stays in the region, and `mshare stat` says which file it is.
    """
    with Region.open(path, writable=False) as region, terminal.working("writing back"):
        try:
            os.fsync(region.fileno())
        except OSError as error:
            raise CommandError(_sync_refusal(region, error)) from error


@click.command(short_help="Remove regions.")
@click.argument("paths", metavar="PATH...", type=REGION, nargs=-1, required=True)
def rm(paths: tuple[str, ...]) -> int:
    """Remove the names of regions.

    A region lives on until the last process has closed and unmapped it.
    """
    failed: list[str] = []
    for path in paths:
        try:
            _remove(path)
        except OSError as error:
            failed.append(sentence(error))
        except InspectError as error:
            failed.append(str(inspected(error)))
    for reason in failed:
        click.echo(f"mshare: {reason}", err=True)
    return EXIT_REFUSED if failed else 0


def _remove(path: str) -> None:
    """Unlink a region, and nothing that is something else."""
    mount = mounts.mount_of(path)
    if not stat_module.S_ISREG(os.lstat(path).st_mode) or mounts.is_info(mount, path):
        raise InspectError(f"{path} is not a region")
    os.unlink(path)


def _map_file(region: Region, file: str, request: abi.CreateMapping) -> None:
    """CREATE_MAPPING of a file, which the mount finds by the descriptor in our process."""
    access = os.O_RDWR if request.prot & abi.PROT_WRITE else os.O_RDONLY
    # Not to wait for the other end of a pipe, which is refused anyway.
    fd = os.open(file, access | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _warn_of_readers(region, fd, file)
        fcntl.ioctl(region.fileno(), abi.CREATE_MAPPING, replace(request, fd=fd).pack())
    except OSError as error:
        raise CommandError(_file_refusal(region, file, request, error)) from error
    finally:
        os.close(fd)


def _warn_of_readers(region: Region, fd: int, file: str) -> None:
    """Who may read the region sees the copy, whatever the file's own mode says."""
    wider = os.fstat(region.fileno()).st_mode & ~os.fstat(fd).st_mode & 0o044
    if wider:
        name = formatting.name(os.fsdecode(region.path))
        terminal.note(f"more users may read {name} than {formatting.name(file)}")


def _sync_refusal(region: Region, error: OSError) -> str:
    """Which files could not be written, and why."""
    name = formatting.name(os.fsdecode(region.path))
    files = [m.file for m in region.layout().mappings if m.file and m.file.error]
    told = [
        f"{formatting.name(f.path)}: {f.error} ({notation.size(f.unwritten)} not written)"
        for f in files
    ]
    return f"cannot write {name} back: {'; '.join(told) or error.strerror}"


def _file_refusal(region: Region, file: str, request: abi.CreateMapping, error: OSError) -> str:
    """Why a file was not mapped, as far as it can be told from here."""
    what = f"cannot map {formatting.name(file)} into {formatting.name(os.fsdecode(region.path))}"
    number = error.errno or errno.EIO
    if number in {errno.ENODEV, errno.EACCES, errno.EBADF}:
        return f"{what}: it is not a file that can be mapped so ({os.strerror(number)})"
    if number == errno.EEXIST:
        return f"{what}: something is mapped there already"
    if number == errno.EINVAL:
        problem = _range_problem(region, request)
        return f"{what}: {problem or 'it is not a file that can be mapped'}"
    return f"{what}: {os.strerror(number)}"


def _range_problem(region: Region, request: abi.CreateMapping) -> str:
    """What is wrong with the range, if anything is."""
    try:
        size = region.size
    except MshareError:
        return ""
    if size == 0:
        return "the region has no size yet"
    if request.size == 0:
        return "the size is 0"
    for name, value in (("offset", request.region_offset), ("file offset", request.offset)):
        if value % abi.PAGE_SIZE:
            return f"the {name} is no multiple of {abi.PAGE_SIZE}"
    if request.region_offset + request.size > size:
        return f"the region ends at {notation.exact_size(size)}"
    return ""
