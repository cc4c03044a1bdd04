"""What an ordinary user does with it: a large array in spawned workers, while servers die, and nothing is
left in the end."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Barrier

import numpy as np
import pytest

from msharefs import Region
from tests.helpers.background import Background
from tests.helpers.mount import read_status, unmount

pytestmark = [pytest.mark.mount, pytest.mark.slow]

SIZE = 1 << 30
WORKERS = 4
COUNT = SIZE // 8
ROUNDS = 2
SECONDS = 100


def work(region: Region, number: int, together: Barrier) -> None:
    """Add to a quarter of the array, in a process of its own, that has the region from its parent."""
    with region:
        for _ in range(ROUNDS):
            together.wait(SECONDS)
            with region.attach() as window:
                assert window.direct
                part = window.as_array(np.int64, COUNT // WORKERS, offset=number * SIZE // WORKERS)
                part += number + 1
                del part


def test_an_array_in_spawned_workers(background: Background) -> None:
    """1 GiB, at the speed of memory: no page fault asks the daemon, of whose death nobody hears. umount is
    refused while somebody has it, and leaves nothing afterwards."""
    done = background.start("-o", "size=1100M,data=direct")
    assert done.returncode == 0, done.stderr
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(WORKERS + 1)
    with Region.create(background.path / "array", SIZE, map=True) as region:
        arguments = [(region, number, together) for number in range(WORKERS)]
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
