"""What an ordinary user does with it: a large array in spawned workers, while servers die, in huge pages where
the kernel makes them, and nothing is left in the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest

from msharefs import Region
from tests.cli.tool import mshare
from tests.helpers.background import Background
from tests.helpers.mount import read_status, unmount
from tests.helpers.waiting import eventually

pytestmark = [pytest.mark.mount, pytest.mark.slow]

SIZE = 1 << 30
WORKERS = 4
COUNT = SIZE // 8
ROUNDS = 2
SECONDS = 100


def work(region: Region, number: int, together: Barrier, direct: bool) -> None:
    """Add to a quarter of the array, in a process of its own, that has the region from its parent."""
    with region:
        for _ in range(ROUNDS):
            together.wait(SECONDS)
            with region.attach() as window:
                assert window.direct is direct
                part = window.as_array(np.int64, COUNT // WORKERS, offset=number * SIZE // WORKERS)
                part += number + 1
                del part


def has_huge_pages(path: Path) -> bool:
    """Whether mshare stat shows some, or the mount says that the kernel makes none."""
    refusal = read_status(path.parent)["huge_pages"]["obstacle"]
    return mshare("stat", "--json", path).json["huge"] > 0 or refusal is not None


@pytest.mark.parametrize("options", [(), ("-o", "size=1100M,data=direct")], ids=["none", "direct"])
def test_an_array_in_spawned_workers(background: Background, options: tuple[str, ...]) -> None:
    """1 GiB, at the speed of memory: no page fault asks the daemon, of whose death nobody hears. umount is
    refused while somebody has it, and leaves nothing afterwards. Without options, too: there the array is
    claimed, where the mount is not root's, which has no need of it."""
    done = background.start(*options)
    assert done.returncode == 0, done.stderr
    roots_own = read_status(background.path)["data_plane"]["name"] == "passthrough"
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(WORKERS + 1)
    with Region.create(background.path / "array", SIZE, map=True) as region:
        assert region.claim() is not roots_own
        arguments = [(region, number, together, not roots_own) for number in range(WORKERS)]
        workers = [spawn.Process(target=work, args=each) for each in arguments]
        for worker in workers:
            worker.start()
        for _ in range(ROUNDS):
            together.wait(SECONDS)
            os.kill(read_status(background.path)["pids"]["server"], signal.SIGKILL)
        for worker in workers:
            worker.join(SECONDS)
        assert [worker.exitcode for worker in workers] == [0] * WORKERS
        window = region.attach()
        eventually(lambda: has_huge_pages(background.path / "array"), what="only small pages")
        region.unlink()
    status = read_status(background.path)
    assert (status["restarts"], "READ" in status["operations"]) == (ROUNDS, False)
    array = window.as_array(np.int64, (WORKERS, COUNT // WORKERS))
    for number in range(WORKERS):
        assert (array[number] == ROUNDS * (number + 1)).all()
    assert unmount(background.path).returncode != 0
    del array
    window.close()
    background.unmount_and_check()
