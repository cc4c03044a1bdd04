"""Descriptors of shared-memory objects: opened by need, few at a time, never closed under a user."""

from __future__ import annotations

import errno
import os
import resource
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from msharefs.memory import objects
from msharefs.memory.objects import SharedObjects
from tests.unit.support.memory_checks import fails_with

Make = Callable[[int, int], tuple[SharedObjects, list[str]]]


@pytest.fixture
def make() -> Iterator[Make]:
    """make(most, count): so many objects, of which `most` are kept open; and their names."""
    prefix = f"msharefs-test-{uuid.uuid4().hex}-"
    made: list[str] = []

    def several(most: int, count: int) -> tuple[SharedObjects, list[str]]:
        store = SharedObjects(most)
        names = [f"{prefix}{number}" for number in range(count)]
        for name in names:
            store.create(name)
            made.append(name)
        return store, names

    yield several
    remover = SharedObjects(0)
    for name in made:
        remover.remove(name)
    assert open_of(made) == []


def open_of(names: list[str]) -> list[str]:
    """The objects that this process has open, by their descriptors, in order."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue  # the one that lists them
        found.append(os.path.basename(path).removesuffix(" (deleted)"))
    return sorted(name for name in names if name in found)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """As in a process that has open all that it may."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    taken = []
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_those_used_last_are_kept_open(make: Make) -> None:
    """So many and no more, however many there are."""
    store, names = make(3, 10)
    assert open_of(names) == names[7:]
    store.open(names[7])
    store.open(names[0])
    assert open_of(names) == [names[0], names[7], names[9]]


def test_without_a_bound_given_it_is_a_part_of_what_the_process_may_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest is for worker threads, connections of the metrics and the journal."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 1 << 20))
    assert SharedObjects()._most == 16
    for soft in (1 << 20, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert SharedObjects()._most == objects.KEPT_OPEN


def test_what_is_used_is_not_closed(make: Make) -> None:
    """It goes when the last user lets go of it, not before."""
    store, names = make(1, 3)
    used = store.open(names[0])
    store.open(names[1])
    store.open(names[2])
    assert open_of(names) == [names[0], names[2]]
    os.ftruncate(used.fd, 4096)
    del used
    assert open_of(names) == [names[2]]


def test_what_is_removed_is_closed(make: Make) -> None:
    """Or its memory would stay in use."""
    store, names = make(2, 2)
    store.remove(names[0])
    assert open_of(names) == [names[1]]
    with fails_with(errno.ENOENT):
        store.open(names[0])
    store.remove(names[0])


def test_threads_use_what_others_push_out(make: Make) -> None:
    """Each reads what stands in its own object, whatever is opened and closed meanwhile."""
    store, names = make(2, 8)

    def write(name: str) -> None:
        used = store.open(name)
        os.pwrite(used.fd, name.encode(), 0)

    def look(name: str) -> None:
        for _ in range(500):
            used = store.open(name)
            assert os.pread(used.fd, 99, 0) == name.encode()

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(write, names))
        list(pool.map(look, names))
    assert len(open_of(names)) == 2


def test_what_is_kept_makes_room_for_what_is_wanted(make: Make) -> None:
    """A process that has no descriptor left closes those that nobody uses."""
    store, names = make(3, 5)
    used = store.open(names[2])
    with no_descriptor_left():
        store.open(names[0])
        assert open_of(names) == [names[0], names[2]]
    os.ftruncate(used.fd, 4096)


def test_a_page_gets_the_reserve(make: Make) -> None:
    """One at a time, again and again; nobody else does."""
    store, names = make(0, 3)
    with no_descriptor_left():
        with fails_with(errno.ENOENT):
            store.open_for_page("msharefs-test-none")
        for name in (*names, *names):
            used = store.open_for_page(name)
            os.ftruncate(used.fd, 4096)
            for attempt in (store.open, store.open_for_page):
                with pytest.raises(OSError, check=lambda e: e.errno in objects.NONE_LEFT):
                    attempt(name)
            del used
    assert open_of(names) == []


def test_when_it_is_really_over_that_is_said_once(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """An errno for each caller, and one line in the log until it was possible again."""
    store, names = make(0, 2)
    for lines in (1, 2):
        with no_descriptor_left():
            for attempt in (store.open, store.open, store.create):
                with pytest.raises(OSError, check=lambda e: e.errno in objects.NONE_LEFT):
                    attempt(names[0])
        assert caplog.text.count("no descriptor is left") == lines
        store.open(names[0])
