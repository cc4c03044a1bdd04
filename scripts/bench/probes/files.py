"""Files in a region beside what a program would do otherwise, in turns.

usage: files.py map ROUNDS COUNT REGION FILE
           CREATE_MAPPING of the first page of FILE, and of a page of memory; UNMAP is not timed
       files.py read ROUNDS SIZE REGION FILE COPY
           CREATE_MAPPING of SIZE bytes of FILE, and cp FILE COPY; what was made is removed
           again, which is not timed
       files.py write ROUNDS SIZE REGION FILE COPY
           fsync of the region, all of whose SIZE bytes were changed, and cp COPY FILE with an fsync of
           FILE; COPY is there
       files.py changed ROUNDS SIZE REGION FILE
           fsync of the region with one page of a hundred changed, and with all of them
prints: ours VALUE / theirs VALUE a line: seconds of one operation (map, changed), bytes a second (read,
write)
"""

from __future__ import annotations

import fcntl
import mmap
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


class Changer:
    """A region with the whole of a file in it, which goes back to it."""

    def __init__(self, region: int, file: int, size: int) -> None:
        flags = abi.MAP_SHARED | abi.MAP_FIXED
        request = abi.CreateMapping(0, size, 0, abi.PROT_READ | abi.PROT_WRITE, flags, file)
        fcntl.ioctl(region, abi.CREATE_MAPPING, request.pack())
        self._region = region
        self._window = mmap.mmap(region, size)
        self._turn = 0

    def written(self, every: int) -> float:
        """Seconds of an fsync after one page of so many was changed."""
        self._turn += 1
        for place in range(0, len(self._window), every * abi.PAGE_SIZE):
            self._window[place : place + 8] = self._turn.to_bytes(8, "little")
        start = time.perf_counter()
        os.fsync(self._region)
        return time.perf_counter() - start

    def close(self) -> None:
        """The region has nothing mapped then."""
        size = len(self._window)
        self._window.close()
        fcntl.ioctl(self._region, abi.UNMAP, abi.Unmap(0, size).pack())


def copied_back(copy: str, file_path: str, file: int) -> float:
    """Seconds of cp, and until it is stored."""
    start = time.perf_counter()
    subprocess.run(["cp", copy, file_path], check=True)
    os.fsync(file)
    return time.perf_counter() - start


def main() -> None:
    """One round unseen: caches fill, what reads files is started."""
    what, rounds, number, region_path, file_path, *copy = sys.argv[1:]
    region, file = os.open(region_path, os.O_RDWR), os.open(file_path, os.O_RDWR)
    changer = Changer(region, file, int(number)) if what in ("write", "changed") else None
    for turn in range(int(rounds) + 1):
        if changer and what == "write":
            ours = int(number) / changer.written(1)
            theirs = int(number) / copied_back(copy[0], file_path, file)
        elif changer:
            ours, theirs = changer.written(100), changer.written(1)
        elif what == "map":
            times = range(int(number))
            ours = sum(mapped(region, abi.PAGE_SIZE, file) for _ in times) / int(number)
            theirs = sum(mapped(region, abi.PAGE_SIZE, None) for _ in times) / int(number)
        else:
            ours = int(number) / mapped(region, int(number), file)
            theirs = int(number) / copied(file_path, copy[0])
        if turn:
            print(f"ours {ours!r}\ntheirs {theirs!r}")
    if changer:
        changer.close()


main()
