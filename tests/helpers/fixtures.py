"""Fixtures for every test that touches a real mount: a pytest plugin (tests/conftest.py).

A module shares one mount (`mounted`); a test that needs its own asks `make_mount`. The
daemon's log is part of every test's verdict, and a skip is a failure where CI=true or
MSHAREFS_REQUIRE_MOUNT=1 says that mounts must work.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.helpers import mount, poke, windows
from tests.helpers.background import Background
from tests.helpers.memory_group import MemoryGroup, memory_group, missing_for_memory_groups
from tests.helpers.watchdog import Watchdog

MakeMount = Callable[..., mount.Mount]
MakePoke = Callable[..., poke.Poke]

_numbers = itertools.count()
running: list[mount.Mount] = []
"""The mounts of the test run that are served now."""

TEST_SECONDS = 60.0
"""What a test of a mount may take; five times as long if it is marked slow."""


def strict() -> bool:
    """Whether a test that cannot run counts as failed."""
    return os.environ.get("CI") == "true" or os.environ.get("MSHAREFS_REQUIRE_MOUNT") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Where mounts must work, a skip is a failure that names its reason."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.skipped and not hasattr(report, "wasxfail") and strict():
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} must run here, but: {reason}"
    return report  # type: ignore[return-value]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only root can do where we are not root, and the other way round. Each such test
    says why. Who lists tests sees those of ordinary users: root runs them as one."""
    unfit = "user_only" if mount.PRIVILEGED else "root_only"
    listed = mount.PRIVILEGED and config.option.collectonly
    rest: list[pytest.Item] = []
    for item in items:
        for name in ("root_only", "user_only"):
            marker = item.get_closest_marker(name)
            if marker is not None and not (len(marker.args) == 1 and str(marker.args[0]).strip()):
                raise pytest.UsageError(f"{item.nodeid}: {name} needs its reason")
        if listed or item.get_closest_marker(unfit) is None:
            rest.append(item)
    left_out = [item for item in items if item not in rest]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = rest


@pytest.fixture(scope="session")
def requires_fuse() -> None:
    """Skips where mounts cannot work, and says why."""
    missing = mount.missing_for_mounts()
    if missing is not None:
        pytest.skip(missing)


@pytest.fixture(scope="session")
def watchdog() -> Iterator[Watchdog]:
    """Aborts the tests' own mounts when one test hangs."""
    guard = Watchdog()
    yield guard
    guard.close()


@pytest.fixture(autouse=True)
def guarded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test of a mount has a time limit, and every line of a daemon's log in it counts.

    Such a test is told by `requires_fuse`, which every fixture that mounts asks for.
    """
    if "requires_fuse" not in request.fixturenames:
        yield
        return
    watchdog: Watchdog = request.getfixturevalue("watchdog")
    slow = request.node.get_closest_marker("slow")
    watchdog.tell(f"arm {TEST_SECONDS * (5 if slow else 1)}")
    yield
    watchdog.tell("disarm")
    for each in running:
        each.check_log()


def _start(watchdog: Watchdog, options: str, source: str) -> mount.Mount:
    fresh = mount.Mount(options, source=source)
    watchdog.tell(f"add {fresh.connection} {fresh.path}")
    watchdog.tell("arm 30")
    fresh.wait_until_it_answers()
    watchdog.tell("disarm")
    running.append(fresh)
    return fresh


def _stop(watchdog: Watchdog, old: mount.Mount) -> None:
    running.remove(old)
    watchdog.tell("arm 30")
    try:
        if old.process.poll() is None or mount.mount_lines(old.path):
            old.stop()
        else:
            old.wait_for_end()
            old.discard()
    finally:
        watchdog.tell("disarm")
        watchdog.tell(f"remove {old.connection}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with PLANES runs once on each of these data planes, with a mount for each.

    Those of its tests that attach regions, by a client or in their own process, run on ATTACHED as well,
    but for those that are marked `by_mmap`. MSHAREFS_TEST_OPTIONS=data=... leaves one plane.
    """
    asked = mount.asked_for()
    wanted = list(getattr(metafunc.module, "PLANES", ()))
    by_mmap = metafunc.definition.get_closest_marker("by_mmap")
    if by_mmap is None and {"make_poke", "attach"} & set(metafunc.fixturenames):
        wanted += getattr(metafunc.module, "ATTACHED", ())
    planes = [plane for plane in wanted if not asked or plane in asked]
    if planes and "mounted" in metafunc.fixturenames:
        metafunc.parametrize("mounted", planes, indirect=True, scope="module")


