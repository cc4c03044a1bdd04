"""A data loader's workers: batches in shared memory, handed over by a descriptor or by a name.

These are the two strategies of PyTorch's loaders, by the same calls: `file_descriptor` unlinks a
segment at once and sends its descriptor over a socket, `file_system` sends its name, which who
takes it unlinks. Run as a program; says what arrived.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing import reduction
from multiprocessing.connection import Connection

BATCHES = 6
SIZE = 8 << 20
FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL


def segment(number: int) -> tuple[str, int]:
    """A new segment that holds one batch: its name, and a descriptor."""
    name = f"/dev/shm/msharefs-loader-{os.getpid()}-{number}"
    fd = os.open(name, FLAGS)
    os.ftruncate(fd, SIZE)
    with mmap.mmap(fd, SIZE) as batch:
        batch[:] = bytes([number]) * SIZE
    return name, fd


def send_descriptors(parent: Connection) -> None:
    """The worker of file_descriptor."""
    for number in range(BATCHES):
        name, fd = segment(number)
        os.unlink(name)
        reduction.send_handle(parent, fd, os.getppid())
        os.close(fd)
    parent.recv()


def take_descriptor(worker: Connection) -> int:
    """The segment of the next batch."""
    fd: int = reduction.recv_handle(worker)
    return fd


def send_names(parent: Connection) -> None:
    """The worker of file_system."""
    for number in range(BATCHES):
        name, fd = segment(number)
        os.close(fd)
        parent.send(name)
    parent.recv()


def take_name(worker: Connection) -> int:
    """The segment of the next batch."""
    name = worker.recv()
    fd = os.open(name, os.O_RDWR)
    os.unlink(name)
    return fd


def load(work: Callable[[Connection], None], take: Callable[[Connection], int]) -> list[int]:
    """The number in each batch, or -1 for one that is not what was sent."""
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.Process(target=work, args=(theirs,))
    worker.start()
    numbers = []
    for _ in range(BATCHES):
        fd = take(ours)
        with mmap.mmap(fd, SIZE) as batch:
            numbers.append(batch[0] if batch[:] == batch[:1] * SIZE else -1)
        os.close(fd)
    ours.send("enough")
    worker.join()
    return numbers


if __name__ == "__main__":
    taken = load(send_descriptors, take_descriptor), load(send_names, take_name)
    sys.stdout.write(f"{taken}\n")
