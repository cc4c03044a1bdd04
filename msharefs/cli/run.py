"""mshare run: a program's large shared memory in a region, without a change to the program.

Owns the options, the region's life and the environment that the library reads. What happens
while the program runs is msharefs.preload's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from msharefs import Region, RegionExists, RegionTooLarge, alignment, notation
from msharefs.cli import formatting
from msharefs.cli.errors import sentence
from msharefs.cli.params import MODE, REGION, SIZE
from msharefs.preload.collector import Collector
from msharefs.preload.guard import Guard
from msharefs.preload.library import LibraryError, find_library
from msharefs.preload.runner import Runner
from msharefs.preload.segments import SIZE as TABLE_SIZE
from msharefs.preload.segments import SegmentTable, try_lock

# As env(1) and timeout(1) have them.
EXIT_FAILED = 125
EXIT_NOT_RUNNABLE = 126
EXIT_NOT_FOUND = 127

DEFAULT_SIZE = 1 << 40
SMALLEST_DEFAULT = 1 << 30
# A byte beyond every region, so that it is nobody else's lock.
RUN_LOCK = (1 << 62) + 1
SPARE = 2 << 20


class RunError(Exception):
    """The program cannot be started; the text is one sentence."""

    def __init__(self, sentence: str, code: int = EXIT_FAILED) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options."""

    path: str
    min_size: int
    size: int | None
    mode: int
    shm: bool
    strict: bool
    verbose: bool
    keep: bool


