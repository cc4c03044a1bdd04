"""mshare run: a program's large shared memory in a region, without a change to the program.

Owns the options, the region's life and the environment that the library reads. What happens
while the program runs is msharefs.preload's.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from msharefs import Region, RegionTooLarge, alignment, notation
from msharefs.cli import formatting
from msharefs.cli.errors import sentence
from msharefs.cli.params import MODE, REGION, SIZE
from msharefs.cli.run_forecast import Forecast, sentences
from msharefs.preload import leftovers, regions
from msharefs.preload.collecting import Task
from msharefs.preload.library import LibraryError, find_library, why_out_of_reach
from msharefs.preload.run_file import RunFile, Story
from msharefs.preload.run_file import create as create_run_file
from msharefs.preload.runner import Outcome, Runner

# As env(1) and timeout(1) have them.
EXIT_FAILED = 125
EXIT_NOT_RUNNABLE = 126
EXIT_NOT_FOUND = 127

DEFAULT_SIZE = 1 << 40
SMALLEST_DEFAULT = 1 << 30

SHM = Path("/dev/shm")
CLAIM_SECONDS = 2.0
"""How long two runs that begin on one region at the same moment may get in each other's way."""


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
    dry_run: bool


@click.command(
    short_help="Run a program with its shared memory in a region.",
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
@click.option("--dry-run", is_flag=True, help="Say what would happen, and run nothing.")
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
        code = _forecast(options, command) if options.dry_run else _run(options, command)
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


def _forecast(options: RunOptions, command: tuple[str, ...]) -> int:
    """Say what `_run` would do. The code is what is known of its code."""
    library = _preloadable(find_library())
    found = shutil.which(command[0])
    if found is None:
        raise RunError(f"{formatting.name(command[0])}: command not found", EXIT_NOT_FOUND)
    path = _resolved(options.path)
    alignment(os.path.dirname(path))  # it is a mounted msharefs
    size = None
    if os.path.lexists(path):
        with _existing(path, options) as region:
            size = region.size
    obstacle = why_out_of_reach(library, found)
    forecast = Forecast(found, obstacle, path, size, options.min_size, options.shm)
    for each in sentences(forecast):
        click.echo(f"mshare run: {each}")
    return EXIT_FAILED if obstacle and options.strict else 0


def _run(options: RunOptions, command: tuple[str, ...]) -> int:
    library = _preloadable(find_library())
    _keep_standard_descriptors_free()
    files = _directory_for_files()
    leftovers.clean_up(files)
    with ExitStack() as stack:
        run_file = create_run_file(files)
        # Until the collector has it in its charge.
        undo = stack.enter_context(ExitStack())
        undo.callback(run_file.remove)
        region = stack.enter_context(_region_of_the_run(options, run_file))
        made = run_file.story.made
        if made:
            undo.callback(regions.remove, run_file)
        _claim(run_file, region, files)
        # Segments with names may grow without memory where page faults bring it, and nowhere else.
        if made and not options.shm:
            region.claim()
        regions.be_first(region, run_file)
        asked = stack.enter_context(_listening(run_file))
        environment = {
            **os.environ,
            **_settings(options, run_file),
            "LD_PRELOAD": ":".join(filter(None, [library, os.environ.get("LD_PRELOAD")])),
        }
        _check_reach(options, library, command[0])
        undo.pop_all()
        runner = Runner(Task(region, run_file, asked, keep=options.keep))
        outcome = _run_command(runner, command, environment)
    if options.verbose:
        _say_what_was(options, outcome)
    return outcome.code


def _run_command(runner: Runner, command: tuple[str, ...], environment: dict[str, str]) -> Outcome:
    shown = formatting.name(command[0])
    try:
        return runner.run(command, environment)
    except FileNotFoundError:
        raise RunError(f"{shown}: command not found", EXIT_NOT_FOUND) from None
    except ChildProcessError as error:
        raise RunError(str(error)) from None
    except OSError as error:
        raise RunError(f"{shown}: {error.strerror}", EXIT_NOT_RUNNABLE) from None


def _check_reach(options: RunOptions, library: str, name: str) -> None:
    """Say that the library cannot be loaded into the command itself; RunError with --strict."""
    found = shutil.which(name)
    reason = why_out_of_reach(library, found) if found else None
    if reason is None or not (options.verbose or options.strict):
        return
    text = f"{formatting.name(name)} cannot have its memory in the region: {reason}"
    if options.strict:
        raise RunError(text)
    _say(text)


def _say_what_was(options: RunOptions, outcome: Outcome) -> None:
    shown = formatting.name(options.path)
    _say(f"at most {notation.size(outcome.peak)} lived in {shown}")
    if outcome.left:
        _say(f"processes that the command has left go on; {shown} goes with the last of them")


def _settings(options: RunOptions, run_file: RunFile) -> dict[str, str]:
    """What the library reads (settings.c)."""
    status = os.fstat(run_file.fileno())
    return {
        "MSHAREFS_REGION": run_file.story.region,
        "MSHAREFS_RUN": str(run_file.path),
        "MSHAREFS_RUN_ID": f"{status.st_dev}:{status.st_ino}",
        "MSHAREFS_COLLECTOR": str(run_file.socket_path),
        "MSHAREFS_MIN_SIZE": str(options.min_size),
        "MSHAREFS_SHM": str(int(options.shm)),
        "MSHAREFS_STRICT": str(int(options.strict)),
        "MSHAREFS_VERBOSE": str(int(options.verbose)),
    }


def _keep_standard_descriptors_free() -> None:
    """Where the caller has closed some of 0 to 2, nothing of ours may get these numbers. The
    command finds them closed."""
    while os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC) <= 2:
        pass


