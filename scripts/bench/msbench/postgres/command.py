"""The command line of the PostgreSQL table: what is measured, on what, and how it is shown."""

from __future__ import annotations

import argparse
import dataclasses
import json
import pwd
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..processes import NotMeasured, Placement
from ..report import machine
from ..site import Site
from .cluster import Cluster, find_programs
from .rounds import SIDES, Samples, measure, medians

# PostgreSQL's shared memory is the buffers and a little for each connection.
BESIDE_BUFFERS = 512


def main(arguments: Sequence[str]) -> int:
    """Measure and print. 0: measured; 2: PostgreSQL or its user is missing here."""
    options = _parse(arguments)
    try:
        programs = find_programs()
        pwd.getpwnam(options.user)
    except (NotMeasured, KeyError) as problem:
        _say(str(problem.args[0]))
        return 2
    start = time.monotonic()
    # Clients and server share all processors, as they would without us.
    with Site(Placement.named("free")) as site:
        cluster = Cluster(
            programs,
            site.directory / "cluster",
            options.user,
            f"{options.buffers}MB",
            max(options.clients) + 20,
        )
        with site.msharefs(f"size={options.buffers + BESIDE_BUFFERS}M,mode=0755") as mounted:
            samples = _measure(cluster, mounted.path / "postgres", options)
        version = cluster.run("postgres", "--version").strip()
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


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/run postgres", description="PostgreSQL with and without mshare run."
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
    text = json.dumps({"version": 1, "machine": machine(), "rows": rows}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(f"postgres: {text}", file=sys.stderr, flush=True)
