"""The table of mounts, with paths as odd as anybody on the machine may make them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs.linux import mountinfo
from msharefs.linux.mountinfo import Mount
from tests.helpers.waiting import eventually

LINE = b"36 35 98:1 /part /mnt rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"
OURS = b"37 35 0:41 / /mnt/m rw,nosuid - fuse.msharefs none rw,user_id=0,allow_other"


def escaped(path: bytes) -> bytes:
    """As the kernel's seq_path() writes it: four bytes are escaped, and no other."""
    return b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes([byte]) for byte in path)


def test_a_line_is_taken_apart() -> None:
    """However many optional fields it has."""
    (first, second) = mountinfo.parse(LINE + b"\n" + OURS + b"\n")
    assert first == Mount(
        "/mnt",
        "/part",
        os.makedev(98, 1),
        "ext3",
        "/dev/root",
        ("rw", "errors=continue"),
        ("rw", "noatime"),
        36,
        35,
    )
    assert (second.path, second.kind, second.device) == ("/mnt/m", "fuse.msharefs", 41)


@pytest.mark.parametrize(
    "path",
    [
        *[
            f"/mnt/a{character}b".encode()
            for character in "\r\f\v\x1c\x1d\x1e\x85\xa0\u2028 \t\n\\"
        ],
        b"/mnt/\xff\x85\xa0",
        b"/mnt/a\r36 35 0:41 / /mnt/m rw - fuse.msharefs none rw",
        b"/mnt/a - b",
        b"/mnt/\\040",
    ],
)
def test_nothing_in_a_path_ends_a_line_or_a_field(path: bytes) -> None:
    """Only a blank and a line feed do, and those are escaped in a path."""
    odd = b"38 35 0:50 / " + escaped(path) + b" rw - tmpfs none rw"
    found = list(mountinfo.parse(b"\n".join([LINE, odd, OURS, b""])))
    assert [mount.path for mount in found] == ["/mnt", os.fsdecode(path), "/mnt/m"]
    assert found[1].kind == "tmpfs"


@given(st.binary(min_size=1).map(lambda name: b"/" + name.replace(b"\0", b"")))
def test_any_path_comes_back(path: bytes) -> None:
    """Byte for byte."""
    (mount,) = mountinfo.parse(b"1 0 0:4 / " + escaped(path) + b" rw - proc proc rw\n")
    assert os.fsencode(mount.path) == path


def test_a_source_may_be_empty_or_odd() -> None:
    """mount(2) takes any word, and none; "#" is escaped in it."""
    lines = b"1 0 0:4 / /a rw - tmpfs  rw\n1 0 0:5 / /b rw - tmpfs a\\043\\040b rw\n"
    assert [mount.source for mount in mountinfo.parse(lines)] == ["", "a# b"]


@pytest.mark.parametrize(
    "line", [b"", b"-", b"a b c", b"1 0 x:y / /a rw - tmpfs none rw", b" " * 9]
)
def test_what_is_no_line_is_passed_over(line: bytes) -> None:
    """A file system that breaks the form harms nobody else."""
    assert [mount.path for mount in mountinfo.parse(line + b"\n" + OURS)] == ["/mnt/m"]


def test_our_own_table_is_read() -> None:
    """The root directory is mounted, and /proc is where the table came from."""
    kinds = {mount.path: mount.kind for mount in mountinfo.own_mounts()}
    assert kinds["/proc"] == "proc"
    assert "/" in kinds


def test_an_open_table_is_read_anew() -> None:
    """Each time the whole of it. Others mount and unmount meanwhile, but not always."""
    table = mountinfo.OpenTable()
    try:
        eventually(lambda: table.read() == table.read() == mountinfo.own_mounts(), what="the same")
    finally:
        table.close()
