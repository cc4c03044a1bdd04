"""The command line of the proof: what is measured, on what, and the table."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from .measure import SIDES, Samples, measure, medians
from .server import PROJECT, Cluster, ProofError, find_programs

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# PostgreSQL's shared memory is the buffers and a little for each connection.
BESIDE_BUFFERS = 512


def main(arguments: Sequence[str]) -> int:
    """0: measured; 1: something failed; 2: usage, or something is missing here."""
    options = _parse(arguments)
    if os.geteuid() != 0:
        return _complain("needs root, because the mount does", 2)
    try:
        programs = find_programs()
        pwd.getpwnam(options.user)
    except (ProofError, KeyError) as problem:
        return _complain(str(problem.args[0]), 2)
    for number in ENDING:
        signal.signal(number, _leave)
    start = time.monotonic()
    try:
        with _directory() as directory, _mount(directory, options.buffers) as mounted:
            cluster = Cluster(
                programs,
                directory / "cluster",
                options.user,
                f"{options.buffers}MB",
                max(options.clients) + 20,
            )
            samples = _measure(cluster, mounted / "postgres", options)
            version = cluster.run("postgres", "--version").strip()
    except (ProofError, OSError, subprocess.SubprocessError) as problem:
        return _complain(str(problem), 1)
    print(f"{version}, shared_buffers {options.buffers} MiB, scale {options.scale},")
    print(f"pgbench -S -M prepared, {options.rounds} rounds of {options.seconds} s; medians")
    print(table(samples))
    _say(f"{time.monotonic() - start:.0f} s in all")
    if options.json:
        _write_json(options.json, samples)
    return 0


def _measure(cluster: Cluster, region: Path, options: argparse.Namespace) -> Samples:
    _say(f"making a cluster of scale {options.scale}")
    cluster.directory.mkdir()
    cluster.create()
    with cluster.serve(None):
        cluster.fill(options.scale)
    return measure(
        cluster, region, options.clients, rounds=options.rounds, seconds=options.seconds, say=_say
    )


def table(samples: Samples) -> str:
    """One line for each number of clients; ratios say how much better the region is."""
    head = (
        f"{'':>7} | {'queries a second':^25} | {'connect, ms':^25} | {'page tables, MiB':^25}\n"
        f"{'clients':>7}" + f" | {'plain':>8} {'region':>8} {'ratio':>7}" * 3
    )
    lines = [head, "-" * 8 + ("+" + "-" * 27) * 3]
    for clients in sorted({clients for clients, _ in samples}):
        plain, region = (medians(samples[clients, side]) for side in SIDES)
        cells = [
            (plain.tps, region.tps, region.tps / plain.tps),
            (plain.connect, region.connect, plain.connect / region.connect),
            (
                plain.page_tables / 1024,
                region.page_tables / 1024,
                plain.page_tables / region.page_tables,
            ),
        ]
        columns = "".join(f" | {a:>8,.0f} {b:>8,.0f} {ratio:>7.2f}" for a, b, ratio in cells)
        lines.append(f"{clients:>7}{columns}")
    return "\n".join(lines)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="msharefs-postgres-"))
    # The server's user must reach what is in it.
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def _mount(directory: Path, buffers: int) -> Iterator[Path]:
    path = directory / "mount"
    path.mkdir()
    command = [sys.executable, "-m", "msharefs.cli.mount", "msharefs-postgres", str(path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    options = f"size={buffers + BESIDE_BUFFERS}M,mode=0755"
    done = subprocess.run(
        [*command, "-o", options],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise ProofError(f"no mount: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/postgres", description="PostgreSQL with and without mshare run."
    )
    parser.add_argument(
        "--clients",
        type=lambda text: [int(word) for word in text.split(",")],
        default=[100, 200, 400],
        metavar="N,...",
        help="how many at a time (default: 100,200,400)",
    )
    parser.add_argument("--rounds", type=int, default=3, help="blocks of each side (default: 3)")
    parser.add_argument("--seconds", type=int, default=8, help="a run (default: 8)")
    parser.add_argument(
        "--buffers", type=int, default=2048, metavar="MIB", help="shared_buffers (default: 2048)"
    )
    parser.add_argument("--scale", type=int, default=100, help="of pgbench (default: 100)")
    parser.add_argument("--user", default="postgres", help="whose cluster (default: postgres)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    return parser.parse_args(arguments)


def _write_json(path: Path, samples: Samples) -> None:
    rows = [
        {"clients": clients, "side": side, **dataclasses.asdict(sample)}
        for (clients, side), found in samples.items()
        for sample in found
    ]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(f"postgres: {text}", file=sys.stderr, flush=True)


def _complain(text: str, code: int) -> int:
    _say(text)
    return code


def _leave(number: int, _frame: FrameType | None) -> None:
    """A signal ends the run the way an exception does: everything is taken down."""
    for ending in ENDING:
        signal.signal(ending, signal.SIG_IGN)
    raise SystemExit(128 + number)
