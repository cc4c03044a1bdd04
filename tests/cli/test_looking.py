"""mshare stat and ps on a real mount."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from msharefs import Region
from tests.cli.tool import drawn, mshare, mshare_as
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.mount import Mount
from tests.helpers.poke import Poke, smaps
from tests.helpers.raw import collapsed
from tests.helpers.users import ALICE, BOB
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=1G,overcommit"
MIB = 1 << 20


@pytest.fixture
def varied(region: Path) -> Path:
    """A region of 64 MiB with one mapping of each kind."""
    with Region.create(region, 64 * MIB, mode=0o644) as made:
        made.map(0, 16 * MIB)
        made.map(16 * MIB, 4096, prot="r")
        made.map(32 * MIB, 4 * MIB, huge=True)
        made.map(48 * MIB, 8 * MIB, reserve=False)
        made.unmap(4 * MIB, 2 * MIB)
    return region


def plain(text: str) -> str:
    """What was drawn, without colours."""
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def lines_of(text: str) -> list[list[str]]:
    """The words of the table of mappings."""
    table = text.partition("OFFSET")[2]
    return [line.split() for line in table.splitlines()[1:] if line.strip()]


def test_stat_lists_mappings_and_holes_in_order(varied: Path) -> None:
    """Offsets and sizes exactly, in units that mshare map reads."""
    assert lines_of(mshare("stat", varied).ok().out) == [
        ["0", "B", "4", "MiB", "rw-", "memory"],
        ["4", "MiB", "2", "MiB", "hole"],
        ["6", "MiB", "10", "MiB", "rw-", "memory"],
        ["16", "MiB", "4", "KiB", "r--", "memory"],
        ["16388", "KiB", "16380", "KiB", "hole"],
        ["32", "MiB", "4", "MiB", "rw-", "2", "MiB", "pages"],
        ["36", "MiB", "12", "MiB", "hole"],
        ["48", "MiB", "8", "MiB", "rw-", "memory", "at", "first", "touch"],
        ["56", "MiB", "8", "MiB", "hole"],
    ]


def test_stat_draws_the_address_range(varied: Path) -> None:
    """A line of 80 characters, or as wide as the terminal, with a scale above it."""
    text = mshare("stat", varied).ok().out
    (bar,) = (line for line in text.splitlines() if line.startswith("\u2588\u2588\u2588"))
    assert len(bar) == 80
    # 80 characters for 64 MiB: 5 for 4 MiB.
    assert bar[:5] == "\u2588" * 5
    assert bar[40:45] == "\u2593" * 5
    assert bar[60:70] == "\u2592" * 10
    assert bar[70:] == "\u00b7" * 10
    narrow = plain(drawn("stat", varied, columns=64)).splitlines()
    (bar,) = (line for line in narrow if line.startswith("\u2588\u2588\u2588"))
    assert len(bar) == max(map(len, narrow)) == 64


def test_stat_draws_with_ascii_where_there_is_nothing_better(varied: Path) -> None:
    """And loses no information for it."""
    text = mshare("stat", varied, PYTHONIOENCODING="ascii").ok().out
    assert text.isascii()
    assert "#####" in text
    assert "HHHHH" in text
    assert "~~~~~" in text


def test_stat_tells_memory_page_tables_and_use(varied: Path, client: Poke) -> None:
    """The arithmetic: 2 MiB units that something is mapped in, and those that are whole."""
    client.attach(varied, MIB)
    eventually(lambda: collapsed(varied) == 18 * MIB)
    document = mshare("stat", varied, "--json").json
    # 2 + 5 + 1 + 2 + 4 units with 4 KiB of tables each. The single page's is not whole, and what
    # comes at the first touch is not there.
    assert document["page_tables"] == {"small_pages": 14 * 4096, "here": 5 * 4096}
    assert document["pids"] == [client.pid]
    assert (document["maps"], document["unmaps"]) == (4, 1)
    assert document["creator"]["uid"] == 0
    assert len(document["layout"]) == document["mappings"] == 5
    assert document["layout"][2] == {
        "offset": 16 * MIB,
        "size": 4096,
        "prot": "r--",
        "reserve": True,
        "huge": False,
        "file": None,
    }
    text = mshare("stat", varied).ok().out
    assert re.search(r"Page tables +20 KiB a process .*, 56 KiB with 4 KiB pages", text)
    assert re.search(r"In use +attached by 1 process, open 0 times", text)


def test_stat_of_an_unsized_region(region: Path) -> None:
    """There is nothing to draw."""
    region.touch()
    assert "not set yet" in mshare("stat", region).ok().out


def test_stat_cuts_a_long_table_on_a_terminal_only(region: Path) -> None:
    """--all shows the rest; a pipe gets all of it."""
    with Region.create(region, 2 * MIB) as made:
        for page in range(0, 200, 2):
            made.map(page * 4096, 4096)
    assert len(lines_of(mshare("stat", region).ok().out)) == 200
    assert "136 lines more; --all shows them" in drawn("stat", region)
    assert "--all" not in drawn("stat", region, "--all")


@pytest.mark.parametrize("command", ["stat", "ps"])
def test_what_is_no_region_is_refused(mounted: Mount, command: str) -> None:
    """A sentence that names it."""
    for path in (mounted.path, mounted.path / "mshare_info"):
        assert mshare(command, path).refused() == f"{path} is not a region"
    assert "not on a mounted msharefs" in mshare(command, "/etc/passwd").refused()
    assert "No such file" in mshare(command, mounted.path / "none").refused()


def test_a_region_that_may_not_be_read_is_refused(region: Path) -> None:
    """Its layout is its readers'."""
    Region.create(region, 2 * MIB).close()
    assert mshare_as(ALICE, "stat", region).refused() == f"{region} may not be read by you"


