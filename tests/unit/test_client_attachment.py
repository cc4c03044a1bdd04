"""Attachment: the bytes of a file in this process, and what closing does to their views.

An ordinary file serves as well as a region: the class maps any descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
import pickle
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt
import pytest

from msharefs import AccessDenied, Attachment, Mapping

PAGE = mmap.PAGESIZE
SIZE = 4 * PAGE

Attach = Callable[..., Attachment]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of four pages, each full of its own number."""
    path = tmp_path / "file"
    path.write_bytes(b"".join(bytes([page]) * PAGE for page in range(4)))
    return path


@pytest.fixture
def attach(file: Path) -> Iterator[Attach]:
    """Attaches a window of the file; the descriptor lives as long as the test."""
    fd = os.open(file, os.O_RDWR)

    def window(offset: int = 0, size: int = SIZE, *, writable: bool = True) -> Attachment:
        return Attachment(fd, offset, size, writable=writable)

    yield window
    os.close(fd)


def mapped_here(path: Path) -> bool:
    """Whether this process has the file mapped."""
    return str(path) in Path("/proc/self/maps").read_text()


def test_buf_is_the_file_itself(attach: Attach, file: Path) -> None:
    """What one attachment writes, another one and the file show; nothing is copied."""
    with attach() as first, attach() as second:
        first.buf[10:13] = b"abc"
        assert bytes(second.buf[10:13]) == b"abc"
        assert file.read_bytes()[10:13] == b"abc"
        assert not first.readonly
        assert (first.buf.format, first.buf.itemsize, first.buf.nbytes) == ("B", 1, SIZE)


def test_window_has_its_own_offset_and_size(attach: Attach) -> None:
    """A window shows just the bytes that were asked for, a part of a page too."""
    with attach(2 * PAGE, PAGE + 5) as window:
        assert bytes(window.buf) == b"\2" * PAGE + b"\3" * 5
        assert (window.offset, window.size) == (2 * PAGE, PAGE + 5)


def test_an_advice_that_the_kernel_does_not_take_is_passed_over(file: Path) -> None:
    """It makes things faster, and is not worth an error."""
    with (
        file.open("r+b") as opened,
        Attachment(opened.fileno(), 0, SIZE, writable=True, advice=9999) as window,
    ):
        assert window.buf[0] == 0


def test_read_only_attachment_cannot_be_written(attach: Attach, file: Path) -> None:
    """Writing to a read-only attachment is a TypeError, as for bytes, and changes nothing."""
    with attach(writable=False) as window:
        assert window.readonly
        with pytest.raises(TypeError):
            window.buf[0] = 1
    assert file.read_bytes()[0] == 0


def test_close_takes_the_window_out_of_the_process(attach: Attach, file: Path) -> None:
    """After close nothing of it is usable, with ValueError; closing again does nothing."""
    window = attach()
    kept = window.buf
    assert mapped_here(file)
    window.close()
    assert window.closed
    assert not mapped_here(file)
    window.close()
    for use in (
        lambda: window.buf,
        lambda: window.readonly,
        lambda: window.address,
        lambda: window.as_array("u1", 1),
        lambda: kept[0],
        window.__enter__,
    ):
        with pytest.raises(ValueError, match=r"closed attachment|released memoryview"):
            use()
    assert repr(window) == "<Attachment closed>"


def test_close_with_a_slice_alive_is_refused(attach: Attach, file: Path) -> None:
    """BufferError names the reason, the slice and the attachment stay usable, and later it works."""
    window = attach()
    part = window.buf[PAGE : PAGE + 4]
    with pytest.raises(BufferError, match="still used"):
        window.close()
    assert not window.closed
    part[0] = 99
    assert window.buf[PAGE] == 99
    with pytest.raises(BufferError):
        window.close()
    part.release()
    window.close()
    assert not mapped_here(file)


def np_as_array(window: Attachment) -> npt.NDArray[np.uint8]:
    """The way of this library."""
    return window.as_array("u1", SIZE)


def np_ndarray(window: Attachment) -> npt.NDArray[np.uint8]:
    """The way of Python's own documentation of shared memory, which tells the map nothing."""
    return np.ndarray((SIZE,), np.uint8, buffer=window.buf)


def np_asarray(window: Attachment) -> npt.NDArray[np.uint8]:
    """The way of the buffer protocol."""
    return np.asarray(window.buf)


