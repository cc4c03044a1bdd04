"""make demo: three programs share one region through a real mount, and the page tables are weighed.

It uses msharefs as any user would (the command, the C header, the Python library) and leaves
nothing behind, however it ends. It must not import the daemon's side.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from msharefs import Region

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
COMMAND = Path(sys.executable).parent / "msharefs-mount"
MIB = 1 << 20
# The programs are done in well under a second; this is for a mount that does not answer.
PATIENCE = 60


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


def say(text: str = "") -> None:
    print(text, flush=True)


def run(*words: str | Path, quiet: bool = False) -> str:
    """Run a command to its end and return what it said. Raises DemoError if it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        check=False,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    if done.returncode != 0:
        raise DemoError(f"{words[0]} ended with {done.returncode}:\n{done.stdout.strip()}")
    if not quiet:
        for line in done.stdout.strip().splitlines():
            say(f"      {line}")
    return done.stdout


def check_host(data: str) -> None:
    if os.geteuid() != 0 and data not in ("direct", "paged"):
        raise DemoError("this needs root: sudo make demo; without root: make demo DATA=direct")
    if not Path("/dev/fuse").exists():
        raise DemoError("there is no /dev/fuse: modprobe fuse, or pass the device in")


def mount(stack: ExitStack, place: Path, data: str) -> None:
    # First, so that an end in the middle of the mount is undone as well.
    stack.callback(unmount, place)
    run(COMMAND, "msharefs", place, "-o", f"data={data}", quiet=True)


def mount_line(place: Path) -> str:
    """What /proc/mounts says of the mount."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        if line.split()[1] == str(place):
            return line
    raise DemoError(f"{place} is not in /proc/mounts")


def data_plane(place: Path) -> str:
    """Its name and why it is that one; and where page tables are not small, what there is else."""
    plane = json.loads(os.getxattr(place, "user.msharefs.status"))["data_plane"]
    hint = "; small page tables without root or on this kernel: make demo DATA=direct"
    return f"{plane['name']}, {plane['why']}{hint if plane['name'] == 'paged' else ''}"


def unmount(place: Path) -> None:
    """Take the mount away; after an error lazily, so that nothing is left in any case."""
    if not os.path.ismount(place):
        return
    # umount(8) is root's; everybody may unmount his own by fusermount3.
    done = subprocess.run(
        ["fusermount3", "-u", str(place)], check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        subprocess.run(["fusermount3", "-u", "-z", str(place)], check=False)
        say(f"  it was busy, so it was unmounted lazily: {done.stderr.strip()}")


def daemon_processes(place: Path) -> list[int]:
    """Descriptors of the mount's processes, which become readable when those end."""
    status = json.loads(os.getxattr(place, "user.msharefs.status"))
    return [os.pidfd_open(pid) for pid in status["pids"].values()]


def await_end(processes: list[int]) -> float:
    """Wait for processes to end; how many seconds that took."""
    start = time.perf_counter()
    for descriptor in processes:
        if not select.select([descriptor], [], [], PATIENCE)[0]:
            raise DemoError("the daemon still runs")
        os.close(descriptor)
    return time.perf_counter() - start


def build(source: Path, work: Path) -> Path:
    target = work / source.stem
    run("gcc", "-O2", "-I", ROOT / "msharefs" / "include", source, "-o", target)
    return target


def share(work: Path, place: Path) -> None:
    """The C producer and consumer and the Python program on one region."""
    producer = build(EXAMPLES / "producer.c", work)
    consumer = build(EXAMPLES / "consumer.c", work)
    run(producer, place, "exchange")
    with Region.open(place / "exchange", writable=False) as region:
        mapped = region.layout().mapped
        say(f"      ({region.size:,} bytes in size, {mapped:,} of them mapped)")
    run(consumer, "-k", place, "exchange")
    run(sys.executable, EXAMPLES / "share.py", "--consume", place, "exchange")
    if (place / "exchange").exists():
        raise DemoError("the Python program did not take the region away")


# --- What the page tables cost


