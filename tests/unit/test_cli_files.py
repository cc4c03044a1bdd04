"""Where commands write what may be secret: never where somebody else would have it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from msharefs.cli import files
from msharefs.cli.errors import CommandError

STRANGER = 12345
MakeForeign = Callable[[Path], None]


@pytest.fixture
def make_foreign(monkeypatch: pytest.MonkeyPatch) -> MakeForeign:
    """Gives a file, or a link itself, to somebody else; without root we become somebody else."""
    if os.geteuid() == 0:
        return lambda path: os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return lambda path: monkeypatch.setattr(os, "geteuid", lambda: STRANGER)


def write(file: Path | str, data: bytes = b"secret") -> None:
    """As a dump does."""
    with files.output(str(file)) as fd:
        os.write(fd, data)


def read(file: Path | str) -> bytes:
    """As a load does."""
    with files.source(str(file)) as (fd, _):
        return os.read(fd, 100)


def test_a_new_file_is_for_us_alone(tmp_path: Path) -> None:
    """Whatever the umask is; no other name is left."""
    before = os.umask(0)
    try:
        write(tmp_path / "dump")
    finally:
        os.umask(before)
    assert (tmp_path / "dump").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "dump").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["dump"]


def test_a_file_is_replaced_and_not_written_to(tmp_path: Path) -> None:
    """Who has it open, or linked, sees nothing of what is new."""
    (tmp_path / "dump").write_bytes(b"old")
    (tmp_path / "dump").chmod(0o666)
    os.link(tmp_path / "dump", tmp_path / "other")
    write(tmp_path / "dump")
    assert (tmp_path / "other").read_bytes() == b"old"
    assert (tmp_path / "dump").read_bytes() == b"secret"
    assert stat.S_IMODE((tmp_path / "dump").stat().st_mode) == 0o600


@pytest.mark.parametrize("tmpfile", [True, False])
def test_what_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmpfile: bool
) -> None:
    """Also where a file system has no files without a name."""
    if not tmpfile:
        real = os.open

        def refuse(path: str, flags: int, *more: object, **named: object) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(95, "not supported")
            return real(path, flags, *more, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", refuse)
    (tmp_path / "dump").write_bytes(b"old")
    with pytest.raises(TypeError):
        write(tmp_path / "dump", None)  # type: ignore[arg-type]
    assert (tmp_path / "dump").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["dump"]
    write(tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == b"secret"
    assert os.listdir(tmp_path) == ["dump"]


def test_a_link_of_somebody_else_is_not_followed(tmp_path: Path, make_foreign: MakeForeign) -> None:
    """Neither to be written to nor to be read."""
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "dump").symlink_to(tmp_path / "target")
    make_foreign(tmp_path / "dump")
    if os.geteuid() == 0:
        with pytest.raises(CommandError, match="somebody else"):
            write(tmp_path / "dump")
        with pytest.raises(CommandError, match="somebody else"):
            read(tmp_path / "dump")
    assert (tmp_path / "target").read_bytes() == b"old"


def test_a_link_of_ours_is_replaced_by_the_file(tmp_path: Path) -> None:
    """What it leads to is not touched; to read, it is followed."""
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "dump").symlink_to("target")
    assert read(tmp_path / "dump") == b"old"
    write(tmp_path / "dump")
    assert (tmp_path / "target").read_bytes() == b"old"
    assert not (tmp_path / "dump").is_symlink()
    (tmp_path / "lost").symlink_to("nowhere")
    with pytest.raises(CommandError, match="leads nowhere"):
        write(tmp_path / "lost")


def test_descriptors_have_names_that_are_links(tmp_path: Path) -> None:
    """/dev/fd/N is what shells give for >(command)."""
    reader, writer = os.pipe()
    write(f"/dev/fd/{writer}")
    assert os.read(reader, 100) == b"secret"
    os.write(writer, b"back")
    assert read(f"/dev/fd/{reader}") == b"back"
    os.close(reader)
    os.close(writer)


def test_a_fifo_is_written_to_if_nobody_else_can_read_it(tmp_path: Path) -> None:
    """Else somebody might take what was for the other end."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    fifo.chmod(0o644)
    with pytest.raises(CommandError, match="read by others"):
        write(fifo)
    fifo.chmod(0o600)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    write(fifo)
    reader.join()
    assert found == [b"secret"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a FIFO away")
def test_a_fifo_of_somebody_else_is_refused(tmp_path: Path, make_foreign: MakeForeign) -> None:
    """Before anything is written or waited for."""
    os.mkfifo(tmp_path / "fifo", 0o600)
    make_foreign(tmp_path / "fifo")
    with pytest.raises(CommandError, match="somebody else"):
        write(tmp_path / "fifo")
    with pytest.raises(CommandError, match="somebody else"):
        read(tmp_path / "fifo")


def test_devices_of_the_system_can_be_written_to(tmp_path: Path) -> None:
    """They are root's; what they refuse is said of them. Directories are refused."""
    write("/dev/null")
    with pytest.raises(OSError, match="No space left") as caught:
        write("/dev/full")
    assert caught.value.filename == "/dev/full"
    with pytest.raises(IsADirectoryError):
        write(tmp_path)
    with pytest.raises(FileNotFoundError) as missing:
        write(tmp_path / "none" / "dump")
    assert missing.value.filename == str(tmp_path / "none" / "dump")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
