"""mshare dump and load on a real mount."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from msharefs import Mapping, Region
from msharefs.client.attachment import Attachment
from msharefs.inspect.dumpfile import Writer
from tests.cli.tool import command, drawn, environment, mshare, mshare_as, on_terminal
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.helpers.poke import Poke
from tests.helpers.users import ALICE, open_the_way
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MIB = 1 << 20
MOUNT_OPTIONS = "size=512M,overcommit"
MAPPINGS = (
    Mapping(0, 8 * MIB, "rw-", reserve=True, huge=False),
    Mapping(8 * MIB, MIB + 4096, "r--", reserve=True, huge=False),
    Mapping(16 * MIB, 4 * MIB, "rw-", reserve=True, huge=True),
    Mapping(32 * MIB, 16 * MIB, "rwx", reserve=False, huge=False),
    Mapping(60 * MIB, 12288, "---", reserve=True, huge=False),
)


def make(path: Path, *, mode: int = 0o640) -> dict[int, bytes]:
    """A region with mappings of each kind; random bytes at places that are found again."""
    places = {}
    generator = random.Random(5)
    with Region.create(path, 64 * MIB, mode=mode) as region:
        os.chmod(path, mode)
        for mapping in MAPPINGS:
            region.map(
                mapping.offset,
                mapping.size,
                prot=mapping.prot,
                reserve=mapping.reserve,
                huge=mapping.huge,
            )
            starts = [0, mapping.size - 5000, generator.randrange(mapping.size - 5000)]
            with Attachment(region.fileno(), mapping.offset, mapping.size, writable=True) as window:
                for start in starts:
                    data = generator.randbytes(5000)
                    window.buf[start : start + 5000] = data
            with Attachment(
                region.fileno(), mapping.offset, mapping.size, writable=False
            ) as window:
                for start in starts:
                    places[mapping.offset + start] = bytes(window.buf[start : start + 5000])
    return places


def contents(path: Path) -> list[bytes]:
    """Every byte of every mapping."""
    found = []
    with Region.open(path, writable=False) as region:
        for mapping in region.layout().mappings:
            with Attachment(
                region.fileno(), mapping.offset, mapping.size, writable=False
            ) as window:
                found.append(bytes(window.buf))
    return found


def layout(path: Path) -> tuple[Mapping, ...]:
    """What is mapped."""
    with Region.open(path, writable=False) as region:
        return region.layout().mappings


def map_file(region: Path, offset: int, file: Path, prot: str) -> None:
    """Two pages of it."""
    with Region.open(region) as opened, file.open("r+b" if "w" in prot else "rb") as mapped:
        opened.map_file(offset, mapped, 8192, file_offset=4096, prot=prot)


@pytest.fixture
def target(region: Path) -> Path:
    """Where a test loads to; it goes with the region."""
    return region.with_name(f"{region.name}.loaded")


@pytest.mark.parametrize("plane", ["passthrough", "paged"])
def test_a_loaded_region_is_the_one_that_was_dumped(
    make_mount: MakeMount, tmp_path: Path, plane: str
) -> None:
    """Size, layout, mode, and every byte, in both data planes; the owner if that is asked for."""
    mount = make_mount(f"size=128M,overcommit,data={plane}")
    source, target, file = mount.path / "a", mount.path / "b", tmp_path / "dump"
    places = make(source)
    os.chown(source, ALICE, ALICE)
    mshare("dump", source, file).ok()
    mshare("load", file, target, "--same-owner").ok()
    assert layout(target) == MAPPINGS
    assert contents(target) == contents(source)
    assert len(places) == 3 * len(MAPPINGS)
    facts = target.stat()
    assert facts.st_size == 64 * MIB
    assert (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid) == (0o640, ALICE, ALICE)
    assert facts.st_nlink == 1
    for path in (source, target):
        path.unlink()


def test_mappings_of_files_come_back_as_memory(region: Path, target: Path, tmp_path: Path) -> None:
    """The dump names the files, load says which they were, and never looks for them: they are gone,
    and what was changed goes nowhere."""
    table, index, dump = tmp_path / "ta}ble", tmp_path / "index", tmp_path / "dump"
    for file in (table, index):
        file.write_bytes(random.Random(3).randbytes(4 * 4096))
    with Region.create(region, 64 * MIB) as made:
        made.map(0, MIB)
    map_file(region, 2 * MIB, table, "rw")
    map_file(region, 4 * MIB, index, "r")
    facts = {table: table.stat(), index: index.stat()}
    mshare("dump", region, dump).ok()
    bytes_there = contents(region)
    for file in (table, index):
        file.unlink()
    said = mshare("load", dump, target).ok()
    assert said.out == (
        "2 mappings were of files and are memory now, which goes back to none: "
        f"{table} at 2 MiB, {index} at 4 MiB\n"
    )
    assert contents(target) == bytes_there
    assert [mapping.file for mapping in layout(target)] == [None] * 3
    assert sorted(os.listdir(tmp_path)) == ["dump"]
    target.unlink()
    document = mshare("load", dump, target, "--json").json
    assert (document["path"], document["size"]) == (str(target), 64 * MIB)
    assert [(each["offset"], each["size"]) for each in document["files"]] == [
        (2 * MIB, 8192),
        (4 * MIB, 8192),
    ]
    for each, (path, stat), goes_back in zip(
        document["files"], facts.items(), ("on", None), strict=True
    ):
        wanted = {
            "path": str(path),
            "device": stat.st_dev,
            "inode": stat.st_ino,
            "offset": 4096,
            "uid": os.getuid(),
            "write_back": goes_back,
            "unwritten": 0,
            "error": None,
        }
        assert each["file"] == wanted


def test_a_region_of_many_files_takes_one_sentence(
    region: Path, target: Path, tmp_path: Path
) -> None:
    """Eight are named, and how many more there are; of a region without files nothing is said."""
    (tmp_path / "file").write_bytes(bytes(3 * 4096))
    with Region.create(region, 64 * MIB):
        pass
    for number in range(10):
        map_file(region, number * MIB, tmp_path / "file", "r")
    mshare("dump", region, tmp_path / "dump").ok()
    said = mshare("load", tmp_path / "dump", target).ok().out
    assert said.count(str(tmp_path / "file")) == 8
    assert said.startswith("10 mappings were")
    assert said.endswith(" at 7 MiB, 2 more, which --json has\n")
    mshare("dump", target, tmp_path / "dump").ok()
    target.unlink()
    assert mshare("load", tmp_path / "dump", target).ok().out == ""
    target.unlink()
    assert mshare("load", tmp_path / "dump", target, "--json").json["files"] == []


def test_a_dump_is_sparse_and_touches_nothing(region: Path, tmp_path: Path) -> None:
    """Zeros take no space in the file, and memory that nobody touched is not touched."""
    with Region.create(region, 1 << 40) as made:
        made.map(512 << 30, 128 * MIB, reserve=False)
        with made.attach(512 << 30, 128 * MIB) as attachment:
            attachment.buf[64 * MIB] = 1
    before = region.stat().st_blocks
    mshare("dump", region, tmp_path / "dump").ok()
    assert (tmp_path / "dump").stat().st_size < 100_000
    if Path("/proc/swaps").read_text().count("\n") <= 1:
        assert region.stat().st_blocks == before


def test_a_dump_may_go_through_pipes(region: Path, target: Path) -> None:
    """From standard output to standard input, and is the same as a file."""
    make(region)
    script = f'set -o pipefail; "$@" dump {region} - | "$@" load - {target}'
    subprocess.run(
        ["bash", "-c", script, "bash", *command()], env=environment(), timeout=30, check=True
    )
    assert contents(target) == contents(region)


def test_the_mode_can_be_another(region: Path, target: Path, tmp_path: Path) -> None:
    """--mode wins over what was saved."""
    make(region)
    mshare("dump", region, tmp_path / "dump").ok()
    mshare("load", tmp_path / "dump", target, "--mode", "604").ok()
    assert target.stat().st_mode & 0o7777 == 0o604


def test_a_dump_gives_no_rights_to_others(region: Path, target: Path, tmp_path: Path) -> None:
    """What root loads is root's, and without set-user-ID and the like, whatever was saved; the
    dump itself is for nobody else."""
    make(region)
    os.chown(region, ALICE, ALICE)
    os.chmod(region, 0o6751)
    mshare("dump", region, tmp_path / "dump").ok()
    assert (tmp_path / "dump").stat().st_mode & 0o7777 == 0o600
    mshare("load", tmp_path / "dump", target).ok()
    facts = target.stat()
    assert (facts.st_mode & 0o7777, facts.st_uid, facts.st_gid) == (0o751, 0, 0)


def test_only_root_gives_regions_away(
    mounted: Mount, region: Path, target: Path, tmp_path: Path
) -> None:
    """As with chown; nothing is left of the region then."""
    make(region, mode=0o644)
    mshare("dump", region, tmp_path / "dump").ok()
    (tmp_path / "dump").chmod(0o644)
    open_the_way(tmp_path)
    refused = mshare_as(ALICE, "load", tmp_path / "dump", target, "--same-owner").refused()
    assert "not permitted" in refused
    assert sorted(os.listdir(mounted.path)) == sorted(["mshare_info", region.name])


def test_another_user_dumps_what_he_may_read(
    mounted: Mount, region: Path, target: Path, tmp_path: Path
) -> None:
    """And loads it as his own."""
    make(region, mode=0o644)
    tmp_path.chmod(0o777)
    open_the_way(tmp_path)
    mshare_as(ALICE, "dump", region, tmp_path / "dump").ok()
    mshare_as(ALICE, "load", tmp_path / "dump", target).ok()
    assert target.stat().st_uid == ALICE
    assert contents(target) == contents(region)
    region.chmod(0o600)
    assert "Permission denied" in mshare_as(ALICE, "dump", region, tmp_path / "other").refused()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dump"]


@pytest.mark.parametrize("cut", [10, 500, 30_000, -1])
def test_a_torn_dump_is_refused_and_leaves_nothing(
    mounted: Mount, region: Path, target: Path, tmp_path: Path, cut: int
) -> None:
    """Exit code 3, and no name on the mount but the one that was there."""
    make(region)
    file = tmp_path / "dump"
    mshare("dump", region, file).ok()
    os.truncate(file, cut if cut > 0 else file.stat().st_size + cut)
    sentence = mshare("load", file, target).refused(3)
    assert ("is not a dump" if cut == 10 else "is torn") in sentence
    assert sorted(os.listdir(mounted.path)) == sorted(["mshare_info", region.name])


def test_a_damaged_dump_is_refused_and_leaves_nothing(
    mounted: Mount, region: Path, target: Path, tmp_path: Path
) -> None:
    """A single wrong bit in the bytes of the region is enough."""
    make(region)
    file = tmp_path / "dump"
    mshare("dump", region, file).ok()
    with file.open("r+b") as opened:
        opened.seek(40_000)
        byte = opened.read(1)[0]
        opened.seek(40_000)
        opened.write(bytes([byte ^ 1]))
    assert "is damaged: its block 1" in mshare("load", file, target).refused(3)
    assert sorted(os.listdir(mounted.path)) == sorted(["mshare_info", region.name])


def hostile_dumps() -> dict[str, bytes]:
    """Files that no dump writes, with sums that are right."""

    def made(blocks: list[tuple[int, bytes]] | None = None, **changed: object) -> bytes:
        one = {"offset": 0, "size": 4096, "prot": "rw-", "reserve": True, "huge": False}
        facts = {"saved": "", "name": "", "size": 2 * MIB, "mode": 0o600, "uid": 0, "gid": 0}
        text = json.dumps(facts | {"layout": [one]} | changed).encode()
        with tempfile.TemporaryFile() as file:
            writer = Writer(file.fileno(), text)
            for offset, data in blocks or []:
                writer.block(offset, memoryview(data))
            writer.end()
            file.seek(0)
            return file.read()

    def mapping(**changed: object) -> list[dict[str, object]]:
        one = {"offset": 0, "size": 4096, "prot": "rw-", "reserve": True, "huge": False}
        return [one | changed]

    return {
        "infinity": made(size=float("inf")),
        "owner": made(uid=1 << 40),
        "nobody": made(uid=-1),
        "layout": made(layout="abc"),
        "prot": made(layout=mapping(prot="\x1b[31m")),
        "huge": made(layout=mapping(offset=4096, huge=True)),
        "unaligned": made(size=4096),
        "too large": made(
            size=1 << 62, layout=mapping(size=1 << 62, reserve=False), blocks=[(0, b"x")]
        ),
        "too much": made(size=1 << 40, layout=mapping(size=1 << 40)),
        "outside": made([(8192, b"x" * 100)]),
        "around": made([((1 << 64) - 50, b"x" * 100)]),
        "backwards": made([(2048, b"x" * 100), (0, b"x")]),
        "two": made() * 2,
        "file": made(layout=mapping(file="/etc/shadow")),
        "file's name": made(layout=mapping(file={"path": "\x1b[31m"})),
        "noise": random.Random(1).randbytes(5000),
    }


def test_no_file_is_too_odd_for_a_sentence(mounted: Mount, tmp_path: Path) -> None:
    """Whoever made it; and nothing of it is on the mount afterwards."""
    target = mounted.path / "hostile"
    for name, content in hostile_dumps().items():
        (tmp_path / name).write_bytes(content)
        result = mshare("load", tmp_path / name, target)
        assert result.code in {1, 3}, (name, result)
        assert len(result.err.splitlines()) == 1, (name, result.err)
        assert "\x1b" not in result.err
        assert os.listdir(mounted.path) == ["mshare_info"], name


def test_load_without_memory_leaves_nothing(
    mounted: Mount, region: Path, make_mount: MakeMount, tmp_path: Path
) -> None:
    """The sentence is about the name that was asked for, not about a hidden one."""
    make(region)
    mshare("dump", region, tmp_path / "dump").ok()
    small = make_mount("size=8M")
    sentence = mshare("load", tmp_path / "dump", small.path / "r").refused()
    assert sentence.startswith(f"{small.path}/r: ")
    assert "Cannot allocate memory" in sentence
    assert os.listdir(small.path) == ["mshare_info"]


def test_load_without_memory_at_first_touch_leaves_nothing(
    region: Path, make_mount: MakeMount, tmp_path: Path
) -> None:
    """No signal ends it where MAP_NORESERVE has promised too much."""
    with Region.create(region, 64 * MIB) as made:
        made.map(0, 64 * MIB, reserve=False)
        with made.attach() as attachment:
            for start in range(0, 64 * MIB, 1 << 16):
                attachment.buf[start] = 1
    mshare("dump", region, tmp_path / "dump").ok()
    small = make_mount("size=16M,overcommit")
    small.expect_log("WARNING|ERROR")
    result = mshare("load", tmp_path / "dump", small.path / "r")
    assert "memory" in result.refused()
    assert os.listdir(small.path) == ["mshare_info"]


def test_load_never_replaces_a_region(region: Path, tmp_path: Path) -> None:
    """Not even its own source."""
    make(region)
    mshare("dump", region, tmp_path / "dump").ok()
    assert "File exists" in mshare("load", tmp_path / "dump", region).refused()
    assert layout(region) == MAPPINGS


def test_a_dump_of_what_cannot_be_dumped_leaves_no_file(region: Path, tmp_path: Path) -> None:
    """A region without a size, a file that is no region, a directory that is not there."""
    region.touch()
    assert "no size yet" in mshare("dump", region, tmp_path / "dump").refused()
    mshare("dump", "/etc/passwd", tmp_path / "dump").refused()
    assert list(tmp_path.iterdir()) == []
    assert "none/dump" in mshare("dump", region, tmp_path / "none" / "dump").refused()


def test_a_dump_that_fails_keeps_the_one_before(region: Path, tmp_path: Path) -> None:
    """The file is replaced only by a whole one."""
    make(region)
    file = tmp_path / "dump"
    mshare("dump", region, file).ok()
    before = file.read_bytes()
    region.unlink()
    region.touch()
    mshare("dump", region, file).refused()
    assert file.read_bytes() == before
    assert os.listdir(tmp_path) == ["dump"]


def test_a_full_disk_is_said_of_the_file(region: Path) -> None:
    """/dev/full is written to in place, being no regular file."""
    make(region)
    assert mshare("dump", region, "/dev/full").refused() == "/dev/full: No space left on device"


def test_a_layout_that_changes_meanwhile_fails_the_dump(
    region: Path, client: Poke, tmp_path: Path
) -> None:
    """Such a dump would be of no region that ever was; no signal ends the command either."""
    with Region.create(region, 256 * MIB) as made:
        made.map(0, 256 * MIB)
        fd = client.open(region)
        # A reader that has not come far: the pipe holds 64 KiB of the dump.
        with made.attach() as attachment:
            for start in range(0, 256 * MIB, 1 << 16):
                attachment.buf[start] = 1
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [*command(), "dump", str(region), "-"],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        os.close(writer)
        os.read(reader, 1)
        client.unmap(fd, 128 * MIB, 64 * MIB)
        while os.read(reader, 1 << 20):
            pass
        os.close(reader)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.decode() == f"mshare: the layout of {region} changed while it was saved\n"


def test_a_load_that_is_ended_leaves_nothing(
    mounted: Mount, region: Path, target: Path, tmp_path: Path
) -> None:
    """SIGTERM in the middle takes away what is half there."""
    make(region)
    file = tmp_path / "dump"
    mshare("dump", region, file).ok()
    region.unlink()
    process = subprocess.Popen(
        [*command(), "load", "-", str(target)], stdin=subprocess.PIPE, env=environment()
    )
    assert process.stdin is not None
    process.stdin.write(file.read_bytes()[:60_000])
    process.stdin.flush()
    eventually(lambda: mounted.status()["mappings"] == len(MAPPINGS))
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    process.stdin.close()
    assert os.listdir(mounted.path) == ["mshare_info"]


def test_a_terminal_gets_a_progress_bar_and_no_dump(
    region: Path, target: Path, tmp_path: Path
) -> None:
    """The bar goes away at the end; binary data is never written to a terminal."""
    make(region)
    text = drawn("dump", region, tmp_path / "dump")
    assert "saving" in text
    assert "loading" in drawn("load", tmp_path / "dump", target)
    with on_terminal("dump", region, "-") as terminal:
        code, said = terminal.end()
    assert code == 1
    assert "not for a terminal" in said
