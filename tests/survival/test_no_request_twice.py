"""A request that ends its server each time it is served: two servers end, then it is an error.

The failpoint takes the place of what would end a server: a bug, or memory that is not there.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import MIB, PAGE, refused
from tests.helpers.waiting import eventually
from tests.survival import gap

pytestmark = pytest.mark.mount
MOUNTS = {
    "passthrough": "data=passthrough",
    "paged": "data=paged",
    "without resend": "data=paged,x-msharefs.without=passthrough:resend",
}
LARGE = 32 * MIB
"""What is worked on in a thread."""
REFUSALS = r"not served again: (\w+) of inode (\d+)(?: \(.*?\))? by pid (\d+)(?: \(.*?\))? of uid (\d+) \(request \d+\): "


@pytest.fixture
def mounted(make_mount: MakeMount, request: pytest.FixtureRequest) -> mount.Mount:
    """A mount whose servers end where a test says."""
    how = MOUNTS[getattr(request, "param", "passthrough")]
    mounted = make_mount(f"size=128M,align=4096,{how},{gap.CRASH_OPTION}")
    mounted.expect_log(r"the server ended with -[69]; starting a new one")
    mounted.expect_log(REFUSALS)
    return mounted


@contextmanager
def ending_at(mounted: mount.Mount, step: str) -> Iterator[None]:
    """In the block every server ends when it comes to this step."""
    assert mounted.state is not None
    order = mounted.state / "order"
    stop = threading.Event()

    def order_again_and_again() -> None:
        draft = order.with_suffix(".draft")
        while not stop.is_set():
            if not order.exists():
                draft.write_text(step, encoding="ascii")
                draft.rename(order)

    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(order_again_and_again)
        try:
            eventually(order.exists, what="the order")
            yield
        finally:
            stop.set()
            done.result(10)
            order.unlink(missing_ok=True)


def change_mode(fd: int) -> None:
    """SETATTR, answered in the loop, which can be done twice."""
    os.fchmod(fd, 0o640)


def list_attributes(fd: int) -> None:
    """LISTXATTR, which pyfuse3 answers."""
    os.listxattr(fd)


def map_little(fd: int) -> None:
    """IOCTL, answered in the loop, or later where the kernel holds pages."""
    raw.create_mapping(fd, 0, PAGE)


def map_much(fd: int) -> None:
    """IOCTL, worked on in a thread."""
    raw.create_mapping(fd, 0, LARGE)


Act = Callable[[int], None]
CASES: list[tuple[str, Act, str]] = [
    ("passthrough", change_mode, "request_read"),
    ("passthrough", change_mode, "before_commit"),
    ("passthrough", list_attributes, "request_read"),
    ("passthrough", map_little, "request_read"),
    ("passthrough", map_little, "cleared"),
    ("passthrough", map_much, "cleared"),
    ("paged", change_mode, "request_read"),
    ("paged", map_much, "cleared"),
    ("without resend", change_mode, "before_commit"),
    ("without resend", list_attributes, "request_read"),
    ("without resend", map_much, "cleared"),
]


def becomes_an_error(mounted: mount.Mount, act: Act, order: str) -> int:
    """Check that a call is EIO whose servers end by an order, that the log says all that is
    known and nothing of it is done, and that it succeeds when it harms no more. Returns how many
    servers have ended."""
    path = mounted.path / "region"
    with raw.region(path, LARGE) as fd:
        before = raw.mapped_ranges(path), os.fstat(fd).st_mode
        with ending_at(mounted, order), refused(errno.EIO):
            act(fd)
        ended: int = mounted.status()["restarts"]
        assert (raw.mapped_ranges(path), os.fstat(fd).st_mode) == before
        (found,) = re.findall(REFUSALS, mounted.log())
        assert (found[1], found[3]) == (str(path.stat().st_ino), str(os.geteuid()))
        # The kernel names the thread that asks.
        assert Path(f"/proc/self/task/{found[2]}").exists()
        act(fd)
    assert mounted.status()["restarts"] == ended
    return ended


@pytest.mark.parametrize(
    ("mounted", "act", "step"),
    CASES,
    indirect=["mounted"],
    ids=[f"{how}-{act.__name__}-{step}" for how, act, step in CASES],
)
def test_a_request_whose_servers_fail_becomes_an_error(
    mounted: mount.Mount, act: Act, step: str
) -> None:
    """After two of them, however it is answered and wherever they end."""
    assert becomes_an_error(mounted, act, f"{step}:1:ABRT") == 2


def test_a_request_whose_servers_are_killed_becomes_an_error(mounted: mount.Mount) -> None:
    """After three: one or two may be somebody's kill -9."""
    assert becomes_an_error(mounted, map_much, "cleared:1:KILL") == 3


def test_what_was_done_is_no_error(mounted: mount.Mount) -> None:
    """A request that was applied when its server ended is answered by the next one."""
    path = mounted.path / "region"
    with raw.region(path, LARGE) as fd:
        with ending_at(mounted, "after_commit:1:ABRT"):
            change_mode(fd)
        assert mounted.status()["restarts"] == 1
        assert os.fstat(fd).st_mode & 0o777 == 0o640