@click.command(
    context_settings={"allow_interspersed_args": False},
    epilog="The exit code is that of COMMAND; 128+N if signal N ended it; 125 if mshare run "
    "itself failed, 126 if COMMAND cannot be run, 127 if it is not found.",
)
@click.option(
    "--region",
    "path",
    type=REGION,
    required=True,
    help="The region: a path on an msharefs mount. Made if it is not there, and then removed "
    "at the end.",
)
@click.option(
    "--min-size",
    type=SIZE,
    default="64M",
    show_default=True,
    help="Leave mappings smaller than this to the kernel.",
)
@click.option(
    "--size",
    type=SIZE,
    help="Size of the region, if it is made; it costs nothing.  [default: 1T]",
)
@click.option("--mode", type=MODE, default="600", show_default=True, help="Its permissions.")
@click.option("--shm", is_flag=True, help="Segments of shm_open and shmget as well.")
@click.option("--strict", is_flag=True, help="End a process whose memory cannot be in the region.")
@click.option("--keep", is_flag=True, help="Leave the region and what is in it at the end.")
@click.option("-v", "--verbose", is_flag=True, help="Say what was put where.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, /, command: tuple[str, ...], **words: object) -> None:
    """Run COMMAND with its large shared anonymous memory in a region.

    COMMAND and all that it starts are not changed: a library that is loaded into them puts
    what they map with MAP_SHARED and MAP_ANONYMOUS into the region, where it takes next to no
    page tables. What does not fit there they get from the kernel, with a line on stderr.

    Example: mshare run --region /mnt/mshare/pg -- postgres -D /srv/pg
    """
    options = RunOptions(**words)  # type: ignore[arg-type]  # click has checked the types
    try:
        code = _run(options, command)
    except RunError as error:
        _say(str(error))
        code = error.code
    except LibraryError as error:
        _say(str(error))
        code = EXIT_FAILED
    except OSError as error:
        _say(sentence(error))
        code = EXIT_FAILED
    ctx.exit(code)


def _run(options: RunOptions, command: tuple[str, ...]) -> int:
    library = _preloadable(find_library())
    with ExitStack() as stack:
        region, guard = stack.enter_context(_region_of_the_run(options))
        table = None
        if options.shm:
            table = SegmentTable(region, _room_for_table(region))
        collector = Collector(region, table, guard)
        stack.callback(collector.close)
        runner = Runner(collector, keep=options.keep, say=_say if options.verbose else None)
        stack.callback(runner.close)
        environment = {
            **os.environ,
            **_settings(options, region, table, runner.name),
            "LD_PRELOAD": ":".join(filter(None, [library, os.environ.get("LD_PRELOAD")])),
        }
        code = _run_command(runner, command, environment)
        if options.verbose:
            _say(
                f"at most {notation.size(collector.peak)} lived in {formatting.name(options.path)}"
            )
        return code


def _run_command(runner: Runner, command: tuple[str, ...], environment: dict[str, str]) -> int:
    shown = formatting.name(command[0])
    try:
        runner.start(command, environment)
    except FileNotFoundError:
        raise RunError(f"{shown}: command not found", EXIT_NOT_FOUND) from None
    except OSError as error:
        raise RunError(f"{shown}: {error.strerror}", EXIT_NOT_RUNNABLE) from None
    return runner.wait()


def _settings(
    options: RunOptions, region: Region, table: SegmentTable | None, runner: str
) -> dict[str, str]:
    """What the library reads (settings.c)."""
    status = os.fstat(region.fileno())
    return {
        "MSHAREFS_REGION": os.fsdecode(region.path),
        "MSHAREFS_REGION_ID": f"{status.st_dev}:{status.st_ino}",
        "MSHAREFS_MIN_SIZE": str(options.min_size),
        "MSHAREFS_COLLECTOR": runner,
        "MSHAREFS_SEGMENTS": "" if table is None else str(table.offset),
        "MSHAREFS_STRICT": str(int(options.strict)),
        "MSHAREFS_VERBOSE": str(int(options.verbose)),
    }


@contextmanager
def _region_of_the_run(options: RunOptions) -> Iterator[tuple[Region, int]]:
    """The region, open, and the process that guards it (0: none). One that was made for the run
    is removed at the end of it, however that comes about."""
    path = os.path.join(
        os.path.realpath(os.path.dirname(options.path) or "."), os.path.basename(options.path)
    )
    try:
        region = _create(path, options)
    except RegionExists:
        with _existing(path) as region:
            yield region, 0
        return
    with region, ExitStack() as stack:
        guard = 0
        if not options.keep:
            status = os.fstat(region.fileno())
            watching = Guard(path, (status.st_dev, status.st_ino))
            stack.callback(_remove, watching)
            guard = watching.pid
        _claim(region)
        # What was asked for, whatever the umask.
        os.fchmod(region.fileno(), options.mode)
        yield region, guard


def _remove(guard: Guard) -> None:
    """Whatever becomes of the region, the exit code is the command's."""
    try:
        guard.end()
    except OSError as error:
        _say(sentence(error))


def _create(path: str, options: RunOptions) -> Region:
    """A new region of the size that was asked for, or else of the largest default."""
    size = options.size or DEFAULT_SIZE
    unit = alignment(os.path.dirname(path))
    while True:
        try:
            return Region.create(path, -(-size // unit) * unit, mode=options.mode)
        except RegionTooLarge:
            if options.size or size <= SMALLEST_DEFAULT:
                raise
            size //= 2


@contextmanager
def _existing(path: str) -> Iterator[Region]:
    with Region.open(path) as region:
        if region.size == 0:
            raise RunError(f"{formatting.name(path)} has no size yet")
        _claim(region)
        yield region


def _claim(region: Region) -> None:
    """Two runs at once would give back each other's ranges."""
    if not try_lock(region.fileno(), RUN_LOCK):
        raise RunError(
            f"{formatting.name(os.fsdecode(region.path))} is in use by another mshare run"
        )


def _room_for_table(region: Region) -> int:
    """Behind everything that is mapped already."""
    mapped = [mapping.end for mapping in region.layout().mappings]
    offset = -(-max(mapped, default=0) // SPARE) * SPARE
    if offset + TABLE_SIZE > region.size:
        raise RunError("the region has no room for the table of --shm")
    return offset


def _preloadable(library: Path) -> str:
    """The dynamic linker takes blanks and colons for separators, and has no quotes."""
    text = str(library)
    if set(text) & set(" :\t\n"):
        raise LibraryError(f"the dynamic linker cannot load a library with such a path: {text}")
    return text


def _say(text: str) -> None:
    click.echo(f"mshare run: {text}", err=True)


if __name__ == "__main__":
    run(prog_name="mshare run")
