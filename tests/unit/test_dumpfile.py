"""The form of a dump: what was written is read, and nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs.cli.errors import EXIT_DAMAGED, inspected
from msharefs.inspect.dumpfile import MAGIC, DamagedError, Reader, Writer

Blocks = list[tuple[int, bytes]]
HEADER = b'{"size": 4096, "layout": []}'
BLOCKS: Blocks = [(0, b"first" * 100), (4096, b"\0" * 64), (1 << 29, b"x")]


@contextmanager
def file_of(content: bytes) -> Iterator[int]:
    """A descriptor at the start of a file."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        yield file.fileno()


def written(blocks: Blocks) -> bytes:
    """The bytes of a dump."""
    with tempfile.TemporaryFile() as file:
        writer = Writer(file.fileno(), HEADER)
        for offset, data in blocks:
            writer.block(offset, memoryview(data))
        writer.end()
        file.seek(0)
        return file.read()


def read(content: bytes) -> Blocks:
    """The blocks of a dump that is read to its end."""
    with file_of(content) as fd:
        reader = Reader(fd, "it")
        assert reader.header == HEADER
        found: Blocks = []
        while (block := reader.next_block()) is not None:
            data = bytearray(block[1])
            reader.read_into(memoryview(data))
            found.append((block[0], bytes(data)))
        return found


@given(st.lists(st.tuples(st.integers(0, 1 << 63), st.binary(min_size=1)), max_size=5))
def test_what_was_written_is_read(blocks: Blocks) -> None:
    """Offsets and bytes, in order."""
    assert read(written(blocks)) == blocks


@pytest.mark.parametrize("length", range(len(MAGIC), len(written(BLOCKS)), 17))
def test_a_file_without_its_end_is_torn(length: int) -> None:
    """Wherever it was cut, with the exit code for it."""
    with pytest.raises(DamagedError, match="it is torn") as caught:
        read(written(BLOCKS)[:length])
    assert inspected(caught.value).code == EXIT_DAMAGED


@pytest.mark.parametrize("position", range(0, len(written(BLOCKS)), 7))
def test_a_changed_bit_is_found(position: int) -> None:
    """Wherever it is: in the header, a block's head, its bytes or the end."""
    content = bytearray(written(BLOCKS))
    content[position] ^= 0x10
    with pytest.raises(DamagedError):
        read(bytes(content))


def test_a_lost_a_doubled_and_a_moved_block_are_found() -> None:
    """Each block is right by itself then; only the sum over all is not."""
    plain = written([])
    start = len(plain) - 16
    whole = written(BLOCKS)
    parts: list[bytes] = []
    for _, data in BLOCKS:
        parts.append(whole[start : start + 16 + len(data)])
        start += 16 + len(data)
    head, end = plain[:-16], whole[-16:]
    assert head + b"".join(parts) + end == whole
    for wrong in ([0, 2], [0, 1, 1, 2], [1, 0, 2], []):
        with pytest.raises(DamagedError, match="the sum"):
            read(head + b"".join(parts[number] for number in wrong) + end)


def test_more_after_the_end_is_found() -> None:
    """Two dumps in one file, for instance."""
    with pytest.raises(DamagedError, match="after its end"):
        read(written(BLOCKS) * 2)


@pytest.mark.parametrize("content", [b"", b"MSHARE", b"#!/bin/sh\necho this is not one\n"])
def test_another_file_is_no_dump(content: bytes) -> None:
    """It is not called torn."""
    with pytest.raises(DamagedError, match="is not a dump"):
        read(content)
