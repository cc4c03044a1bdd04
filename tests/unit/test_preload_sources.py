"""The C files of the preloaded library: who calls whom.

A file that calls another which calls it back cannot be read, tried or changed alone.
"""

from __future__ import annotations

import graphlib
import subprocess
from pathlib import Path

import pytest

from msharefs.linux import locks
from msharefs.preload import library, run_file

Calls = dict[str, set[str]]


def calls(directory: Path, scratch: Path) -> Calls:
    """For each C file the others that it takes functions or data from, as the linker sees it."""
    defined: dict[str, str] = {}
    wanted: Calls = {}
    for source in sorted(directory.glob("*.c")):
        compiled = scratch / f"{source.name}.o"
        include = f"-I{library.INCLUDE}"
        command = [
            "gcc",
            "-c",
            *library.FLAGS[1:],
            "-O1",
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


OFFSETS = """
#include "segments.h"
#include <stdio.h>
#define SHOW(name, type, field) printf(#name " %zu\\n", offsetof(type, field))
#define TELL(name, value) printf(#name " %ju\\n", (uintmax_t)(value))
int main(void)
{{
	{shows}
	SHOW(HINTS_BYTE, struct run_header, hints);
	SHOW(LOCK_BYTE, struct run_header, lock);
	TELL(MAGIC, RUN_MAGIC);
	TELL(HINTS, RUN_HINTS);
	TELL(HOLDER_LOCKS, HOLDER_LOCKS);
	TELL(RANGE_BYTES, sizeof(struct range));
	TELL(SEGMENT_BYTES, sizeof(struct segment));
	TELL(RANGE_BLANK, RANGE_BLANK);
	TELL(RANGE_TOLD, RANGE_TOLD);
	TELL(RANGE_FILLING, RANGE_FILLING);
	TELL(RANGE_SEGMENT, RANGE_SEGMENT);
	TELL(MUTEX_BYTES, sizeof(pthread_mutex_t));
	return sizeof(struct run_header) > 4096;
}}
"""
WORDS = [
    "DEVICE",
    "INODE",
    "ROOM",
    "FLOOR",
    "NEXT_SEGMENT",
    "REGION_SIZE",
    "IPC_NAMESPACE",
    "HOLDERS",
    "RANGES",
    "SEGMENTS",
    "LEFT",
    "HOLDERS_AT",
    "RANGES_AT",
    "SEGMENTS_AT",
    "LEFT_AT",
    "RECORDS_AT",
    "RECORD_SIZE",
    "SIZE",
    "HOLDERS_USED",
    "RANGES_USED",
    "RANGES_THERE",
    "SEGMENTS_USED",
    "SEGMENTS_THERE",
    "SEGMENTS_LIVE",
    "MOVES",
    "HINTS_PUT",
]


def test_both_sides_have_the_same_run_file(tmp_path: Path) -> None:
    """Each field of the header, each bit and each size, in C and in Python."""
    source, program = tmp_path / "offsets.c", tmp_path / "offsets"
    shows = "".join(f"SHOW({word}, struct run_header, {word.lower()});" for word in WORDS)
    source.write_text(OFFSETS.format(shows=shows))
    include = [f"-I{library.INCLUDE}", f"-I{library.SOURCES}"]
    command = ["gcc", "-std=gnu11", *include, str(source), "-o", str(program)]
    subprocess.run(command, check=True, timeout=60)
    told = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    here = {**vars(run_file), "MUTEX_BYTES": locks.MUTEX_BYTES}
    expected = {word: here[word] * run_file.WORD for word in WORDS}
    for line in told.splitlines():
        name, value = line.split()
        assert (name, int(value)) == (name, expected.get(name, here[name]))


@pytest.mark.parametrize("name", ["segments.h", "posix.h", "holdings.h", "preload.h"])
def test_headers_stand_alone(name: str, tmp_path: Path) -> None:
    """Each header brings what it needs, whatever is included before it."""
    source = tmp_path / "alone.c"
    source.write_text(f'#include "{name}"\n')
    include = [f"-I{library.INCLUDE}", f"-I{library.SOURCES}"]
    command = ["gcc", "-fsyntax-only", *library.FLAGS[2:], *include, str(source)]
    subprocess.run(command, check=True, timeout=60)