def test_ps_shows_windows_and_what_is_touched(region: Path, client: Poke) -> None:
    """The numbers are those of /proc/PID/smaps."""
    with Region.create(region, 64 * MIB) as made:
        made.map(0, 64 * MIB)
    fd = client.open(region)
    whole = client.mmap(fd, 64 * MIB)
    part = client.mmap(fd, 4 * MIB, offset=32 * MIB, prot=1)
    client.put(whole, b"x")
    client.put(whole + 32 * MIB, b"x")
    client.get(part)
    (process,) = mshare("ps", region, "--json").json["processes"]
    assert (process["pid"], process["user"], process["uid"]) == (client.pid, "root", 0)
    by_address = {window["address"]: window for window in process["windows"]}
    assert by_address.keys() == {whole, part}
    assert by_address[whole] == {
        "address": whole,
        "offset": 0,
        "size": 64 * MIB,
        "prot": "rw-",
        "touched": 4 * MIB,
        "huge": 4 * MIB,
        "page_tables_saved": 2 * 4096,
    }
    assert (by_address[part]["offset"], by_address[part]["prot"]) == (32 * MIB, "r--")
    for address, window in by_address.items():
        assert window["touched"] == smaps(client.pid, address, window["size"])["Rss"] * 1024


def test_ps_shows_windows_without_rights(region: Path, client: Poke) -> None:
    """As they are where protections are enforced: they are windows like all others."""
    with Region.create(region, 2 * MIB) as made:
        made.map(0, 2 * MIB)
    address = client.mmap(client.open(region), 2 * MIB, prot=0)
    (process,) = mshare("ps", region, "--json").json["processes"]
    (window,) = process["windows"]
    assert (window["address"], window["size"], window["prot"]) == (address, 2 * MIB, "---")


def test_ps_knows_a_region_by_its_inode(region: Path, client: Poke) -> None:
    """Renamed after it was attached, and with another region under the old name."""
    with Region.create(region, 2 * MIB) as made:
        made.map(0, 2 * MIB)
    client.attach(region, 2 * MIB)
    renamed = region.with_name(f"{region.name}.renamed")
    region.rename(renamed)
    with Region.create(region, 4 * MIB) as made:
        made.map(0, 4 * MIB)
    client.attach(region, 4 * MIB)
    sizes = [
        [window["size"] for process in found for window in process["windows"]]
        for found in (mshare("ps", path, "--json").json["processes"] for path in (renamed, region))
    ]
    assert sizes == [[2 * MIB], [4 * MIB]]