@pytest.mark.parametrize("make", [np_as_array, np_ndarray, np_asarray])
def test_close_with_an_array_alive_is_refused(
    attach: Attach, make: Callable[[Attachment], npt.NDArray[np.uint8]]
) -> None:
    """Memory is never taken from under an array, however it was made: BufferError instead."""
    window = attach()
    array = make(window)
    with pytest.raises(BufferError, match="still used"):
        window.close()
    assert not window.closed
    array[PAGE] = 77
    assert window.buf[PAGE] == 77
    part = array[:3]
    del array
    with pytest.raises(BufferError, match="still used"):
        window.close()
    assert part[0] == 0
    del part
    window.close()
    assert window.closed


def test_leaving_the_block_with_a_view_alive_is_refused(attach: Attach) -> None:
    """The with statement closes, so a view that outlives it is a BufferError too."""
    window = attach()
    with pytest.raises(BufferError), window:
        part = window.buf[:1]
    part.release()
    window.close()


def test_exception_in_the_block_is_not_hidden_by_a_view(attach: Attach, file: Path) -> None:
    """An exception comes out as it is; the window goes when its frames have let go of the view."""

    def work() -> None:
        with attach() as window:
            part = window.buf[:1]
            raise KeyError(part[0])

    with pytest.raises(KeyError) as caught:
        work()
    assert caught.value.__context__ is None
    assert mapped_here(file)
    caught.value.__traceback__ = None
    del caught
    gc.collect()
    assert not mapped_here(file)


def test_view_outlives_an_attachment_that_was_dropped(attach: Attach, file: Path) -> None:
    """Without close the memory stays exactly as long as a view of it, and nobody is warned."""
    window = attach()
    gone = weakref.ref(window)
    part = window.buf[3 * PAGE :]
    del window
    gc.collect()
    assert gone() is None
    assert part[0] == 3
    assert mapped_here(file)
    del part
    gc.collect()
    assert not mapped_here(file)


def test_attachment_needs_no_descriptor(file: Path) -> None:
    """Once attached, closing the descriptor changes nothing."""
    fd = os.open(file, os.O_RDWR)
    window = Attachment(fd, 0, SIZE, writable=True)
    os.close(fd)
    window.buf[0] = 7
    assert file.read_bytes()[0] == 7
    window.close()


@pytest.mark.parametrize("writable", [True, False])
def test_address_is_where_the_bytes_are(attach: Attach, *, writable: bool) -> None:
    """The address serves C code, for read-only windows too, and does not hinder closing."""
    window = attach(2 * PAGE, PAGE, writable=writable)
    assert ctypes.string_at(window.address, PAGE) == b"\2" * PAGE
    assert window.address % PAGE == 0
    window.close()
    assert window.closed


def test_repr_says_what_it_is(attach: Attach) -> None:
    """A person sees the window and the right."""
    with attach(PAGE, 5, writable=False) as window:
        assert repr(window) == f"<Attachment of 5 bytes at {PAGE}, read-only>"


def test_attachment_cannot_be_pickled(attach: Attach) -> None:
    """Memory does not travel in a pickle: TypeError instead of a copy."""
    with attach() as window, pytest.raises(TypeError, match="cannot pickle"):
        pickle.dumps(window)


def test_array_is_the_memory(attach: Attach, file: Path) -> None:
    """as_array has the type and shape asked for and no memory of its own."""
    with attach() as window:
        array = window.as_array(np.uint16, (2, 3), offset=PAGE)
        assert (array.dtype, array.shape) == (np.dtype("u2"), (2, 3))
        assert not array.flags.owndata
        assert array[1, 2] == 0x0101
        array[1, 2] = 0xBEEF
        assert window.buf[PAGE + 10 : PAGE + 12].cast("H")[0] == 0xBEEF
        del array
    assert file.read_bytes()[PAGE + 10 : PAGE + 12] == (0xBEEF).to_bytes(2, sys.byteorder)


def test_array_of_a_read_only_window_is_read_only(attach: Attach) -> None:
    """NumPy refuses to write it and to make it writable."""
    with attach(writable=False) as window:
        array = window.as_array("u1", SIZE)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
        del array


