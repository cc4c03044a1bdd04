"""The pickle of a region without a mount: by its path, and never another region.

A plain file that carries the layout attribute stands in for a region; descriptors between
processes are in tests/mount/test_client_pickling.py.
"""

from __future__ import annotations

import copy
import errno
import os
import pickle
import sys
from pathlib import Path

import pytest

import msharefs
from msharefs import Region
from tests.helpers.descriptors import open_descriptors


class Special(Region):
    """A program's own kind of region."""

    __slots__ = ()


def make(path: Path) -> Path:
    """A stand-in for a region."""
    path.write_bytes(bytes(4096))
    os.setxattr(path, "user.msharefs.layout", b"{}")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A stand-in for a region, that is found by its name."""
    return make(tmp_path / "region")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("writable", [True, False])
def test_pickle_opens_the_same_region(path: Path, protocol: int, *, writable: bool) -> None:
    """It comes out open, with a descriptor of its own, and as writable as it went in."""
    with Region.open(path, writable=writable) as region:
        with pickle.loads(pickle.dumps(region, protocol)) as other:
            assert os.path.samestat(os.fstat(other.fileno()), os.fstat(region.fileno()))
            assert other.fileno() != region.fileno()
            assert (other.path, other.writable) == (str(path), writable)
        assert not region.closed


def test_kind_and_bytes_path_survive(path: Path) -> None:
    """A subclass stays one, and a path of bytes stays bytes; a copy is opened in the same way."""
    with Special.open(os.fsencode(path)) as region:
        for other in (pickle.loads(pickle.dumps(region)), copy.copy(region)):
            with other:
                assert type(other) is Special
                assert other.path == os.fsencode(path)


def test_another_region_of_the_name_is_refused(path: Path, tmp_path: Path) -> None:
    """RegionNotFound says so where the path leads to another region by now; nothing stays open."""
    with Region.open(path) as region:
        text = pickle.dumps(region)
        os.replace(make(tmp_path / "other"), path)
        before = open_descriptors()
        with pytest.raises(msharefs.RegionNotFound, match="another region's by now") as caught:
            pickle.loads(text)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(path))
        assert open_descriptors() == before


def test_pickle_without_a_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can lead to an unlinked region but multiprocessing: said when it is pickled."""
    monkeypatch.delitem(sys.modules, "multiprocessing.reduction", raising=False)
    with Region.open(path) as region:
        text = pickle.dumps(region)
        path.unlink()
        with pytest.raises(msharefs.RegionNotFound, match="only multiprocessing"):
            pickle.dumps(region)
        with pytest.raises(msharefs.RegionNotFound):
            pickle.loads(text)


def test_closed_region_is_not_pickled(path: Path) -> None:
    """ValueError, as for every other use."""
    region = Region.open(path)
    region.close()
    with pytest.raises(ValueError, match="closed region"):
        pickle.dumps(region)
