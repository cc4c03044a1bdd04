"""The C files of the preloaded library: who calls whom.

A file that calls another which calls it back cannot be read, tried or changed alone.
"""

from __future__ import annotations

import graphlib
import subprocess
from pathlib import Path

import pytest

from msharefs.preload import library

Calls = dict[str, set[str]]


def calls(directory: Path, scratch: Path) -> Calls:
    """For each C file the others that it takes functions or data from, as the linker sees it."""
    defined: dict[str, str] = {}
    wanted: Calls = {}
    for source in sorted(directory.glob("*.c")):
        compiled = scratch / f"{source.name}.o"
        include = f"-I{library.HEADER.parent}"
        command = [
            "gcc",
            "-c",
            *library.FLAGS[1:],
            "-O0",
            include,
            str(source),
            "-o",
            str(compiled),
        ]
        subprocess.run(command, check=True, timeout=60)
        listed = subprocess.run(["nm", compiled], capture_output=True, text=True, check=True)
        symbols = [line.split()[-2:] for line in listed.stdout.splitlines()]
        wanted[source.name] = {name for kind, name in symbols if kind == "U"}
        # An upper case letter: a name that other files see.
        defined |= {name: source.name for kind, name in symbols if kind.isupper() and kind != "U"}
    return {
        file: {defined[name] for name in names & defined.keys()} for file, names in wanted.items()
    }


def circle(graph: Calls) -> list[str]:
    """The files of a circle of calls, in their order, the first one again at the end."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_the_sources_call_each_other_in_one_direction(tmp_path: Path) -> None:
    """No file is called back by one that it calls, not even by way of others."""
    graph = calls(library.SOURCES, tmp_path)
    assert graph["hooks.c"] >= {"calls.c", "windows.c"}
    assert circle(graph) == []


def test_a_circle_is_found(tmp_path: Path) -> None:
    """Three files that call each other in a ring, and one beside them that calls one of them."""
    ring = {"a": "b", "b": "c", "c": "a", "d": "a"}
    for name, called in ring.items():
        text = f"void {called}(void); void {name}(void) {{ {called}(); }}\n"
        (tmp_path / f"{name}.c").write_text(text)
    found = circle(calls(tmp_path, tmp_path))
    assert sorted(set(found)) == ["a.c", "b.c", "c.c"]


@pytest.mark.parametrize("name", ["segments.h", "preload.h"])
def test_headers_stand_alone(name: str, tmp_path: Path) -> None:
    """Each header brings what it needs, whatever is included before it."""
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{name}"\n')
    include = [f"-I{library.HEADER.parent}", f"-I{library.SOURCES}"]
    command = ["gcc", "-fsyntax-only", *library.FLAGS[2:], *include, str(source)]
    subprocess.run(command, check=True, timeout=60)
