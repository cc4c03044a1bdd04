"""Fixtures of the tests of mshare run: the program, and runs of it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from msharefs.preload import library
from tests.helpers.poke import compiled
from tests.run import comparison
from tests.run.programs import SOURCE, Run


class Start(Protocol):
    """Starts the program under mshare run: start(path, "--shm", ...)."""

    def __call__(self, path: Path, *options: str) -> Run: ...


@pytest.fixture(scope="session")
def program() -> Iterator[Path]:
    """The compiled program."""
    with compiled(SOURCE) as path:
        yield path


@pytest.fixture(scope="session")
def churn() -> Iterator[Path]:
    """The compiled program of churn.c."""
    with compiled(SOURCE.with_name("churn.c")) as path:
        yield path


@pytest.fixture(scope="session")
def answers() -> Iterator[Path]:
    """The compiled program of answers.c."""
    with compiled(comparison.SOURCE) as path:
        yield path


@pytest.fixture(scope="session", autouse=True)
def built_library() -> Iterator[Path]:
    """The library of this source tree, where every user can read it: not below the directory of
    pytest, which each session closes to others."""
    with tempfile.TemporaryDirectory(prefix="msharefs-library-") as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / library.file_name()
        library.build(path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(library.VARIABLE, str(path))
            yield path


@pytest.fixture
def start(program: Path) -> Iterator[Start]:
    """Starts runs, and ends those that the test has not ended."""
    with ExitStack() as stack:

        def begin(path: Path, *options: str) -> Run:
            return stack.enter_context(Run(program, path, *options))

        yield begin
