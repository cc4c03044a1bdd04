"""mshare ls on a real mount: its table, its JSON, its screen."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from msharefs import Region
from tests.cli.tool import alone_with, command, drawn, environment, mshare, mshare_as, on_terminal
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.mount import Mount
from tests.helpers.poke import Poke
from tests.helpers.raw import collapsed
from tests.helpers.users import ALICE
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MIB = 1 << 20
GIB = 1 << 30
ESCAPE = "\x1b["


def make(path: Path, size: int = 64 * MIB, *, mapped: int = 0, mode: int = 0o600) -> None:
    """A region of which the first bytes are mapped."""
    with Region.create(path, size, mode=mode) as region:
        if mapped:
            region.map(0, mapped)


def test_json_tells_what_there_is(mounted: Mount, region: Path, client: Poke) -> None:
    """Sizes in bytes, the owner, the mode, and who has it attached."""
    make(region, GIB, mapped=8 * MIB, mode=0o640)
    client.attach(region, MIB)
    eventually(lambda: collapsed(region) == 8 * MIB)
    (found,) = mshare("ls", mounted.path, "--json").json["regions"]
    assert found == {
        "path": str(region),
        "mount": str(mounted.path),
        "inode": region.stat().st_ino,
        "size": GIB,
        "mapped": 8 * MIB,
        "reserved": 8 * MIB,
        "memory": 8 * MIB,
        "huge": 8 * MIB,
        "mappings": 1,
        "open_handles": 0,
        "owner": "root",
        "group": "root",
        "uid": 0,
        "gid": 0,
        "mode": "0640",
        "links": 1,
        "pids": [client.pid],
    }


def test_the_table_has_a_line_a_region(mounted: Mount, region: Path, client: Poke) -> None:
    """Sizes with units; no colour and no trailing blanks into a pipe."""
    make(region, GIB, mapped=3 * MIB, mode=0o644)
    client.attach(region, MIB)
    eventually(lambda: collapsed(region) == 2 * MIB)
    result = mshare("ls", mounted.path).ok()
    head, line = result.out.splitlines()
    assert head.split() == [
        "REGION",
        "SIZE",
        "MAPPED",
        "MEMORY",
        "HUGE",
        "USED",
        "BY",
        "OWNER",
        "MODE",
    ]
    assert line.split() == f"{region.name} 1 GiB 3 MiB 3 MiB 67% 1 root rw-r--r--".split()
    assert ESCAPE not in result.out
    assert result.out == "".join(f"{text.rstrip()}\n" for text in result.out.splitlines())


def test_an_unsized_region_says_so(mounted: Mount, region: Path) -> None:
    """It has no size yet, which is not a size of 0."""
    region.touch()
    assert "not set" in mshare("ls", mounted.path).ok().out


def test_directories_are_searched_and_may_be_named(mounted: Mount, region: Path) -> None:
    """Names are relative to the directory asked about; mshare_info is no region."""
    folder = region.with_name(f"{region.name}.d")
    folder.mkdir()
    try:
        make(folder / "inner", 2 * MIB)
        whole = mshare("ls", mounted.path).ok().out.splitlines()[1:]
        part = mshare("ls", folder).ok().out.splitlines()[1:]
        assert [line.split()[0] for line in whole] == [f"{folder.name}/inner"]
        assert [line.split()[0] for line in part] == ["inner"]
    finally:
        (folder / "inner").unlink(missing_ok=True)
        folder.rmdir()


def test_without_a_directory_every_mount_is_listed(
    mounted: Mount, region: Path, make_mount: MakeMount
) -> None:
    """In the order in which they were mounted."""
    other = make_mount("size=16M")
    make(region, 2 * MIB)
    make(other.path / "r", 2 * MIB)
    before = alone_with(mounted.path, other.path)
    paths = [each["path"] for each in mshare("ls", "--json", before=before).json["regions"]]
    assert paths == [str(region), str(other.path / "r")]


def test_an_empty_mount_is_no_error(mounted: Mount, place: Path) -> None:
    """It says that there is nothing."""
    assert mshare("ls", mounted.path).ok().out == "no regions\n"
    assert mshare("ls", mounted.path, "--json").json["regions"] == []


def test_a_directory_elsewhere_is_refused(mounted: Mount, tmp_path: Path) -> None:
    """One sentence that names it."""
    assert str(tmp_path) in mshare("ls", tmp_path).refused()
    assert "nowhere" in mshare("ls", tmp_path / "nowhere").refused()


def test_removed_regions_that_are_attached_are_told(
    mounted: Mount, region: Path, client: Poke
) -> None:
    """Their memory is still used, and only the processes know of it."""
    make(region, 2 * MIB, mapped=2 * MIB)
    client.attach(region, 2 * MIB)
    inode = region.stat().st_ino
    region.unlink()
    assert mshare("ls", mounted.path, "--json").json["removed"] == [
        {"mount": str(mounted.path), "inode": inode, "pids": [client.pid]}
    ]
    assert f"process {client.pid}" in mshare("ls", mounted.path).ok().err
    client.kill()


def test_another_user_sees_what_his_rights_allow(
    mounted: Mount, region: Path, make_poke: MakePoke
) -> None:
    """The file's facts of every region, the layout of those he may read; what he could not see
    is said."""
    make(region, 4 * MIB, mapped=2 * MIB)
    make(region.with_name(f"{region.name}.open"), 4 * MIB, mapped=2 * MIB, mode=0o644)
    roots, own = make_poke(), make_poke(uid=ALICE)
    roots.attach(region, MIB)
    own.attach(region.with_name(f"{region.name}.open"), MIB, writable=False)
    result = mshare_as(ALICE, "ls", str(mounted.path))
    secret, readable = (line.split() for line in result.ok().out.splitlines()[1:])
    assert secret[1:6] == ["4", "MiB", "?", "2", "MiB"]
    assert readable[1:8] == ["4", "MiB", "2", "MiB", "2", "MiB", "100%"]
    assert [secret[-3], readable[-3]] == ["0", "1"]
    assert "could not be looked into" in result.err
    both = mshare_as(ALICE, "ls", "--json", str(mounted.path)).json
    assert [each["mapped"] for each in both["regions"]] == [None, 2 * MIB]
    assert both["unseen_processes"] >= 1


def test_a_directory_that_may_not_be_read_is_told(mounted: Mount, place: Path) -> None:
    """The rest is listed all the same."""
    place.mkdir(mode=0o700)
    try:
        result = mshare_as(ALICE, "ls", str(mounted.path)).ok()
        assert f"{place} could not be read" in result.err
    finally:
        place.rmdir()


@pytest.mark.parametrize(
    ("name", "shown"), [(b"\xff\x1b[31m", "\\xff\\x1b[31m"), (b"[red]x", "[red]x"), (b"a b", "a b")]
)
def test_odd_names_are_shown_and_do_nothing(
    mounted: Mount, region: Path, name: bytes, shown: str
) -> None:
    """Neither the terminal nor the drawing library takes them for orders."""
    odd = os.fsencode(region) + b"." + name
    os.close(os.open(odd, os.O_CREAT | os.O_RDWR, 0o600))
    try:
        assert f"{region.name}.{shown}" in mshare("ls", mounted.path).ok().out
        assert f"{region.name}.{shown}" in drawn("ls", mounted.path)
        (found,) = mshare("ls", mounted.path, "--json").json["regions"]
        assert os.fsencode(found["path"]) == odd
    finally:
        os.unlink(odd)


def test_the_table_fits_a_terminal(mounted: Mount, region: Path) -> None:
    """The name is cut, and never a number."""
    long = region.with_name(f"{region.name}.{'x' * 150}")
    make(long, 512 * GIB)
    text = drawn("ls", mounted.path, NO_COLOR="1")
    line = next(each for each in text.splitlines() if region.name in each)
    assert len(line.rstrip()) <= 80
    assert "\u2026" in line
    assert "512 GiB" in line
    assert line.rstrip().endswith("rw-------")
    assert long.name in mshare("ls", mounted.path).ok().out


def test_colour_is_for_terminals_and_never_with_no_color(mounted: Mount, region: Path) -> None:
    """Colours are SGR 30 to 37; bold and dim are not colours."""
    make(region, 2 * MIB)
    assert f"{ESCAPE}36m" in drawn("ls", mounted.path)
    plain = drawn("ls", mounted.path, NO_COLOR="1")
    assert not any(f"{ESCAPE}{number}m" in plain for number in range(30, 38))
    assert ESCAPE not in mshare("ls", mounted.path).ok().out
    assert ESCAPE not in drawn("ls", mounted.path, TERM="dumb")


def test_watch_shows_what_changes_until_q(mounted: Mount, region: Path) -> None:
    """On a screen of its own, which is left again."""
    with on_terminal("ls", mounted.path, "--watch", "0.1") as terminal:
        terminal.read_until("no regions")
        make(region, 2 * MIB)
        terminal.read_until(region.name)
        assert not terminal.echoes()
        terminal.press(b"q")
        code, text = terminal.end()
        assert terminal.echoes()
    assert code == 0
    assert text.index(f"{ESCAPE}?1049h") < text.index(region.name) < text.rindex(f"{ESCAPE}?1049l")


def test_watch_ends_well_with_ctrl_c(mounted: Mount, region: Path) -> None:
    """It is the usual end of such a screen, not an error."""
    with on_terminal("ls", mounted.path, "--watch") as terminal:
        terminal.read_until("no regions")
        terminal.press(b"\x03")
        code, text = terminal.end()
    assert code == 0
    assert "Traceback" not in text


def test_a_reader_that_leaves_ends_it_in_silence(mounted: Mount, region: Path) -> None:
    """As with any filter in a pipe."""
    make(region, 2 * MIB)
    script = (
        f'exec 2>&1; {{ "$@" ls {mounted.path} --watch=0.1 --json; echo "$?" >&3; }} | head -c 1'
    )
    reader, writer = os.pipe()
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&{writer}; {script}", "bash", *command()],
        pass_fds=[writer],
        capture_output=True,
        env=environment(),
        timeout=20,
        check=True,
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as codes:
        assert codes.read() == b"141\n"
    assert done.stdout == b"{"
    assert done.stderr == b""
