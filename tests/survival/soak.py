"""Kill the server again and again under many clients, and compare every byte and name.

Prints a table whose figures below the line must all be 0, and ends with 1 if one is not.
Needs root, as a mount with an arena of its own does. `make soak KILLS=200` runs it with
sixteen clients that know what the mount must be; `make soak ARGS="--twins 3600"` for an hour
with eight that do the same on tmpfs, which is what the mount must be; `make soak ARGS="--hostile 600"`
with the sixteen while all goes wrong at once; `make soak ARGS="--run 3600"` has programs that know
nothing of mshare make random calls plainly and under mshare run, and compares every answer;
`make soak ARGS="--files 3600"` does random steps with regions and files under kills. With `--data direct` clients attach
by the library, which gets them the memory itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tests.helpers.memory_group import missing_for_memory_groups
from tests.helpers.mount import STOP_SECONDS, Mount, missing_for_mounts, unmount
from tests.survival import answers, hostile, load, random_files, twins

Work = Callable[[Mount], load.Figures]
Run = tuple[Work, str, str]
"""What is done with a mount, the options of the mount, and what it is in words."""
LOG_SHOWN = 10_000
"""Bytes of the daemon's log, should anything be wrong."""


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how often (200)")
    parser.add_argument(
        "--twins",
        type=float,
        metavar="SECONDS",
        help="instead, compare operations on names with tmpfs for so long",
    )
    parser.add_argument(
        "--hostile",
        type=float,
        metavar="SECONDS",
        help="instead, use disk, memory and descriptors up and let neighbours attack for so long",
    )
    parser.add_argument(
        "--run",
        type=float,
        metavar="SECONDS",
        help="instead, compare programs plainly and under mshare run for so long",
    )
    parser.add_argument(
        "--files",
        type=float,
        metavar="SECONDS",
        help="instead, map random files, change them and kill the server for so long",
    )
    parser.add_argument("--data", default="passthrough", help="data plane (passthrough)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    asked = parser.parse_args()
    missing = missing_for_mounts()
    if missing is not None:
        print(f"soak: {missing}", file=sys.stderr)
        return 2
    with run_of(asked) as (work, options, what):
        return soak(work, options, what, asked)


def soak(work: Work, options: str, what: str, asked: argparse.Namespace) -> int:
    """Mount, work, and show what came of it. Returns the exit code."""
    print(f"{what}, data={asked.data}, seed {asked.seed}", flush=True)
    mounted = Mount(f"{options},data={asked.data}")
    try:
        mounted.wait_until_it_answers()
        began = time.monotonic()
        figures = work(mounted)
        seconds = time.monotonic() - began
        figures.zeros["wrong ends"] += not ends_well(mounted)
        log = "" if good(figures) else mounted.log()
    except BaseException:
        print(mounted.log()[-LOG_SHOWN:], file=sys.stderr)
        raise
    finally:
        mounted.discard()
    print(log[-LOG_SHOWN:], end="", file=sys.stderr)
    show(figures, seconds)
    return int(not good(figures))


def good(figures: load.Figures) -> bool:
    """Nothing is wrong."""
    return not (figures.client_errors or any(figures.zeros.values()))


@contextmanager
def run_of(asked: argparse.Namespace) -> Iterator[Run]:
    """What was asked for."""
    if asked.hostile is not None:
        with hostile_of(asked) as run:
            yield run
    elif asked.run is not None:
        yield answers_of(asked)
    elif asked.files is not None:
        yield files_of(asked)
    else:
        yield load_of(asked) if asked.twins is None else twins_of(asked)


def load_of(asked: argparse.Namespace) -> Run:
    """So many kills under clients with a model."""
    what = f"{load.CLIENTS} clients, {asked.kills} kills"
    return partial(load.run, kills=asked.kills, seed=asked.seed), load.OPTIONS, what


def twins_of(asked: argparse.Namespace) -> Run:
    """So many seconds of the same on the mount and on tmpfs."""
    what = f"{twins.CLIENTS} clients, {asked.twins:.0f} s beside tmpfs"
    return partial(twins.run, seconds=asked.twins, seed=asked.seed), twins.OPTIONS, what


def answers_of(asked: argparse.Namespace) -> Run:
    """So many seconds of the same calls plainly and under mshare run."""
    what = f"programs plainly and under mshare run, {asked.run:.0f} s"
    return partial(answers.run, seconds=asked.run, seed=asked.seed), answers.OPTIONS, what


def files_of(asked: argparse.Namespace) -> Run:
    """So many seconds of random steps with files in regions, under kills."""
    what = f"random steps with files, {asked.files:.0f} s"
    work = partial(random_files.soak, seconds=asked.files, seed=asked.seed)
    return work, random_files.OPTIONS, what


@contextmanager
def hostile_of(asked: argparse.Namespace) -> Iterator[Run]:
    """So many seconds of all troubles at once."""
    what = f"{load.CLIENTS} clients, {asked.hostile:.0f} s of troubles"
    with hostile.surroundings() as group:
        if group is None:
            what += f", but not for want of memory: {missing_for_memory_groups()}"
        work = partial(hostile.run, group=group, seconds=asked.hostile, seed=asked.seed)
        yield work, hostile.OPTIONS, what


def ends_well(mounted: Mount) -> bool:
    """Whether umount ends the daemon with 0, and its memory and state are gone."""
    unmount(mounted.path)
    code = mounted.process.wait(STOP_SECONDS)
    return code == 0 and mounted.state is not None and not mounted.state.exists()


def show(figures: load.Figures, seconds: float) -> None:
    """The table, and the clients' errors if there are any."""
    lines: list[tuple[str, object]] = [
        ("seconds", f"{seconds:.0f}"),
        ("servers killed", figures.kills),
        ("operations of the clients", f"{figures.operations:,}"),
        ("operations refused", f"{figures.refused:,}"),
        ("requests sent again", f"{figures.resent:,}"),
        ("gap, median (ms)", f"{figures.median_gap * 1000:.0f}"),
        ("gap, 95 % (ms)", f"{figures.gap(0.95) * 1000:.0f}"),
        ("gap, longest (ms)", f"{figures.gap(1) * 1000:.0f}"),
        ("-" * 26, "-" * 9),
        ("client errors", len(figures.client_errors)),
        *figures.zeros.items(),
    ]
    for name, value in lines:
        print(f"  {name:<28}{value!s:>12}")
    for error in figures.client_errors:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
