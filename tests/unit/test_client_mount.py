"""Which directory is the default, told from the environment or from a table of mounts."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

import msharefs
from msharefs.linux import host, mountinfo


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of mounts that stands in for that of the kernel; no variable is set."""
    path = tmp_path / "mounts"
    monkeypatch.setattr(mountinfo, "OWN", str(path))
    monkeypatch.delenv("MSHAREFS_DIR", raising=False)
    return path


def line(path: Path | str, user: int, *, kind: str = "fuse.msharefs", device: str = "") -> str:
    """A line of the table for a mount of this user at `path`, which is shown there unless another
    device number says that something else is."""
    number = Path(path).stat().st_dev if Path(path).exists() else 5
    device = device or f"{os.major(number)}:{os.minor(number)}"
    escaped = str(path).replace(" ", "\\040")
    return f"21 1 {device} / {escaped} rw - {kind} msharefs rw,user_id={user},group_id={user}\n"


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """Directories that stand in for mounts."""
    made = [tmp_path / name for name in ("a blank", "b", "c")]
    for place in made:
        place.mkdir()
    return made


ME = os.geteuid()
STRANGER = 4711


def test_first_mount_that_may_be_entered(table: Path, places: list[Path]) -> None:
    """Other file systems, and what is gone or covered by another mount, are passed over."""
    first, second, third = places
    table.write_text(
        line(second, ME, kind="fuse.other")
        + line(second / "gone", ME)
        + line(second, ME, device="0:1")
        + line(first, ME)
        + line(third, ME)
    )
    assert msharefs.default_directory() == str(first)


def test_own_mount_goes_before_roots(
    table: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order they were mounted; and root's serves who has none."""
    table.write_text(
        "".join(line(place, user) for place, user in zip(places, (0, 7, 0), strict=True))
    )
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    assert msharefs.default_directory() == str(places[1])
    for other in (8, 0):
        monkeypatch.setattr(os, "geteuid", lambda: other)  # noqa: B023 - called at once
        assert msharefs.default_directory() == str(places[0])


def test_mount_of_another_user_is_never_taken(
    table: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor looked at, as its server could make us wait; for root neither."""
    table.write_text(line(places[0], STRANGER))
    looked: list[object] = []
    monkeypatch.setattr(os, "access", lambda path, *_, **__: looked.append(path))
    with pytest.raises(msharefs.NotMounted, match="of this user or of root"):
        msharefs.default_directory()
    assert looked == []


def test_users_without_a_number_are_not_one_user(
    table: Path, places: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a user namespace all of them are called 65534, a stranger and ourselves."""
    table.write_text(line(places[0], 65534) + line(places[1], 0))
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    first = True
    monkeypatch.setattr(host, "is_first_user_namespace", lambda: first)
    assert msharefs.default_directory() == str(places[0])
    first = False
    assert msharefs.default_directory() == str(places[1])


def test_variable_goes_before_the_mounts(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set, it is taken as it is; empty, it is as good as none."""
    table.write_text("")
    monkeypatch.setenv("MSHAREFS_DIR", "/some/where")
    assert msharefs.default_directory() == "/some/where"
    monkeypatch.setenv("MSHAREFS_DIR", "")
    with pytest.raises(msharefs.NotMounted, match="MSHAREFS_DIR") as caught:
        msharefs.default_directory()
    assert caught.value.errno == errno.ENODEV
