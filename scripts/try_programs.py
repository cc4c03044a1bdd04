"""PyTorch and Ray, unchanged, on a real mount: under mshare run, and with the mount as a directory.

Installs both from the registry that pip knows into an environment of its own (3 GiB to fetch and
6 GiB of disk, most of it what PyTorch brings for graphics processors) and throws that away, runs
the programs beside this file, and says for each what arrived and where its memory was. Needs root, for the mount.
The tests of every day are tests/run/test_real_programs.py; this is too large for them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = Path(__file__).resolve().parent / "programs"
PACKAGES = ("torch", "ray", "numpy")
INSTALL_SECONDS = 3600
PROGRAM_SECONDS = 300
VERSIONS = "import torch, ray; print('torch', torch.__version__, 'ray', ray.__version__)"
BATCHES = 12
"""Of torch_loader.py, by both strategies."""


class Failed(Exception):
    """Something is not as it must be; the text says what."""


def main() -> int:
    """The command. 0: all as it must be; 1: not; 2: usage, or something is missing here."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--environment",
        type=Path,
        metavar="DIR",
        help="an environment that is there, or is made there and stays",
    )
    asked = parser.parse_args()
    if os.geteuid() != 0:
        print("try_programs: needs root, because the mount does", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="msharefs-programs-") as name:
        directory = Path(name)
        try:
            python = environment(asked.environment or directory / "environment")
            print(said([str(python), "-c", VERSIONS]).strip(), flush=True)
            with mount(directory / "mount") as place:
                loader_under_a_run(python, place)
                store_under_a_run(python, place, directory)
                store_in_a_directory(python, place, directory)
        except (Failed, OSError, subprocess.SubprocessError) as error:
            print(f"try_programs: {error}", file=sys.stderr)
            return 1
    return 0


def environment(directory: Path) -> Path:
    """The Python of an environment with the packages, made if it is not there."""
    python = directory / "bin" / "python"
    if not python.exists():
        venv.create(directory, with_pip=True)
        words = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
        subprocess.run(words, check=True, timeout=INSTALL_SECONDS)
    return python


@contextmanager
def mount(place: Path) -> Iterator[Path]:
    """A mount of this checkout at a new directory."""
    place.mkdir()
    command([sys.executable, "-m", "msharefs.cli.mount", "msharefs", str(place), "-o", "size=2G"])
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def loader_under_a_run(python: Path, place: Path) -> None:
    """PyTorch's loader: every batch arrives, and is in the region on its way."""
    text, notes = under_a_run(place, str(python), str(PROGRAMS / "torch_loader.py"))
    right = text == "file_descriptor True\nfile_system True\n"
    in_region = notes.count("of POSIX shared memory live in the region") == BATCHES
    expect("a loader of PyTorch under mshare run", right and in_region, text + notes)


def store_under_a_run(python: Path, place: Path, directory: Path) -> None:
    """Ray with its store in /dev/shm, which is the region."""
    words = [str(python), str(PROGRAMS / "ray_store.py"), str(directory / "ray-run")]
    text, _ = under_a_run(place, *words)
    arrived, *places = text.split()
    right = arrived == "True" and str(place / "region") in places
    expect("the store of Ray under mshare run", right, text)


def store_in_a_directory(python: Path, place: Path, directory: Path) -> None:
    """Ray with its store in a directory with automap, without mshare run."""
    store = place / "store"
    store.mkdir()
    os.setxattr(store, "user.msharefs.automap", b"on")
    words = [str(python), str(PROGRAMS / "ray_store.py"), str(directory / "ray-automap")]
    text = said([*words, str(store)])
    right = text.startswith(f"True {store}/")
    expect("the store of Ray in a directory with automap", right, text)


def under_a_run(place: Path, *words: str) -> tuple[str, str]:
    """What a program says under mshare run, and what the run says."""
    run = ["msharefs.cli.run", "--region", str(place / "region"), "--shm", "--min-size", "1M", "-v"]
    return command([sys.executable, "-m", *run, "--", *words])


def expect(what: str, right: bool, text: str) -> None:
    """Failed if it is not right, with what was said."""
    if not right:
        raise Failed(f"{what} is not as it must be:\n{text}")
    print(f"{what}: as it must be", flush=True)


def said(words: list[str]) -> str:
    """The output of a program that succeeds."""
    text, _ = command(words)
    return text


def command(words: list[str]) -> tuple[str, str]:
    """Output and complaints of a program that succeeds."""
    # Ray is not to tell anybody that it was used.
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS,
        check=False,
        env=surroundings,
    )
    if done.returncode:
        raise Failed(f"{words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout, done.stderr


if __name__ == "__main__":
    sys.exit(main())
