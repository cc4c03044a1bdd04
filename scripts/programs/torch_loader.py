"""A loader of PyTorch's with two workers, by both strategies of sharing: every batch must arrive.

Run as a program by scripts/try_programs.py in an environment that has PyTorch; knows nothing of
mshare. Says what arrived: a line for each strategy.
"""

from __future__ import annotations

import sys

import torch
from torch.utils.data import DataLoader

ITEMS = 12
BATCH = 2
LENGTH = 1 << 20
"""Numbers of an item, four bytes each."""


class Items:
    """Each item is full of its own number."""

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, number: int) -> object:
        return torch.full((LENGTH,), float(number))


def arrived() -> bool:
    """Whether each batch has the bytes that it was sent with."""
    batches = list(DataLoader(Items(), batch_size=BATCH, num_workers=2))
    expected = [
        torch.stack([torch.full((LENGTH,), float(first + n)) for n in range(BATCH)])
        for first in range(0, ITEMS, BATCH)
    ]
    return len(batches) == len(expected) and all(map(torch.equal, batches, expected))


if __name__ == "__main__":
    for strategy in ("file_descriptor", "file_system"):
        torch.multiprocessing.set_sharing_strategy(strategy)
        sys.stdout.write(f"{strategy} {arrived()}\n")
