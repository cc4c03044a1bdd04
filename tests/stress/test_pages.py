"""Many processes write and read random pages of one region while mappings come and go.

The stable half of the region stays mapped: there no byte is ever wrong and nothing is a
hole. The other half is mapped and unmapped all the time: there a page is a hole, zeros
after it came again, or what its one writer wrote last, never what was there before.
"""

from __future__ import annotations

import os
import random
import subprocess
import sysconfig
from pathlib import Path

import pytest

from msharefs import Region
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import ROOT
from tests.helpers.poke import INCLUDE

PROCESSES = 32
SECONDS = int(os.environ.get("MSHAREFS_STRESS_SECONDS", "15"))
SIZE, STABLE = 64 << 20, 32 << 20
PAGE = 4096
PIECE = 64 * PAGE


@pytest.fixture(scope="module")
def pages_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/stress/pages.c, compiled."""
    program = tmp_path_factory.mktemp("pages") / "pages"
    compiler = (sysconfig.get_config_var("CC") or "gcc").split()[0]
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}"]
    source = ROOT / "tests/stress/pages.c"
    subprocess.run([compiler, *flags, "-o", program, source], check=True)
    return program


@pytest.mark.slow
@pytest.mark.mount
@pytest.mark.parametrize(
    ("data", "seconds"),
    [("passthrough", SECONDS), ("paged", SECONDS), ("direct", SECONDS // 4)],
)
def test_no_wrong_byte_while_mappings_come_and_go(
    make_mount: MakeMount, pages_program: Path, data: str, seconds: int
) -> None:
    """semantics: ioctl.unmap-effect, ioctl.overlap, mmap.hole, on all data planes; the processes attach as the
    header does it, which is by mmap(2) but for the direct plane."""
    mount = make_mount(f"data={data}")
    path = mount.path / "pages"
    choose = random.Random(4711)
    with Region.create(path, SIZE) as region:
        region.map(0, STABLE)
        arguments = [str(path), str(SIZE), str(STABLE)]
        workers = [
            subprocess.Popen(
                [pages_program, *arguments, str(number), str(PROCESSES), str(seconds)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]
        changes = 0
        while any(worker.poll() is None for worker in workers):
            offset = STABLE + choose.randrange((SIZE - STABLE) // PIECE) * PIECE
            size = choose.randrange(1, 64) * PAGE
            if choose.random() < 0.6:
                region.map(offset, size)
            else:
                region.unmap(offset, size)
            changes += 1
        outcomes = [(worker.wait(), *worker.communicate()) for worker in workers]
        assert [(code, errors) for code, _, errors in outcomes] == [(0, "")] * PROCESSES
        accesses = sum(int(line.split()[0]) for _, line, _ in outcomes)
        assert accesses > 0
        assert changes > 0
    path.unlink()
