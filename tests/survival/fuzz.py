"""Send the server's switchboard and handlers a million requests of any kind, on fakes: no mount.

`make soak` runs it after the kills; `python -m tests.survival.fuzz --requests 1000000 --seed 7` alone.
Ends with 1 at the first request that is not answered as it must be, which it prints.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time

import trio

from tests.unit.support.fuzzing import PLANES, fuzzed
from tests.unit.support.requests import Requests

SUMMED = 1000
"""Requests between two looks at the sums."""


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many (1,000,000)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6)
    asked = parser.parse_args()
    # What is malformed has a line each, which nobody reads here; faults of the server are kept.
    logging.getLogger().addHandler(logging.NullHandler())
    for plane in PLANES:
        began = time.monotonic()
        count = asked.requests // len(PLANES)
        fault = ""
        try:
            trio.run(_send, plane, count, asked.seed)
        except* AssertionError as group:
            fault = str(group.exceptions[0])
        if fault:
            print(f"fuzz: {plane}, seed {asked.seed}: {fault}", file=sys.stderr)
            return 1
        seconds = time.monotonic() - began
        print(f"  {plane}: {count:,} requests in {seconds:.0f} s, seed {asked.seed}: no fault")
    return 0


async def _send(plane: str, count: int, seed: int) -> None:
    async with fuzzed(PLANES[plane]()) as server:
        requests = Requests(random.Random(seed).randrange, server.inodes)
        for number in range(count):
            await server.ask(requests.next())
            if number % SUMMED == 0:
                server.check_sums()
        server.check_sums()


if __name__ == "__main__":
    sys.exit(main())