def weigh(probe: Path, path: Path, size: int, *how: str) -> tuple[int, float]:
    """Page tables in KiB and milliseconds for one more process that attaches `path`."""
    # The very first touch of reserved memory clears it; that is not what is weighed here.
    run(probe, path, str(size), *how, quiet=True)
    said = run(probe, path, str(size), *how, quiet=True)
    figures = dict(line.split() for line in said.splitlines())
    return int(figures["tables_kb"]), int(figures["nanoseconds"]) / 1e6


def await_huge_pages(region: Region, place: Path) -> None:
    """Until a user's daemon has put the region into pages of 2 MiB, or says why it does not."""
    deadline = time.monotonic() + PATIENCE
    while region.layout().collapsed < region.size and time.monotonic() < deadline:
        obstacle = json.loads(os.getxattr(place, "user.msharefs.status"))["huge_pages"]["obstacle"]
        if obstacle:
            say(f"  not in pages of 2 MiB: {obstacle}")
            return
        time.sleep(0.1)


def affordable_size(most: int) -> int:
    """So many bytes, or less where memory is short: both copies are there one after the other."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
            size = most
            while size > available // 4 and size > 64 * MIB:
                size //= 2
            return size
    raise DemoError("/proc/meminfo has no MemAvailable")


def plain_shared_memory(stack: ExitStack, size: int) -> Path:
    """A file of that size on /dev/shm, all its memory there, removed when the stack unwinds."""
    fd, name = tempfile.mkstemp(prefix="msharefs-demo-", dir="/dev/shm")
    stack.callback(os.unlink, name)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        raise DemoError(f"/dev/shm has no {size // MIB} MiB: {error.strerror}") from None
    finally:
        os.close(fd)
    return Path(name)


def compare(work: Path, place: Path, data: str) -> None:
    direct = data == "direct"
    # What comes in small pages is put into huge ones at some hundred MiB a second, with pauses.
    size = affordable_size(256 * MIB if direct else 1024 * MIB)
    # The bench's own probe: open, mmap, one read in every page, and VmPTE before and after.
    probe = build(ROOT / "scripts" / "bench" / "probes" / "attach.c", work)
    with ExitStack() as stack:
        plain_kib, plain_ms = weigh(probe, plain_shared_memory(stack, size), size)
    with Region.create(place / "weighed", size) as region:
        region.map(0, size)
        if direct:
            await_huge_pages(region, place)
        region_kib, region_ms = weigh(probe, place / "weighed", size, *(["direct"] * direct))
        region.unlink()
    way = " by msharefs_attach()" if direct else ""
    say(f"  one process that attaches {size // MIB} MiB{way} and touches every page:")
    say()
    say("                        page tables    time")
    say(f"      plain /dev/shm  {plain_kib:8,} KiB {plain_ms:6.1f} ms")
    say(f"      msharefs        {region_kib:8,} KiB {region_ms:6.1f} ms")
    say()
    hundred = (plain_kib - region_kib) * 100 // 1024
    say(f"  for 100 such processes that is {hundred:,} MiB of page tables less")


def demo(data: str) -> None:
    check_host(data)
    with ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix="msharefs-demo-"))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        place = work / "mnt"
        place.mkdir()
        say(f"1. mount: msharefs-mount msharefs {place} -o data={data}")
        mount(stack, place, data)
        say(f"      {mount_line(place)}")
        say(f"      data plane: {data_plane(place)}")
        say("2. three programs, one region")
        share(work, place)
        say("3. what the page tables cost")
        compare(work, place, data)
        say("4. unmount")
        processes = daemon_processes(place)
        unmount(place)
        say(f"      the daemon ended {await_end(processes):.1f} s later; nothing is left")


def main() -> int:
    # Ended from outside, it still unwinds.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description="Show what msharefs does.")
    parser.add_argument(
        "--data", choices=("auto", "passthrough", "paged", "direct"), default="auto"
    )
    try:
        demo(parser.parse_args().data)
    except BrokenPipeError:
        # Nobody reads any more, as in make demo | head; the end is tidy all the same.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (DemoError, OSError, subprocess.TimeoutExpired) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
