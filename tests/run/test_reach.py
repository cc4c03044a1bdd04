"""mshare run and calls that go past the preloaded library: caught where possible, else said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.users import ALICE
from tests.run.programs import MIB, run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=512M"
STATIC = "it is linked statically"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """The compiled library of plugin.c, with its tables read-only once it is loaded."""
    path = tmp_path / "plugin.so"
    source = Path(__file__).with_name("plugin.c")
    hardened = ["-Wl,-z,relro,-z,now"]
    command = ["gcc", "-shared", "-fPIC", *hardened, str(source), "-o", str(path)]
    subprocess.run(command, check=True, timeout=60)
    return path


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A program without a dynamic linker, which everybody can reach."""
    source = tmp_path / "static.c"
    source.write_text("int main(void) { return 4; }\n")
    path = tmp_path / "static"
    subprocess.run(["gcc", "-static", source, "-o", path], check=True, timeout=60)
    return path


@pytest.mark.parametrize("flags", [["0"], ["os.RTLD_DEEPBIND"]])
def test_a_library_that_looks_into_itself_first(
    place: Path, plugin: Path, flags: list[str]
) -> None:
    """RTLD_DEEPBIND, as PHP loads its extensions: what it maps is the region's all the same, by a
    call and by an address that it keeps. Its tables are read-only as before."""
    script = (
        "import ctypes, os, sys\n"
        f"l = ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW | {flags[0]})\n"
        f"l.grab.restype = ctypes.c_void_p; l.grab.argtypes = (ctypes.c_size_t,); l.grab({64 * MIB})\n"
        "t = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, "
        "*(ctypes.c_int,) * 3, ctypes.c_long)\n"
        f"t(ctypes.c_void_p.in_dll(l, 'kept').value)(None, {64 * MIB}, 3, 33, -1, 0)\n"
        "maps = open('/proc/self/maps').read().splitlines()\n"
        "at = ctypes.addressof(ctypes.c_void_p.in_dll(l, 'kept'))\n"
        "area = [m for m in maps if int(m[:12], 16) <= at < int(m.split('-')[1][:12], 16)]\n"
        "print(sum(sys.argv[2] in m for m in maps), area[0].split()[1])"
    )
    done = run(place, sys.executable, "-c", script, str(plugin), str(place), options=("--strict",))
    assert (done.stdout, done.stderr) == ("2 r--p\n", "")


def test_a_library_is_found_as_without_a_run(place: Path, plugin: Path) -> None:
    """A bare name is looked for where the caller says, with the linker's own words if not there."""
    script = (
        "import ctypes, os\n"
        "for name in ('libm.so.6', 'no-such-library.so'):\n"
        "    try: print(ctypes.CDLL(name, mode=os.RTLD_NOW | os.RTLD_DEEPBIND) is not None)\n"
        "    except OSError as error: print(error)"
    )
    command = [sys.executable, "-c", script]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run(place, *command).stdout == plain.stdout


@pytest.mark.parametrize(
    "way",
    [
        "exec {0}",
        "sh -c {0}",
        f"{sys.executable} -c 'import subprocess, sys; sys.exit(subprocess.call([sys.argv[1]]))' {{0}}",
        "env {0}",
    ],
)
def test_a_static_program_is_said(place: Path, static: Path, way: str) -> None:
    """With -v one line that names it, and it runs; without it runs in silence."""
    words = ("sh", "-c", way.format(static))
    done = run(place, *words, options=("-v",))
    assert done.returncode == 4
    lines = [line for line in done.stderr.splitlines() if str(static) in line]
    assert len(lines) == 1
    assert lines[0].endswith(f"]: {static} cannot have its memory in {place}: {STATIC}")
    silent = run(place, *words)
    assert (silent.returncode, silent.stderr) == (4, "")