def test_ps_shows_whole_commands_and_whole_sizes(mounted: Mount, region: Path) -> None:
    """Whatever the width: columns that have no room are left out, and a command takes more lines."""
    with Region.create(region, 64 * MIB) as made:
        made.map(0, 64 * MIB)
    words = ["-D", "/srv/postgres/15/main", "--config-file=/etc/postgres/15/main/server.conf"]
    script = "import mmap, os, sys; m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 64 << 20); m[0] = 1; print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, region, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for columns in (30, 40, 80, 160):
            text = mshare("ps", region, COLUMNS=f"{columns}").ok().out
            lines = text.splitlines()
            assert max(map(len, lines)) <= columns
            start = lines[0].index("COMMAND")
            command = "".join(line[start:] for line in lines[1:] if line[start - 1 : start] == " ")
            assert "".join(words) in command.replace(" ", "")
            assert re.search(rf"^ *{process.pid} .*64 MiB", text, re.MULTILINE)
            assert ("ADDRESS" in lines[0]) == (columns > 80)
            assert "\u2026" not in text
        process.communicate("\n")


def test_ls_shows_names_and_whole_sizes_in_a_narrow_terminal(region: Path) -> None:
    """Owner and mode go first."""
    with Region.create(region, 64 * MIB) as made:
        made.map(0, 64 * MIB)
    lines = mshare("ls", region.parent, COLUMNS="40").ok().out.splitlines()
    assert lines[0].split()[:3] == ["REGION", "SIZE", "MAPPED"]
    (line,) = (line for line in lines if line.startswith(region.name))
    assert line.count("64 MiB") >= 2
    assert max(map(len, lines)) <= 40


def test_ps_fits_a_terminal(region: Path, client: Poke) -> None:
    """And the sum is below the table."""
    with Region.create(region, 2 * MIB) as made:
        made.map(0, 2 * MIB)
    address = client.attach(region, 2 * MIB)
    client.put(address, b"x")
    text = plain(drawn("ps", region))
    assert max(len(line) for line in text.splitlines()) <= 80
    (line,) = (line for line in text.splitlines() if str(client.pid) in line)
    assert f"{address:x}" in line
    assert line.split()[-5:] == ["2", "MiB", "4", "KiB", "poke"]
    assert "1 process, 1 window, 2 MiB touched, 4 KiB of page tables saved" in text


def test_ps_says_what_it_could_not_see(region: Path, make_poke: MakePoke) -> None:
    """A user sees his own processes; those of others are counted."""
    with Region.create(region, 2 * MIB, mode=0o644) as made:
        made.map(0, 2 * MIB)
    alices, bobs = make_poke(uid=ALICE), make_poke(uid=BOB)
    for poke in (alices, bobs):
        poke.attach(region, 2 * MIB, writable=False)
    result = mshare_as(ALICE, "ps", region).ok()
    assert str(alices.pid) in result.out
    assert str(bobs.pid) not in result.out
    assert re.search("[0-9]+ processes could not be looked into.*root sees more", result.err)
    everything = mshare("ps", region, "--json").json
    assert [each["uid"] for each in everything["processes"]] == [ALICE, BOB]


def test_ps_without_any_process(region: Path) -> None:
    """It is no error."""
    Region.create(region, 2 * MIB).close()
    assert "no process" in mshare("ps", region).ok().out


def test_the_paged_plane_has_no_huge_pages(make_mount: MakeMount, client: Poke) -> None:
    """There every process has small pages, and the figures say so."""
    mount = make_mount("size=64M,data=paged")
    path = mount.path / "r"
    with Region.create(path, 4 * MIB) as made:
        made.map(0, 4 * MIB)
    client.get(client.attach(path, 4 * MIB))
    document = mshare("stat", path, "--json").json
    assert document["huge"] == 0
    assert document["page_tables"] == {"small_pages": 8192, "here": 8192}
    (process,) = mshare("ps", path, "--json").json["processes"]
    assert process["windows"][0]["touched"] >= 4096
    assert process["windows"][0]["page_tables_saved"] == 0
    client.kill()
    path.unlink()
