"""Journals that are torn, truncated, foreign, of an earlier or of a later version."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from msharefs.core.room import PAGE
from msharefs.core.schema import SCHEMA_VERSION
from tests.helpers import mount
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import opened
from tests.helpers.waiting import eventually
from tests.survival.gap import DEATHS, has_ended, held
from tests.survival.kept import OPTIONS, Kept, in_one_file, set_schema
from tests.survival.scenes import Scene
from tests.survival.test_mounted_again import furnish

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("requires_fuse")]
DATA = Path(__file__).with_name("data")


@pytest.fixture
def left() -> Iterator[tuple[Kept, dict[str, object]]]:
    """What a killed supervisor left, and what its mount showed below "scene"."""
    kept = Kept()
    scene = Scene(kept.path / "scene")
    furnish(scene)
    shown = scene.snapshot()
    kept.kill_supervisor()
    in_one_file(kept.journal)
    yield kept, shown
    kept.discard()


def tear(journal: Path) -> None:
    """Bytes in the first of the tables are not what was written; much behind them is free."""
    with journal.open("r+b") as file:
        file.seek(2 * PAGE)
        file.write(b"\xff" * 6000)


def truncate(journal: Path) -> None:
    """The end is missing."""
    os.truncate(journal, journal.stat().st_size // 2)


def put_text(journal: Path) -> None:
    """It is no database at all."""
    journal.write_text("Dear diary, " * 1000)


def put_other_database(journal: Path) -> None:
    """It is somebody else's database."""
    journal.unlink()
    db = sqlite3.connect(journal)
    db.execute("CREATE TABLE inode (path TEXT)")
    db.close()


@pytest.mark.parametrize("damage", [tear, truncate, put_text, put_other_database])
def test_a_journal_that_cannot_be_read_is_set_aside(
    left: tuple[Kept, dict[str, object]], damage: Callable[[Path], None]
) -> None:
    """The log says so, the file is kept under another name, and the mount is empty: nothing
    is guessed, and no memory is lost."""
    kept, _ = left
    damage(kept.journal)
    bad = kept.journal.read_bytes()
    kept.mount_again()
    assert os.listdir(kept.path) == ["mshare_info"]
    assert mount.read_status(kept.path)["arena"]["used"] == 0
    (aside,) = kept.state.glob("journal.sqlite.bad-*[0-9]")
    assert aside.read_bytes() == bad
    assert re.search(rf"ERROR .*set aside as {re.escape(str(aside))}", kept.log())
    kept.unmount_and_check()


def test_last_changes_that_cannot_be_read_are_set_aside(
    left: tuple[Kept, dict[str, object]],
) -> None:
    """The log says so, and the mount goes on with what was before them."""
    kept, _ = left
    tail = kept.journal.with_name("journal.sqlite-tail")
    bad = b"\xff" * len(tail.read_bytes())
    tail.write_bytes(bad)
    kept.mount_again()
    (aside,) = kept.state.glob("journal.sqlite.bad-*-tail")
    assert aside.read_bytes() == bad
    assert re.search(rf"ERROR .*last changes.* set aside as {re.escape(str(aside))}", kept.log())
    (kept.path / "new").mkdir()
    kept.unmount_and_check()


def test_a_later_journal_is_refused_and_kept(left: tuple[Kept, dict[str, object]]) -> None:
    """The mount fails with a sentence that says what to do; the version that wrote the
    journal finds everything."""
    kept, shown = left
    set_schema(kept.journal, SCHEMA_VERSION + 1)
    done = kept.start("-o", OPTIONS)
    assert done.returncode == 2
    sentence = mount.only_sentence(done)
    assert "later version" in sentence
    assert "-o fresh" in sentence
    assert not mount.mount_lines(kept.path)
    set_schema(kept.journal, SCHEMA_VERSION)
    kept.mount_again()
    with Scene(kept.path / "other"):
        """The mount takes new names."""
    assert Scene.at(kept.path / "scene").snapshot() == shown
    kept.unmount_and_check()


def test_fresh_discards_a_later_journal(left: tuple[Kept, dict[str, object]]) -> None:
    """-o fresh begins anew, whoever wrote what is there."""
    kept, _ = left
    set_schema(kept.journal, SCHEMA_VERSION + 1)
    kept.mount_again(f"{OPTIONS},fresh")
    assert os.listdir(kept.path) == ["mshare_info"]
    kept.unmount_and_check()


def test_a_journal_of_schema_1_is_read(left: tuple[Kept, dict[str, object]]) -> None:
    """A stored journal, written by version 0.1.0, shows what was in that mount."""
    kept, _ = left
    wanted = json.loads((DATA / "schema-1.json").read_text())
    shutil.copy(DATA / "schema-1.sqlite", kept.journal)
    # What hides the arena goes; the next mount hides it again.
    assert mount.unmount(kept.state / "shm").returncode == 0
    for segment in (kept.state / "shm").iterdir():
        if segment.name.isdecimal():
            segment.unlink()
    for ino, size in wanted["segments"].items():
        with opened(kept.state / "shm" / ino, os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, size)
    kept.mount_again()
    seen = json.loads(json.dumps(Scene.at(kept.path / "scene").snapshot(contents=False)))
    assert seen == wanted["snapshot"]
    kept.unmount_and_check()


def test_a_server_that_cannot_start_leaves_the_mount_waiting(make_mount: MakeMount) -> None:
    """A journal that a later version has changed under a running mount: the log says why, the
    tries come less and less often, and SIGTERM unmounts still."""
    mounted = make_mount("size=16M")
    mounted.expect_log(DEATHS)
    mounted.expect_log("the server cannot start, the mount waits: .* later version")
    assert mounted.state is not None
    server = mounted.server_pid
    with held(mounted.pid):
        os.kill(server, signal.SIGKILL)
        eventually(lambda: has_ended(server), what="the server is dead")
        set_schema(mounted.state / "journal.sqlite", SCHEMA_VERSION + 1)
    eventually(lambda: mounted.log().count("cannot start") >= 3, timeout=20, what="three tries")
    assert mounted.process.poll() is None
    os.kill(mounted.pid, signal.SIGTERM)
    mounted.wait_for_end()


def test_a_mount_that_waits_goes_on_when_the_cause_is_gone(make_mount: MakeMount) -> None:
    """Once the server can start again, those who wait get their answers."""
    mounted = make_mount("size=16M")
    mounted.expect_log(DEATHS)
    mounted.expect_log("the server cannot start, the mount waits: .* later version")
    (mounted.path / "folder").mkdir()
    assert mounted.state is not None
    journal = mounted.state / "journal.sqlite"
    server = mounted.server_pid
    with held(mounted.pid):
        os.kill(server, signal.SIGKILL)
        eventually(lambda: has_ended(server), what="the server is dead")
        set_schema(journal, SCHEMA_VERSION + 1)
    eventually(lambda: "cannot start" in mounted.log(), timeout=20, what="a try")
    set_schema(journal, SCHEMA_VERSION)
    assert sorted(os.listdir(mounted.path)) == ["folder", "mshare_info"]
    assert mounted.status()["restarts"] >= 2
