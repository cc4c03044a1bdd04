"""A client process under a test's orders: the Python side of poke.c.

Knows system calls and memory, and of msharefs the payloads of helpers/raw.py; DirectPoke has the functions of
msharefs_attach.h besides.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.helpers import raw
from tests.helpers.mount import ROOT

SOURCE = Path(__file__).with_name("poke.c")
INCLUDE = ROOT / "msharefs" / "include"
AT_FDCWD = -100

Argument = int | bytes | str | Path


class Fault(Exception):
    """A touch of memory got a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.signal = signal.Signals(number)


@contextmanager
def faults(number: signal.Signals = signal.SIGBUS) -> Iterator[None]:
    """The block must make one access that gets this signal."""
    try:
        yield
    except Fault as fault:
        if fault.signal != number:
            raise AssertionError(f"expected {number.name}, got {fault}") from fault
    else:
        raise AssertionError(f"expected {number.name}, but the access succeeded")


@contextmanager
def compiled(source: Path = SOURCE) -> Iterator[Path]:
    """The path of the compiled program, in a directory that every user can reach."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise RuntimeError("no C compiler")
    with tempfile.TemporaryDirectory(prefix="msharefs-poke-") as directory:
        os.chmod(directory, 0o755)
        program = Path(directory, source.stem)
        flags = ["-O1", "-Wall", "-Wextra", "-Werror", f"-I{INCLUDE}"]
        subprocess.run([compiler, *flags, "-o", program, source], check=True, timeout=60)
        yield program


def encoded(argument: Argument) -> str:
    """One argument of a system call as poke.c reads it."""
    if isinstance(argument, int):
        return str(argument)
    if isinstance(argument, bytes):
        return "b:" + argument.hex()
    return "s:" + os.fsencode(argument).hex()


def command(name: str, *arguments: Argument) -> str:
    """A system call as a line, also for `forever`."""
    return " ".join(["call", name, *map(encoded, arguments)])


class Poke:
    """One client process. Leaves with the end of the with block."""

    def __init__(self, program: Path, *, uid: int | None = None) -> None:
        self._process = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            user=uid,
            group=uid,
            extra_groups=None if uid is None else [],
            cwd="/",
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                # What was not written yet has no reader any more.
                with suppress(BrokenPipeError):
                    pipe.close()

    def order(self, line: str) -> tuple[int, list[bytes]]:
        """Send one line; the value and the buffers of the answer. Raises OSError or Fault."""
        self.post(line)
        return self.answer()

    def post(self, line: str) -> None:
        """Send one line and do not wait."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> tuple[int, list[bytes]]:
        """The answer to the oldest line without one. Raises OSError or Fault."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client process ended: {self._process.wait()}")
        kind, value, *buffers = line.split()
        if kind == "err":
            raise OSError(int(value), os.strerror(int(value)))
        if kind == "sig":
            raise Fault(int(value))
        return int(value), [bytes.fromhex(text) for text in buffers]

    def call(self, name: str, *arguments: Argument) -> int:
        """A system call; its value."""
        return self.order(command(name, *arguments))[0]

    def forever(self, *steps: str) -> None:
        """Begin to repeat these commands; there is no more to be had from it than kill()."""
        self.order("forever " + " ; ".join(steps))

    def open(self, path: Path | str, flags: int = os.O_RDWR, mode: int = 0o600) -> int:
        """open(2); the descriptor is the client's own."""
        return self.call("openat", AT_FDCWD, path, flags, mode)

    def close(self, fd: int) -> None:
        """close(2)."""
        self.call("close", fd)

    def create_mapping(
        self, fd: int, offset: int, size: int, *, flags: int = raw.ANONYMOUS
    ) -> None:
        """MSHAREFS_CREATE_MAPPING of anonymous memory."""
        payload = raw.create_payload(offset, size, flags=flags)
        self.call("ioctl", fd, raw.CREATE_MAPPING, payload)

    def unmap(self, fd: int, offset: int, size: int) -> None:
        """MSHAREFS_UNMAP."""
        self.call("ioctl", fd, raw.UNMAP, raw.unmap_payload(offset, size))

    def mmap(
        self,
        fd: int,
        length: int,
        *,
        offset: int = 0,
        prot: int = raw.RW,
        flags: int = raw.MAP_SHARED,
        address: int = 0,
    ) -> int:
        """mmap(2); the address in the client."""
        return self.call("mmap", address, length, prot, flags, fd, offset)

    def munmap(self, address: int, length: int) -> None:
        """munmap(2)."""
        self.call("munmap", address, length)

    def window(self, fd: int, length: int, *, prot: int = raw.RW) -> int:
        """Attach the first `length` bytes of an open region; the address."""
        return self.mmap(fd, length, prot=prot)

    def detach(self, address: int, length: int) -> None:
        """End all of what window() or attach() has given."""
        self.munmap(address, length)

    def attach(self, path: Path | str, length: int, *, writable: bool = True) -> int:
        """Attach the first `length` bytes of a region and close it again; the address."""
        fd = self.open(path, os.O_RDWR if writable else os.O_RDONLY)
        try:
            return self.window(fd, length, prot=raw.RW if writable else raw.PROT_READ)
        finally:
            self.close(fd)

    def get(self, address: int, length: int = 1) -> bytes:
        """Read memory."""
        return self.order(f"get {address} {length}")[1][0]

    def put(self, address: int, data: bytes) -> None:
        """Write memory."""
        self.order(f"put {address} {data.hex()}")

    def fill(self, address: int, length: int, byte: int) -> None:
        """Write the same byte all over a range."""
        self.order(f"fill {address} {length} {byte}")

    def holds(self, address: int, length: int, byte: int) -> bool:
        """Whether every byte of a range is this one."""
        return bool(self.order(f"holds {address} {length} {byte}")[0])

    def probe(
        self, address: int, length: int, *, step: int = raw.PAGE, writing: bool = False
    ) -> str:
        """For each `step` bytes "1" if the first byte is there, "0" if it faults."""
        line = f"probe {address} {length} {step} {'w' if writing else 'r'}"
        return self.order(line)[1][0].decode()

    def forked(self, line: str) -> tuple[int, list[bytes]]:
        """The same as order(), but in a child of the client."""
        return self.order(f"fork {line}")


class DirectPoke(Poke):
    """One that attaches regions as C programs do that have the header, and so by their memory where a mount
    gives it."""

    def window(self, fd: int, length: int, *, prot: int = raw.RW) -> int:
        """msharefs_attach()."""
        return self.order(f"attach {fd} {length} {prot}")[0]

    def detach(self, address: int, length: int) -> None:
        """msharefs_detach()."""
        self.order(f"detach {address}")


def mapping_of(pid: int, path: Path | str) -> Sequence[str]:
    """The lines of /proc/PID/maps that name `path`."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return [line for line in maps.splitlines() if line.endswith(str(path))]


def smaps(pid: int, start: int, length: int) -> dict[str, int]:
    """The numbers of /proc/PID/smaps for all mappings in a range of addresses together, in KiB."""
    numbers: dict[str, int] = {}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0]:
            first, last = (int(word, 16) for word in words[0].split("-"))
            inside = start <= first and last <= start + length
        elif inside and words[-1] == "kB":
            name = words[0].rstrip(":")
            numbers[name] = numbers.get(name, 0) + int(words[1])
    return numbers