def test_a_static_program_ends_a_strict_run(place: Path, static: Path) -> None:
    """The process that would have become it ends with 125."""
    done = run(place, "sh", "-c", f"{static}; echo $?", options=("--strict",))
    assert done.stdout == "125\n"
    assert STATIC in done.stderr


def test_the_command_itself_is_looked_at(place: Path, static: Path) -> None:
    """As what it starts: said with -v, and not started with --strict."""
    done = run(place, str(static), options=("-v",))
    assert done.returncode == 4
    assert f"mshare run: {static} cannot have its memory in the region: {STATIC}\n" in done.stderr
    refused = run(place, str(static), options=("--strict",))
    assert (refused.returncode, refused.stderr) == (
        125,
        f"mshare run: {static} cannot have its memory in the region: {STATIC}\n",
    )
    assert not place.exists()


def test_a_script_is_its_interpreter(place: Path, static: Path, tmp_path: Path) -> None:
    """The first line of a script names the program that is loaded."""
    script, dynamic = tmp_path / "script", tmp_path / "dynamic"
    script.write_text(f"#! {static} word\n")
    dynamic.write_text("#!/bin/sh\nexit 6\n")
    for path in (script, dynamic):
        path.chmod(0o755)
    done = run(place, "sh", "-c", f"{script}; {dynamic}", options=("-v",))
    assert done.returncode == 6
    assert done.stderr.count(STATIC) == 1


@pytest.mark.root_only("gives a program to another user")
def test_a_program_with_other_rights_is_said(place: Path, program: Path, tmp_path: Path) -> None:
    """setuid: the linker leaves the library out."""
    path = tmp_path / "other"
    path.write_bytes(program.read_bytes())
    path.chmod(0o755)
    os.chown(path, ALICE, ALICE)
    path.chmod(0o4755)
    done = run(place, "sh", "-c", f"{path} </dev/null", options=("-v",))
    assert f"{path} cannot have its memory in {place}: it runs with other rights" in done.stderr


def test_a_cleared_environment_is_said(place: Path) -> None:
    """What is started without the words of the run has no part in it."""
    done = run(place, "env", "-i", "/bin/true", options=("-v",))
    assert done.returncode == 0
    assert "/bin/true cannot have its memory" in done.stderr
    assert "its environment does not name the library" in done.stderr


PAST = f"""
import ctypes, os, sys
call = ctypes.CDLL(None).syscall
call.restype = ctypes.c_void_p
def maps(size):
    return call(*map(ctypes.c_long, (9, 0, size, 3, 0x21, -1, 0)))
at = maps({64 * MIB})
maps({MIB})
sys.stdout.write("precious")
"""


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        ("-v", 0, r"mshare run: .*: 64 MiB of shared memory are outside of /.* at the end\n"),
        ("--strict", 125, r"mshare run: .*: 64 MiB of shared memory .* at the end\n"),
        (None, 0, ""),
    ],
)
def test_a_system_call_past_the_c_library_is_said_at_the_end(
    place: Path, option: str | None, code: int, said: str
) -> None:
    """What such calls have mapped, if it is large enough, as the process exits: a line with -v, and
    with --strict the run has failed. What the program wrote is there."""
    options = (option,) if option else ()
    done = run(place, sys.executable, "-c", PAST, options=options)
    assert (done.returncode, done.stdout) == (code, "precious")
    line, _, rest = done.stderr.partition("\n")
    assert re.fullmatch(said, line + "\n" if line else "")
    # With -v the most that the region held is told as well: nothing.
    assert "outside" not in rest


def test_memory_that_was_given_back_is_not_said(place: Path) -> None:
    """It is what is there at the end that counts."""
    script = (
        PAST + f"\nctypes.CDLL(None).munmap(ctypes.c_void_p(at), ctypes.c_size_t({64 * MIB}))\n"
    )
    done = run(place, sys.executable, "-c", script, options=("--strict",))
    assert (done.stdout, done.stderr) == ("precious", "")
