"""The example programs on a real mount: C and Python, each with the other.

They are compiled as their Makefile says, with every warning an error.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import ROOT, Mount

pytestmark = pytest.mark.mount

EXAMPLES = ROOT / "examples"
SUM = sum(i * i for i in range(1000))

Command = list[str | Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the compiled programs."""
    directory = tmp_path_factory.mktemp("examples")
    for name in ("Makefile", "exchange.h", "producer.c", "consumer.c", "attach.c"):
        (directory / name).write_bytes((EXAMPLES / name).read_bytes())
    include = ROOT / "msharefs" / "include"
    made = subprocess.run(
        ["make", "-C", directory, f"INCLUDE={include}"], capture_output=True, text=True, check=False
    )
    assert (made.returncode, made.stderr) == (0, "")
    assert "-std=c99 -Wall -Wextra -Werror" in made.stdout
    return directory


@pytest.fixture
def programs(built: Path) -> dict[str, Command]:
    """The command that plays each part; those that consume keep the region."""
    share: Command = [sys.executable, EXAMPLES / "share.py"]
    return {
        "producer": [built / "producer"],
        "consumer": [built / "consumer", "-k"],
        "share.py --produce": [*share, "--produce"],
        "share.py --consume": [*share, "--consume", "--keep"],
        "consumer, last": [built / "consumer"],
        "share.py, last": [*share, "--consume"],
        "share.py, both": share,
    }


@pytest.fixture
def region(mounted: Mount) -> Iterator[Path]:
    """Where the programs make their region; gone before and after each test."""
    path = mounted.path / "exchange"
    assert not path.exists()
    yield path
    path.unlink(missing_ok=True)


def run(command: Command, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one program; the repository is on Python's path as after an installation."""
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    """The only line of a program that succeeded."""
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    return result.stdout


@pytest.mark.parametrize("producer", ["producer", "share.py --produce"])
@pytest.mark.parametrize("first", ["consumer", "share.py --consume"])
@pytest.mark.parametrize("last", ["consumer, last", "share.py, last"])
def test_any_producer_serves_any_consumer(
    programs: dict[str, Command],
    mounted: Mount,
    region: Path,
    producer: str,
    first: str,
    last: str,
) -> None:
    """One makes the region and ends, one checks it, one more checks it and takes it away."""
    wrote = one_line(run(programs[producer], mounted.path))
    assert f"wrote 1000 numbers with checksum bc6b6909bd5eaaac to {region}" in wrote
    assert region.stat().st_size == 2 << 20
    for consumer in (first, last):
        assert str(SUM) in one_line(run(programs[consumer], mounted.path))
    assert not region.exists()


def test_python_program_alone_does_all_steps(
    programs: dict[str, Command], mounted: Mount, region: Path
) -> None:
    """Without an option share.py makes, checks and removes the region; a name can be given."""
    other = mounted.path / "other"
    done = run(programs["share.py, both"], mounted.path, other.name)
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 2)
    assert f"1000 numbers in {other} are right, answered their sum {SUM}" in done.stdout
    assert not other.exists()


def test_a_program_that_attaches_as_fast_as_it_can(
    built: Path, mounted: Mount, make_mount: MakeMount
) -> None:
    """It says how, on each mount, and takes its region away."""
    direct = make_mount("size=128M,data=direct")
    for path, words in ((mounted.path, "as mapped by the kernel"), (direct.path, "directly")):
        done = one_line(run([built / "attach"], path / "region"))
        assert done == f"wrote {64 << 20} bytes of {path}/region {words}\n"
        assert not (path / "region").exists()
    refused = run([built / "attach"], mounted.path / "no" / "region")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "No such file" in refused.stderr
    assert run([built / "attach"]).returncode == 2


@pytest.mark.parametrize("consumer", ["consumer", "share.py --consume"])
@pytest.mark.parametrize(
    ("offset", "problem"), [(0, "has not finished"), (16, "checksum"), (32 + 8 * 999, "checksum")]
)
def test_consumers_notice_wrong_bytes(
    programs: dict[str, Command],
    mounted: Mount,
    region: Path,
    consumer: str,
    offset: int,
    problem: str,
) -> None:
    """A changed state, checksum or number is an error of one line with exit code 1."""
    one_line(run(programs["producer"], mounted.path))
    damage = (
        "import sys, mmap\n"
        "with open(sys.argv[1], 'r+b', buffering=0) as f, mmap.mmap(f.fileno(), 0) as m:\n"
        "    m[int(sys.argv[2])] ^= 1\n"
    )
    subprocess.run([sys.executable, "-c", damage, region, str(offset)], check=True, timeout=30)
    result = run(programs[consumer], mounted.path)
    assert (result.returncode, result.stdout) == (1, "")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert region.exists()


@pytest.mark.parametrize("producer", ["producer", "share.py --produce"])
def test_producers_do_not_touch_a_region_that_exists(
    programs: dict[str, Command], mounted: Mount, region: Path, producer: str
) -> None:
    """The second producer fails with exit code 1 and the first one's numbers stay."""
    one_line(run(programs["producer"], mounted.path))
    second = run(programs[producer], mounted.path)
    assert (second.returncode, second.stdout) == (1, "")
    assert "File exists" in second.stderr
    one_line(run(programs["consumer, last"], mounted.path))


@pytest.mark.parametrize(
    "program", ["producer", "consumer", "share.py --produce", "share.py, last"]
)
def test_programs_say_where_nothing_is_mounted(
    programs: dict[str, Command], tmp_path: Path, program: str
) -> None:
    """Without a mount: one line on stderr with the path, exit code 1, and no file made."""
    result = run(programs[program], tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert str(tmp_path) in result.stderr
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("program", ["producer", "consumer"])
def test_wrong_command_line_is_exit_code_2(programs: dict[str, Command], program: str) -> None:
    """Too many arguments or an unknown option show the usage."""
    for arguments in (["a", "b", "c"], ["-z"]):
        result = run(programs[program], *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert f"usage: {program}" in result.stderr


def test_answer_is_where_c_and_python_agree(
    programs: dict[str, Command], mounted: Mount, region: Path
) -> None:
    """The bytes of struct exchange are at the offsets that both sides assume."""
    one_line(run(programs["producer"], mounted.path))
    one_line(run(programs["consumer"], mounted.path))
    show = (
        "import sys, mmap\n"
        "with open(sys.argv[1], 'rb', buffering=0) as f:\n"
        "    sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:48])\n"
    )
    seen = subprocess.run([sys.executable, "-c", show, region], capture_output=True, check=True)
    state, count, _, answer, zero, one = struct.unpack("=6Q", seen.stdout)
    assert (state, count, answer, zero, one) == (0x726561647921, 1000, SUM, 0, 1)
