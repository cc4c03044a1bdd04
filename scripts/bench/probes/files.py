"""Files in a region beside what a program would do otherwise, in turns.

usage: files.py map ROUNDS COUNT REGION FILE
           CREATE_MAPPING of the first page of FILE, and of a page of memory; UNMAP is not timed
       files.py read ROUNDS SIZE REGION FILE COPY
           CREATE_MAPPING of SIZE bytes of FILE, and cp FILE COPY; what was made is removed
           again, which is not timed
prints: ours VALUE / theirs VALUE a line: seconds of one operation (map), bytes a second (read)
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time

from msharefs import abi


def mapped(region: int, size: int, file: int | None) -> float:
    """Seconds of a CREATE_MAPPING at the start of the region, of a file if one is given."""
    if file is None:
        request = abi.CreateMapping(0, size)
    else:
        flags = abi.MAP_SHARED | abi.MAP_FIXED
        request = abi.CreateMapping(0, size, 0, abi.PROT_READ, flags, file)
    payload = request.pack()
    start = time.perf_counter()
    fcntl.ioctl(region, abi.CREATE_MAPPING, payload)
    spent = time.perf_counter() - start
    fcntl.ioctl(region, abi.UNMAP, abi.Unmap(0, size).pack())
    return spent


def copied(file: str, copy: str) -> float:
    """Seconds of cp."""
    start = time.perf_counter()
    subprocess.run(["cp", file, copy], check=True)
    spent = time.perf_counter() - start
    os.unlink(copy)
    return spent


def main() -> None:
    """One round unseen: caches fill, what reads files is started."""
    what, rounds, number, region_path, file_path, *copy = sys.argv[1:]
    region, file = os.open(region_path, os.O_RDWR), os.open(file_path, os.O_RDONLY)
    for turn in range(int(rounds) + 1):
        if what == "map":
            times = range(int(number))
            ours = sum(mapped(region, abi.PAGE_SIZE, file) for _ in times) / int(number)
            theirs = sum(mapped(region, abi.PAGE_SIZE, None) for _ in times) / int(number)
        else:
            ours = int(number) / mapped(region, int(number), file)
            theirs = int(number) / copied(file_path, copy[0])
        if turn:
            print(f"ours {ours!r}\ntheirs {theirs!r}")


main()
