#!/usr/bin/env python3
"""What producer.c and consumer.c do, in Python: the same region, the same bytes.

Without an option it is both: it makes a region, then opens it again as another
program would, checks it and takes it away. Exit code 0, 1 if something failed or
the numbers are wrong, 2 for a wrong command line.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys

import msharefs

READY = 0x726561647921
COUNT = 1000

# struct exchange of exchange.h: state, count, checksum, answer, then the numbers.
HEAD = struct.Struct("=QQQQ")
NUMBERS = struct.Struct(f"={COUNT}Q")
STATE = slice(0, 8)
ANSWER = slice(24, 32)


class WrongNumbersError(Exception):
    """The region does not hold what the producer promises."""


def checksum(numbers: tuple[int, ...]) -> int:
    """The same as exchange_checksum() in C: it depends on each number and on its place."""
    total = 0
    for number in numbers:
        total = (total * 31 + number) % 2**64
    return total


def produce(mount: str, name: str) -> None:
    """Steps 2 and 3: make a region, put memory into it and numbers into the memory."""
    path = os.path.join(mount, name)
    numbers = tuple(i * i for i in range(COUNT))
    unit = msharefs.alignment(mount)
    size = -(-(HEAD.size + NUMBERS.size) // unit) * unit
    with msharefs.Region.create(path, size) as region:
        region.map(0, HEAD.size + NUMBERS.size)
        with region.attach() as attachment:
            NUMBERS.pack_into(attachment.buf, HEAD.size, *numbers)
            HEAD.pack_into(attachment.buf, 0, 0, COUNT, checksum(numbers), 0)
            # Last: who sees the state finds everything else in place.
            attachment.buf[STATE] = READY.to_bytes(8, sys.byteorder)
            print(
                f"share.py: wrote {COUNT} numbers with checksum {checksum(numbers):016x} "
                f"to {path}, attached at {attachment.address:#x}"
            )


def consume(mount: str, name: str, *, keep: bool) -> None:
    """Steps 4 and 5: open it, check the numbers, answer with their sum and unlink."""
    path = os.path.join(mount, name)
    with msharefs.Region.open(path) as region:
        with region.attach() as attachment:
            state, count, promised, answer = HEAD.unpack_from(attachment.buf)
            if state != READY or count != COUNT:
                raise WrongNumbersError(f"{path}: the producer has not finished")
            numbers = NUMBERS.unpack_from(attachment.buf, HEAD.size)
            if checksum(numbers) != promised:
                raise WrongNumbersError(f"{path}: the checksum is wrong")
            if answer not in {0, sum(numbers)}:
                raise WrongNumbersError(f"{path}: another consumer answered {answer}")
            attachment.buf[ANSWER] = sum(numbers).to_bytes(8, sys.byteorder)
            known = "found" if answer else "answered"
            print(
                f"share.py: {count} numbers in {path} are right, {known} their sum "
                f"{sum(numbers)}, attached at {attachment.address:#x}"
            )
        if not keep:
            region.unlink()


def main() -> int:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(description="share numbers through a region of msharefs")
    role = parser.add_mutually_exclusive_group()
    role.add_argument("--produce", action="store_true", help="only make the region and write")
    role.add_argument("--consume", action="store_true", help="only check the region and answer")
    parser.add_argument("-k", "--keep", action="store_true", help="do not unlink the region")
    parser.add_argument("mount", nargs="?", default="/sys/fs/mshare", help="default: %(default)s")
    parser.add_argument("name", nargs="?", default="exchange", help="default: %(default)s")
    args = parser.parse_args()
    try:
        if not args.consume:
            produce(args.mount, args.name)
        if not args.produce:
            consume(args.mount, args.name, keep=args.keep)
    except (msharefs.MshareError, WrongNumbersError) as error:
        print(f"share.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
