"""Fixtures and a program of its own for the tests of SharedMemory.

Owns the blocks that a test makes: they are closed, unlinked, and nothing else may be left.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msharefs.shared_memory import SharedMemory
from tests.helpers.mount import ROOT, Mount

Make = Callable[..., SharedMemory]


@pytest.fixture
def directory(mounted: Mount, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mount, which the environment names."""
    monkeypatch.setenv("MSHAREFS_DIR", str(mounted.path))
    return mounted.path


@pytest.fixture
def make(directory: Path) -> Iterator[Make]:
    """Makes blocks that are closed and removed after the test."""
    made: list[SharedMemory] = []

    def create(name: str | None = None, size: int = 100, **more: int) -> SharedMemory:
        made.append(SharedMemory(name, create=True, size=size, **more))  # type: ignore[arg-type]
        return made[-1]

    yield create
    for block in made:
        block.close()
        try:
            block.unlink()
        except FileNotFoundError:
            continue
    assert os.listdir(directory) == ["mshare_info"]


def run_program(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program of its own, no child of multiprocessing, as in the reports of the troubles."""
    return subprocess.run(
        [sys.executable, "-c", text, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
