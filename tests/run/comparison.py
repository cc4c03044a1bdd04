"""The same random calls plainly and under mshare run, compared line by line.

Used by the tests, and by tests/survival/soak.py --run, which does it for as long as it is told.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.run.programs import command, environment

SOURCE = Path(__file__).with_name("answers.c")
SECONDS = 120.0
OPTIONS = ("--shm", "--min-size", "64K")


def printed(words: list[str]) -> str:
    """What a program says to its end; its last words if it fails."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment()
    )
    return done.stdout + (f"exit {done.returncode}: {done.stderr}" if done.returncode else "")


def differences(program: Path, region: Path, seed: int, steps: int, how: str) -> list[str]:
    """Where the two runs differ: the line's number, and what each of them says; at most three."""
    words = [str(program), str(seed), str(steps)]
    name = f"msharefs-{os.getpid()}"
    plain = printed([*words, f"{name}p", how]).splitlines()
    under = printed([*command(region, *OPTIONS), *words, f"{name}r", how]).splitlines()
    found = [
        f"{number}: plain {one!r}, run {other!r}"
        for number, (one, other) in enumerate(zip(plain, under, strict=False), 1)
        if one != other
    ]
    if len(plain) != len(under):
        found.append(f"{len(plain)} lines plain, {len(under)} lines under the run")
    return found[:3]
