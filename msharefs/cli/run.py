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
from msharefs.preload.guard import Guard
from msharefs.preload.keeper import Keeper
from msharefs.preload.library import LibraryError, find_library
from msharefs.preload.registry import SIZE as REGISTRY_SIZE
from msharefs.preload.registry import Registry, try_lock
from msharefs.preload.supervisor import Supervisor

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
class Wishes:
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
def run(ctx: click.Context, /, command: tuple[str, ...], **options: object) -> None:
    """Run COMMAND with its large shared anonymous memory in a region.

    COMMAND and all that it starts are not changed: a library that is loaded into them puts
    what they map with MAP_SHARED and MAP_ANONYMOUS into the region, where it takes next to no
    page tables. What does not fit there they get from the kernel, with a line on stderr.

    Example: mshare run --region /mnt/mshare/pg -- postgres -D /srv/pg
    """
    wishes = Wishes(**options)  # type: ignore[arg-type]  # click has checked the types
    try:
        code = _run(wishes, command)
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


def _run(wishes: Wishes, command: tuple[str, ...]) -> int:
    library = _preloadable(find_library())
    with ExitStack() as stack:
        region, guard = stack.enter_context(_region_of_the_run(wishes))
        registry = None
        if wishes.shm:
            registry = Registry(region, _room_for_registry(region))
        keeper = Keeper(region, registry, guard)
        stack.callback(keeper.close)
        supervisor = Supervisor(keeper, keep=wishes.keep, say=_say if wishes.verbose else None)
        stack.callback(supervisor.close)
        environment = {
            **os.environ,
            **_settings(wishes, region, registry, supervisor.name),
            "LD_PRELOAD": ":".join(filter(None, [library, os.environ.get("LD_PRELOAD")])),
        }
        code = _run_command(supervisor, command, environment)
        if wishes.verbose:
            _say(f"at most {notation.size(keeper.peak)} lived in {formatting.name(wishes.path)}")
        return code


def _run_command(
    supervisor: Supervisor, command: tuple[str, ...], environment: dict[str, str]
) -> int:
    shown = formatting.name(command[0])
    try:
        supervisor.start(command, environment)
    except FileNotFoundError:
        raise RunError(f"{shown}: command not found", EXIT_NOT_FOUND) from None
    except OSError as error:
        raise RunError(f"{shown}: {error.strerror}", EXIT_NOT_RUNNABLE) from None
    return supervisor.wait()


def _settings(
    wishes: Wishes, region: Region, registry: Registry | None, supervisor: str
) -> dict[str, str]:
    """What the library reads (settings.c)."""
    status = os.fstat(region.fileno())
    return {
        "MSHAREFS_REGION": os.fsdecode(region.path),
        "MSHAREFS_REGION_ID": f"{status.st_dev}:{status.st_ino}",
        "MSHAREFS_MIN_SIZE": str(wishes.min_size),
        "MSHAREFS_SUPERVISOR": supervisor,
        "MSHAREFS_REGISTRY": "" if registry is None else str(registry.offset),
        "MSHAREFS_STRICT": str(int(wishes.strict)),
        "MSHAREFS_VERBOSE": str(int(wishes.verbose)),
    }


@contextmanager
def _region_of_the_run(wishes: Wishes) -> Iterator[tuple[Region, int]]:
    """The region, open, and the process that guards it (0: none). One that was made for the run
    is removed at the end of it, however that comes about."""
    path = os.path.join(
        os.path.realpath(os.path.dirname(wishes.path) or "."), os.path.basename(wishes.path)
    )
    try:
        region = _create(path, wishes)
    except RegionExists:
        with _existing(path) as region:
            yield region, 0
        return
    with region, ExitStack() as stack:
        guard = 0
        if not wishes.keep:
            status = os.fstat(region.fileno())
            watching = Guard(path, (status.st_dev, status.st_ino))
            stack.callback(_remove, watching)
            guard = watching.pid
        _claim(region)
        # What was asked for, whatever the umask.
        os.fchmod(region.fileno(), wishes.mode)
        yield region, guard


def _remove(guard: Guard) -> None:
    """Whatever becomes of the region, the exit code is the command's."""
    try:
        guard.end()
    except OSError as error:
        _say(sentence(error))


def _create(path: str, wishes: Wishes) -> Region:
    """A new region of the size that was asked for, or else of the largest default."""
    size = wishes.size or DEFAULT_SIZE
    unit = alignment(os.path.dirname(path))
    while True:
        try:
            return Region.create(path, -(-size // unit) * unit, mode=wishes.mode)
        except RegionTooLarge:
            if wishes.size or size <= SMALLEST_DEFAULT:
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


def _room_for_registry(region: Region) -> int:
    """Behind everything that is mapped already."""
    mapped = [mapping.end for mapping in region.layout().mappings]
    offset = -(-max(mapped, default=0) // SPARE) * SPARE
    if offset + REGISTRY_SIZE > region.size:
        raise RunError("the region has no room for the registry of --shm")
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
