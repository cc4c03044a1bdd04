"""The exceptions of the Python client: which class an errno becomes, and what it carries."""

from __future__ import annotations

import errno
import pickle

import pytest

import msharefs
from msharefs.client.errors import from_os_error, translated

FAMILY = [
    (errno.EINVAL, msharefs.InvalidArgument, ValueError),
    (errno.EEXIST, msharefs.RegionExists, FileExistsError),
    (errno.ENOENT, msharefs.RegionNotFound, FileNotFoundError),
    (errno.EACCES, msharefs.AccessDenied, PermissionError),
    (errno.EPERM, msharefs.AccessDenied, PermissionError),
    (errno.ENOTTY, msharefs.NotARegion, OSError),
    (errno.EISDIR, msharefs.NotARegion, OSError),
    (errno.ENODEV, msharefs.NotMounted, OSError),
    (errno.ENOMEM, msharefs.OutOfMemory, OSError),
    (errno.ENOSPC, msharefs.OutOfInodes, OSError),
    (errno.EFBIG, msharefs.RegionTooLarge, OSError),
    (errno.ENOTCONN, msharefs.MountGone, OSError),
    (errno.ECONNABORTED, msharefs.MountGone, OSError),
    (errno.EIO, msharefs.MshareError, OSError),
]


@pytest.mark.parametrize(("number", "kind", "builtin"), FAMILY)
def test_errno_decides_the_class(
    number: int, kind: type[msharefs.MshareError], builtin: type[Exception]
) -> None:
    """Each errno has its class, which the project's and Python's own except clauses both catch."""
    error = from_os_error(OSError(number, "the kernel's words"), "cannot do it", "/a/path")
    assert type(error) is kind
    assert isinstance(error, msharefs.MshareError)
    assert isinstance(error, builtin)
    assert (error.errno, error.filename) == (number, "/a/path")
    assert "cannot do it: " in str(error)


@pytest.mark.parametrize(("number", "kind", "builtin"), FAMILY)
def test_exceptions_travel_between_processes(
    number: int, kind: type[msharefs.MshareError], builtin: type[Exception]
) -> None:
    """Pickled and back, as multiprocessing does, an exception is the same."""
    error = from_os_error(OSError(number, ""), "cannot do it", "/a/path")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), back.errno, back.filename) == (type(error), number, "/a/path")
    assert str(back) == str(error)


def test_size_and_mapping_exceptions_are_of_the_wider_class() -> None:
    """Who does not care which rule of the size was broken catches InvalidArgument."""
    assert issubclass(msharefs.SizeNotSet, msharefs.InvalidArgument)
    assert issubclass(msharefs.SizeAlreadySet, msharefs.InvalidArgument)
    assert issubclass(msharefs.MappingExists, FileExistsError)


def test_translated_keeps_the_cause_and_leaves_others_alone() -> None:
    """An OSError becomes one of the family with its cause; an MshareError, or a bug, passes."""
    with pytest.raises(msharefs.OutOfMemory) as caught, translated("cannot map", "/a"):
        raise OSError(errno.ENOMEM, "no")
    assert isinstance(caught.value.__cause__, OSError)

    ready = msharefs.SizeNotSet(errno.EINVAL, "no size", "/b")
    with pytest.raises(msharefs.SizeNotSet) as same, translated("cannot map", "/a"):
        raise ready
    assert same.value is ready

    with pytest.raises(KeyError), translated("cannot map", "/a"):
        raise KeyError("a bug")
