"""Eight processes count in a region while its server is killed every second.

Each adds 1 with an atomic instruction and opens and closes the region all the time, so that
it depends on the server as well as on the memory. In the middle the server is replaced once
as for an upgrade (SIGHUP). At the end the counter must be what the processes have added.
Needs root and a C compiler.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from msharefs import Region
from tests.helpers.mount import Mount, missing_for_mounts

PROCESSES = 8
SIZE = 2 << 20

COUNTER = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile sig_atomic_t stopped;

static void stop(int number)
{
    (void)number;
    stopped = 1;
}

int main(int argc, char **argv)
{
    unsigned long added = 0, opened = 0;
    struct sigaction action = {.sa_handler = stop, .sa_flags = SA_RESTART};

    sigaction(SIGTERM, &action, NULL);
    while (argc == 2 && !stopped) {
        int fd = open(argv[1], O_RDWR);
        unsigned long *counter = fd < 0 ? MAP_FAILED
            : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (counter == MAP_FAILED) {
            perror(argv[1]);
            return 1;
        }
        close(fd);
        opened++;
        for (int i = 0; i < 1000; i++, added++)
            __atomic_fetch_add(counter, 1, __ATOMIC_SEQ_CST);
        munmap(counter, 4096);
    }
    printf("%lu %lu\n", added, opened);
    return 0;
}
"""


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="how long (10)")
    seconds = parser.parse_args().seconds
    missing = missing_for_mounts()
    if missing is not None:
        print(f"counter: {missing}", file=sys.stderr)
        return 2
    mounted = Mount("size=16M")
    try:
        mounted.wait_until_it_answers()
        return count(mounted, seconds)
    finally:
        mounted.discard()


def count(mounted: Mount, seconds: int) -> int:
    """Run the processes and the killer, and compare. Returns the exit code."""
    mounted.expect_log("the server ended with -9")
    path = mounted.path / "counter"
    with Region.create(path, SIZE) as region:
        region.map(0, SIZE)
        with tempfile.TemporaryDirectory() as directory:
            program = compile_counter(Path(directory))
            workers = [
                subprocess.Popen([program, path], stdout=subprocess.PIPE, text=True)
                for _ in range(PROCESSES)
            ]
            kills = disturb(mounted, seconds)
            for worker in workers:
                worker.send_signal(signal.SIGTERM)
            answers = [worker.communicate()[0].split() for worker in workers]
        failed = sum(worker.returncode != 0 for worker in workers)
        added = sum(int(answer[0]) for answer in answers if answer)
        opened = sum(int(answer[1]) for answer in answers if answer)
        with region.attach() as attached:
            found = int.from_bytes(attached.buf[:8], sys.byteorder)
    print(f"server killed {kills} times, replaced once; restarts {mounted.status()['restarts']}")
    print(f"{PROCESSES} processes opened the region {opened:,} times; {failed} saw an error")
    print(f"they added {added:,}; the counter says {found:,}")
    right = added == found and not failed
    print("right" if right else "WRONG")
    return 0 if right else 1


def disturb(mounted: Mount, seconds: int) -> int:
    """A kill each second, and one SIGHUP in the middle. Returns how many kills there were."""
    kills = 0
    for second in range(seconds):
        time.sleep(1)
        if second == seconds // 2:
            os.kill(mounted.pid, signal.SIGHUP)
        else:
            os.kill(mounted.server_pid, signal.SIGKILL)
            kills += 1
    return kills


def compile_counter(directory: Path) -> Path:
    """The C program."""
    source = directory / "counter.c"
    source.write_text(COUNTER, encoding="ascii")
    program = directory / "counter"
    subprocess.run(["cc", "-O1", "-Wall", "-Werror", "-o", program, source], check=True)
    return program


if __name__ == "__main__":
    sys.exit(main())