@pytest.mark.parametrize(
    ("dtype", "shape", "offset"),
    [
        ("u1", SIZE + 1, 0),
        ("u8", (SIZE // 8,), 8),
        ("u8", (1 << 40, 1 << 40), 0),
        ("u8", 1, -8),
        ("u1", 1, SIZE),
        ("u1", (-1,), 0),
        ("u1", (-2, -2), 0),
        ("O", 1, 0),
        ("u4,O", 1, 0),
    ],
)
def test_array_that_does_not_fit_is_refused(
    attach: Attach, dtype: str, shape: int | tuple[int, ...], offset: int
) -> None:
    """Never a byte outside the window, and never pointers of another process."""
    with (
        attach() as window,
        pytest.raises(ValueError, match=r"no room|pointers"),
    ):
        window.as_array(dtype, shape, offset=offset)


def test_array_in_fortran_order(attach: Attach) -> None:
    """The first index is the one that changes fastest, and it is the memory all the same."""
    with attach() as window:
        array = window.as_array(np.uint8, (3, 2), order="F")
        assert array.flags.f_contiguous
        array[:] = [[1, 4], [2, 5], [3, 6]]
        assert bytes(window.buf[:6]) == bytes([1, 2, 3, 4, 5, 6])
        del array


def test_array_of_records(attach: Attach) -> None:
    """A dtype with fields is laid over the bytes as it is."""
    with attach() as window:
        array = window.as_array(np.dtype([("count", "<u2"), ("rest", "u1", 6)]), 4, offset=PAGE)
        assert array["count"].tolist() == [0x0101] * 4
        del array


def test_array_has_the_type_of_its_elements(attach: Attach) -> None:
    """A type checker knows what is in it, by the class or by a dtype of it."""
    with attach() as window:
        floats = window.as_array(np.float64, 4)
        assert_type(floats, npt.NDArray[np.float64])
        counts = window.as_array(np.dtype(np.uint16), (2, 2))
        assert_type(counts, npt.NDArray[np.uint16])
        assert (floats.dtype, counts.dtype) == (np.dtype("f8"), np.dtype("u2"))
        del floats, counts


def mapped_pages(*pages: int) -> list[Mapping]:
    """What a layout says of these pages of the file."""
    return [Mapping(page * PAGE, PAGE, "rw-", reserve=True, huge=False) for page in pages]


def test_array_on_a_hole_is_refused(file: Path) -> None:
    """ValueError in place of SIGBUS at the first touch; beside the hole there is no objection."""
    fd = os.open(file, os.O_RDWR)
    present = mapped_pages(1, 3)
    with Attachment(fd, PAGE, 3 * PAGE, writable=True, look=lambda: present) as window:
        for offset, size in ((0, PAGE), (2 * PAGE, PAGE), (PAGE - 1, 1), (PAGE, 0)):
            assert window.as_array("u1", size, offset=offset).size == size
        for offset, size in ((PAGE, 1), (PAGE - 1, 2), (2 * PAGE - 1, 2), (0, 3 * PAGE)):
            with pytest.raises(ValueError, match=r"nothing is mapped at \d+ to \d+ of"):
                window.as_array("u1", size, offset=offset)
        present.insert(1, *mapped_pages(2))
        assert window.as_array("u1", 3 * PAGE).size == 3 * PAGE
    os.close(fd)


@pytest.mark.parametrize("problem", [AccessDenied, ValueError])
def test_array_where_the_layout_cannot_be_asked(file: Path, problem: type[Exception]) -> None:
    """Whoever may not look, or has closed the region, is trusted."""

    def look() -> list[Mapping]:
        raise problem(errno.EACCES, "no right, or closed")

    fd = os.open(file, os.O_RDWR)
    with Attachment(fd, 0, SIZE, writable=True, look=look) as window:
        assert window.as_array("u1", SIZE).size == SIZE
    os.close(fd)


def test_array_without_numpy_says_what_to_install(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NumPy is optional: without it there is an ImportError that helps."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    with attach() as window, pytest.raises(ImportError, match="needs NumPy: pip install"):
        window.as_array("u1", 1)


def test_forked_child_has_the_same_memory(attach: Attach, file: Path) -> None:
    """A child writes into its parent's memory and closes its own window alone."""
    window = attach()
    child = os.fork()
    if child == 0:
        window.buf[0] = 42
        window.close()
        os._exit(0 if not mapped_here(file) else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert window.buf[0] == 42
    window.close()
