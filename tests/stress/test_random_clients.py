"""Sixty-four processes do random operations at the same time; a model knows the outcome.

MSHAREFS_STRESS_SECONDS sets how long (default 60), MSHAREFS_STRESS_SEED repeats a choice
of operations; their interleaving is the machine's.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import mount, raw, windows
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import PAGE, opened
from tests.helpers.users import in_child
from tests.helpers.waiting import eventually
from tests.stress.client_process import answer_of, start_client
from tests.stress.random_client import CLIENTS, SHARED_NAMES, SHARED_PAGES, RandomClient, Report

SECONDS = float(os.environ.get("MSHAREFS_STRESS_SECONDS", "60"))
CAPACITY = 24 * raw.MIB
SIZE_OF_SHARED = CLIENTS * SHARED_PAGES * PAGE


def reports_of(clients: list[tuple[int, int]]) -> list[Report]:
    """What all clients say, once they have ended. AssertionError if one has failed."""
    answers = [answer_of(pid, reader) for pid, reader in clients]
    failures = [answer for answer in answers if not isinstance(answer, Report)]
    assert not failures, "\n".join(map(str, failures))
    return [answer for answer in answers if isinstance(answer, Report)]


def check_home(home: Path, report: Report) -> int:
    """One client's directory is what its model says. Returns the bytes that it has mapped."""
    seen = {str(path.relative_to(home)): path for path in home.rglob("*")}
    assert set(seen) == set(report.names) | report.directories - {""}
    inodes: dict[int, int] = {}
    for name, number in report.names.items():
        file, path = report.files[number], seen[name]
        status = path.stat()
        assert inodes.setdefault(number, status.st_ino) == status.st_ino
        assert status.st_nlink == file.names
        assert status.st_size == (file.size or 0) * PAGE
        assert pages_of(raw.mapped_ranges(path)) == sorted(file.pages)
        check_contents(path, status.st_size, file.pages)
    assert len(set(inodes.values())) == len(inodes)
    return sum(len(file.pages) for file in report.files) * PAGE


def pages_of(ranges: list[tuple[int, int]]) -> list[int]:
    """The numbers of the pages in these ranges."""
    return [page for start, end in ranges for page in range(start // PAGE, end // PAGE)]


def check_contents(path: Path, size: int, pages: dict[int, int]) -> None:
    """Every mapped page is filled with its byte. In a child, as a wrong hole would kill."""
    attach = windows.kind_for(path)

    def compare() -> list[int]:
        with opened(path) as fd, attach(fd, size) as window:
            return [
                page
                for page, byte in pages.items()
                if window[page * PAGE : (page + 1) * PAGE] != bytes([byte]) * PAGE
            ]

    if pages:
        assert in_child(compare) == [], path


def check_shared(arena: Path, reports: list[Report]) -> int:
    """The common region holds all clients' pages; the contested names are whole files."""
    pages = {page: byte for report in reports for page, byte in report.shared.items()}
    assert pages_of(raw.mapped_ranges(arena / "region")) == sorted(pages)
    check_contents(arena / "region", SIZE_OF_SHARED, pages)
    contested = set(os.listdir(arena)) - {"region"}
    assert contested <= {f"name{number}" for number in range(SHARED_NAMES)}
    links: dict[int, int] = {}
    for name in contested:
        links.setdefault((arena / name).stat().st_ino, 0)
        links[(arena / name).stat().st_ino] += 1
    for name in contested:
        assert (arena / name).stat().st_nlink == links[(arena / name).stat().st_ino]
    return len(pages) * PAGE


def remove_all(root: Path) -> None:
    """Empty the mount again."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        elif path.name != "mshare_info":
            path.unlink()


def check_accounts(mounted: mount.Mount, mapped: int, regions: int) -> None:
    """df and status agree with the model; closing and exits are told with some delay."""

    def agreed() -> bool:
        status = mounted.status()
        arena = status["arena"]
        return bool(
            status["open_handles"] == 0
            and status["regions"] == regions
            and arena["reserved"] == arena["used"] == mapped
        )

    eventually(agreed, what=f"{mapped} bytes in {regions} regions")
    assert CAPACITY - raw.free_bytes(mounted.path) == mapped


@pytest.mark.slow
def test_random_operations_of_many_clients(make_mount: MakeMount) -> None:
    """N1 to N11, S2, S5, R1, C7 to C10, U3 to U7, M5, M6: names, layouts, contents and df agree."""
    seed = int(os.environ.get("MSHAREFS_STRESS_SEED", time.time_ns() % 10**6))
    mounted = make_mount(f"size={CAPACITY},align=4096")
    root = mounted.path
    (root / "shared").mkdir()
    # Some descriptors come with the first request of their kind: the pipe that libfuse makes.
    os.statvfs(root)
    descriptors = len(os.listdir(f"/proc/{mounted.server_pid}/fd"))
    with opened(root / "shared" / "region", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, SIZE_OF_SHARED)
    deadline = time.monotonic() + SECONDS

    def client(number: int) -> Report:
        return RandomClient(root, number, seed).run(deadline)

    clients = [start_client(partial(client, number)) for number in range(CLIENTS)]
    reports = reports_of(clients)

    # Without any work the comparison would prove nothing.
    assert sum(report.operations for report in reports) > 100 * SECONDS, f"seed {seed}"
    mapped = sum(
        check_home(root / f"client{number}", report) for number, report in enumerate(reports)
    )
    mapped += check_shared(root / "shared", reports)
    regions = len({path.stat().st_ino for path in root.rglob("*") if path.is_file()}) - 1
    check_accounts(mounted, mapped, regions)

    remove_all(root)
    mounted.wait_until_empty()
    assert os.listdir(root) == ["mshare_info"]
    eventually(lambda: raw.used_inodes(root) == 2, what="inodes are left")
    assert len(os.listdir(f"/proc/{mounted.server_pid}/fd")) == descriptors
