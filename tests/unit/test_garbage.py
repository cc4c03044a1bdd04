"""What Python's collector looks at in a server, and what not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from msharefs.daemon import garbage


class Thing:
    """Something that may refer to itself."""

    def __init__(self) -> None:
        self.other: Thing | None = None


@pytest.fixture(autouse=True)
def own_garbage() -> Iterator[None]:
    """Begin with none, and leave nothing frozen."""
    gc.collect()
    yield
    gc.enable()
    gc.unfreeze()


def is_looked_at(thing: Thing) -> bool:
    """By the next full look."""
    return any(each is thing for each in gc.get_objects())


def test_all_that_is_made_stays() -> None:
    """Nothing of it is looked at, then or later."""
    with garbage.all_stays():
        assert not gc.isenabled()
        thing = Thing()
    assert gc.isenabled()
    assert not is_looked_at(thing)


def test_the_collector_looks_again_after_a_failure() -> None:
    """Whatever the body met."""
    with pytest.raises(OSError, match="no"), garbage.all_stays():
        raise OSError("no")
    assert gc.isenabled()


def test_what_stays_is_frozen_and_garbage_is_not() -> None:
    """A cycle that nothing refers to goes; what is in use is not looked at any more."""
    thing, cycle = Thing(), Thing()
    cycle.other = cycle
    gone = weakref.ref(cycle)
    del cycle
    gc.collect(0)
    assert is_looked_at(thing)
    garbage.freeze_what_stays()
    assert gone() is None
    assert not is_looked_at(thing)


def test_an_idle_server_looks_at_nothing() -> None:
    """Next to nothing was made."""
    frozen = gc.get_freeze_count()
    garbage.freeze_what_stays()
    assert gc.get_freeze_count() == frozen
