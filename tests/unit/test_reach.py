"""Which programs the preloaded library cannot be loaded into, as their files tell."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from msharefs.preload.library import build, why_out_of_reach

STATIC = "it is linked statically"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The compiled library."""
    path = tmp_path_factory.mktemp("library") / "library.so"
    build(path)
    return str(path)


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program without a dynamic linker."""
    directory = tmp_path_factory.mktemp("static")
    source = directory / "static.c"
    source.write_text("int main(void) { return 4; }\n")
    subprocess.run(["gcc", "-static", source, "-o", directory / "static"], check=True, timeout=60)
    return directory / "static"


def test_a_dynamic_program_is_reached(library: str) -> None:
    """As nearly all are; what is not there is not judged."""
    assert why_out_of_reach(library, sys.executable) is None
    assert why_out_of_reach(library, "/no/such/program") is None


def test_a_static_program_is_not(library: str, static: Path) -> None:
    """Nothing in it loads libraries."""
    assert why_out_of_reach(library, str(static)) == STATIC


def test_a_script_is_its_interpreter(library: str, static: Path, tmp_path: Path) -> None:
    """Through scripts of scripts, with blanks; one that names itself ends."""
    inner, outer, loop = tmp_path / "inner", tmp_path / "outer", tmp_path / "loop"
    inner.write_text(f"#! \t{static} word\n")
    outer.write_text(f"#!{inner}\n")
    loop.write_text(f"#!{loop}\n")
    assert why_out_of_reach(library, str(outer)) == STATIC
    assert why_out_of_reach(library, str(loop)) is None


def test_another_processors_program_is_not(library: str, tmp_path: Path) -> None:
    """A 32-bit program, by its head alone."""
    path = tmp_path / "other"
    path.write_bytes(b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HH", 2, 3) + bytes(100))
    assert why_out_of_reach(library, str(path)) == "it is of another kind of processor"


@pytest.mark.parametrize("length", [0, 1, 4, 20, 63])
def test_a_file_that_is_cut_short_is_not_judged(library: str, tmp_path: Path, length: int) -> None:
    """The kernel says what is wrong with it."""
    path = tmp_path / "short"
    path.write_bytes(Path(sys.executable).read_bytes()[:length])
    assert why_out_of_reach(library, str(path)) is None


def test_own_setuid_changes_nothing(library: str, tmp_path: Path) -> None:
    """A program that runs with its caller's own rights is loaded as ever."""
    path = tmp_path / "own"
    path.write_bytes(Path(sys.executable).read_bytes())
    path.chmod(0o4755)
    assert path.stat().st_uid == os.geteuid()
    assert why_out_of_reach(library, str(path)) is None