@pytest.fixture(scope="module")
def mounted(
    requires_fuse: None, watchdog: Watchdog, request: pytest.FixtureRequest
) -> Iterator[mount.Mount]:
    """A mount for the whole module, on the data plane of PLANES if it has any.

    Its options are the module's MOUNT_OPTIONS.
    """
    options = getattr(request.module, "MOUNT_OPTIONS", "size=1G")
    plane = getattr(request, "param", None)
    shared = _start(watchdog, f"{options},data={plane}" if plane else options, "msharefs")
    yield shared
    _stop(watchdog, shared)


@pytest.fixture(scope="module")
def mounted_paged(requires_fuse: None, watchdog: Watchdog) -> Iterator[mount.Mount]:
    """A mount with the paged data plane, for tests that have another one beside it."""
    shared = _start(watchdog, "size=16M,data=paged", "msharefs")
    yield shared
    _stop(watchdog, shared)


@pytest.fixture
def paged(mounted: mount.Mount) -> bool:
    """Whether the kernel asks the daemon for every page."""
    return mount.is_paged(mounted.path)


@pytest.fixture
def direct(request: pytest.FixtureRequest) -> bool:
    """Whether clients that ask for it get the memory of regions itself, on the mount of the module if the
    test has it."""
    if "mounted" in request.fixturenames:
        mounted: mount.Mount = request.getfixturevalue("mounted")
        return mount.is_direct(mounted.path)
    return False


@pytest.fixture
def attach(mounted: mount.Mount) -> type[windows.Window]:
    """Attaches an open region of the module's mount in this process: attach(fd, size)."""
    return windows.kind_for(mounted.path)


@pytest.fixture
def make_mount(requires_fuse: None, watchdog: Watchdog) -> Iterator[MakeMount]:
    """Makes mounts of a test's own: make_mount("size=8M", source="none")."""
    with ExitStack() as stack:

        def make(options: str = "size=64M", *, source: str = "msharefs") -> mount.Mount:
            fresh = _start(watchdog, options, source)
            stack.callback(_stop, watchdog, fresh)
            return fresh

        yield make


@pytest.fixture
def background(requires_fuse: None) -> Iterator[Background]:
    """A directory to mount on through the command as users start it, without -f; whatever is
    mounted there or runs for it at the end goes by force."""
    started = Background()
    yield started
    started.discard()


@pytest.fixture
def place(mounted: mount.Mount) -> Path:
    """A path on the mount that no other test uses; nothing is there yet.

    The memory of what earlier tests removed is free again, so that a test may count.
    """
    mounted.wait_until_empty()
    return mounted.path / f"t{next(_numbers)}"


@pytest.fixture(scope="session")
def poke_program(requires_fuse: None) -> Iterator[Path]:
    """The compiled client helper."""
    with poke.compiled() as program:
        yield program


@pytest.fixture
def make_poke(poke_program: Path, *, direct: bool) -> Iterator[MakePoke]:
    """Starts client processes: make_poke() as root, make_poke(uid=...) as somebody else. Where the mount
    gives memory itself they ask for it."""
    kind = poke.DirectPoke if direct else poke.Poke
    with ExitStack() as stack:

        def make(*, uid: int | None = None) -> poke.Poke:
            return stack.enter_context(kind(poke_program, uid=uid))

        yield make


@pytest.fixture
def client(make_poke: MakePoke) -> poke.Poke:
    """One client process, root's."""
    return make_poke()


@pytest.fixture
def group() -> Iterator[MemoryGroup]:
    """A memory group of version 1 or 2 with nobody in it. Only root may make one."""
    missing = missing_for_memory_groups()
    if missing is not None:
        pytest.skip(missing)
    with memory_group() as group:
        yield group