def _directory_for_files() -> Path:
    """Where the run's own file goes: memory, if there is such a place."""
    return SHM if os.access(SHM, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


@contextmanager
def _listening(run_file: RunFile) -> Iterator[socket.socket]:
    """Where processes of the run ask its collector; nobody but this user can reach it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as asked:
        asked.bind(str(run_file.socket_path))
        run_file.socket_path.chmod(0o600)
        yield asked


def _region_of_the_run(options: RunOptions, run_file: RunFile) -> Region:
    """The region, open, and described in the run's file."""
    path = _resolved(options.path)
    while True:
        if os.path.lexists(path):
            region, made = _existing(path, options), False
        else:
            region, made = _create(path, options, run_file), True
        try:
            mode = os.fstat(region.fileno()).st_mode
            story = Story(path, made and not options.keep, regions.creator_of(region))
            run_file.describe(story, region.size, mode)
            if made:
                _give_its_name(region, path)
        except FileExistsError:
            # Another one was faster.
            region.close()
            continue
        except BaseException:
            region.close()
            raise
        return region


def _resolved(path: str) -> str:
    """With a directory that is absolute and without links."""
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))


def _give_its_name(region: Region, path: str) -> None:
    """The name is the region's from now on; FileExistsError if it is another's."""
    try:
        os.link(region.path, path)
    finally:
        os.unlink(region.path)


def _claim(run_file: RunFile, region: Region, files: Path) -> None:
    """Take the region for this run alone: two at once would give back each other's ranges."""
    status = os.fstat(region.fileno())
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        run_file.region_identity = status.st_dev, status.st_ino
        in_use = leftovers.is_in_use(files, run_file)
        if in_use is False:
            run_file.claim_region()
            return
        run_file.region_identity = 0, 0
        if in_use or time.monotonic() > deadline:
            shown = formatting.name(run_file.story.region)
            raise RunError(f"{shown} is in use by another mshare run")
        # Both see the other and step back; who comes again first has it.
        time.sleep(random.uniform(0.005, 0.05))


def _create(path: str, options: RunOptions, run_file: RunFile) -> Region:
    """A new region of the size that was asked for, or else of the largest default. It has a name
    yet that says that it is being made."""
    size = options.size or DEFAULT_SIZE
    unit = alignment(os.path.dirname(path))
    making = regions.name_in_the_making(run_file, path)
    run_file.describe(Story(path, made=True, creator=0), 0, 0)
    while True:
        try:
            region = Region.create(making, -(-size // unit) * unit, mode=options.mode)
        except RegionTooLarge:
            if options.size or size <= SMALLEST_DEFAULT:
                raise
            size //= 2
            continue
        # What was asked for, whatever the umask.
        os.fchmod(region.fileno(), options.mode)
        return region


def _existing(path: str, options: RunOptions) -> Region:
    """A region that is there already. RunError if others than this user may have a part in it
    that --mode does not allow them."""
    shown = formatting.name(path)
    region = Region.open(path)
    try:
        status = os.fstat(region.fileno())
        mode = stat.S_IMODE(status.st_mode)
        if region.size == 0:
            raise RunError(f"{shown} has no size yet")
        if status.st_uid != os.geteuid():
            raise RunError(f"{shown} belongs to another user")
        if mode & ~options.mode:
            raise RunError(
                f"{shown} has mode {mode:03o}, which is wider than --mode {options.mode:03o}"
            )
    except BaseException:
        region.close()
        raise
    return region


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
