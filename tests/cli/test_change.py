"""mshare create, map, unmap, sync and rm on a real mount."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

import pytest

from msharefs import Mapping, Region
from tests.cli.tool import drawn, mshare, mshare_as
from tests.helpers.mount import Mount
from tests.helpers.poke import Poke, faults
from tests.helpers.raw import hand_over
from tests.helpers.users import ALICE

pytestmark = pytest.mark.mount

MIB = 1 << 20
MOUNT_OPTIONS = "size=256M,overcommit"


def mappings(path: Path) -> list[Mapping]:
    """What is mapped in a region."""
    with Region.open(path) as region:
        return list(region.layout().mappings)


def test_create_makes_a_region_and_says_nothing(region: Path) -> None:
    """The size, mode 0600, nothing mapped."""
    result = mshare("create", region, "1G").ok()
    assert (result.out, result.err) == ("", "")
    facts = region.stat()
    assert (facts.st_size, facts.st_mode & 0o7777) == (1 << 30, 0o600)
    assert mappings(region) == []


def test_create_maps_and_sets_the_mode(region: Path) -> None:
    """With --map and --mode; the umask counts, as for any file."""
    os.umask(before := os.umask(0o022))
    mshare("create", region, "4MiB", "--map", "--mode", "666").ok()
    assert region.stat().st_mode & 0o7777 == 0o666 & ~before
    assert mappings(region) == [Mapping(0, 4 * MIB, "rw-", reserve=True, huge=False)]


def test_create_with_huge_maps_huge_pages(region: Path) -> None:
    """--huge says --map as well."""
    mshare("create", region, "4M", "--huge").ok()
    assert mappings(region) == [Mapping(0, 4 * MIB, "rw-", reserve=True, huge=True)]


def test_create_refuses_a_size_and_says_the_next(region: Path) -> None:
    """Sizes in sentences have units, and nothing is left."""
    assert "multiple of 2 MiB (next is 4 MiB)" in mshare("create", region, "3M").refused()
    assert not region.exists()


def test_create_that_cannot_map_leaves_nothing(region: Path) -> None:
    """The sentence says where to look."""
    sentence = mshare("create", region, "1G", "--map").refused()
    assert "Cannot allocate memory" in sentence
    assert "mshare status" in sentence
    assert not region.exists()


def test_create_refuses_a_name_that_is_taken(region: Path) -> None:
    """And leaves the region alone."""
    mshare("create", region, "2M").ok()
    assert "File exists" in mshare("create", region, "4M").refused()
    assert region.stat().st_size == 2 * MIB


def test_create_elsewhere_says_that_nothing_is_mounted(tmp_path: Path) -> None:
    """No plain file is left behind."""
    assert "no msharefs is mounted" in mshare("create", tmp_path / "r", "2M").refused()
    assert list(tmp_path.iterdir()) == []


def test_map_and_unmap_change_the_layout(region: Path, client: Poke) -> None:
    """Every option ends up in it, and attached processes see it at once."""
    mshare("create", region, "16M").ok()
    address = client.attach(region, 16 * MIB)
    mshare("map", region, "0", "64K", "--prot", "r").ok()
    mshare("map", region, "2M", "2M", "--huge").ok()
    mshare("map", region, "8M", "1M", "--no-reserve", "--prot", "rwx").ok()
    mshare("map", region, "12M", "4K", "--prot", "none").ok()
    assert mappings(region) == [
        Mapping(0, 64 << 10, "r--", reserve=True, huge=False),
        Mapping(2 * MIB, 2 * MIB, "rw-", reserve=True, huge=True),
        Mapping(8 * MIB, MIB, "rwx", reserve=False, huge=False),
        Mapping(12 * MIB, 4096, "---", reserve=True, huge=False),
    ]
    assert client.get(address + 2 * MIB) == b"\0"
    mshare("unmap", region, "2M", "10.5M").ok()
    assert [mapping.offset for mapping in mappings(region)] == [0, 12 * MIB + (512 << 10)][:1]
    with faults():
        client.get(address + 2 * MIB)


def test_map_with_no_replace_leaves_what_is_there(region: Path) -> None:
    """Without it the memory starts anew."""
    mshare("create", region, "4M", "--map").ok()
    assert "something is mapped" in mshare("map", region, "0", "4K", "--no-replace").refused()
    assert [mapping.size for mapping in mappings(region)] == [4 * MIB]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["0", "8M"], "the region ends at 4 MiB"),
        (["1", "4K"], "no multiple of 4 KiB"),
        (["0", "0"], "the size is 0"),
        (["4K", "2M", "--huge"], "no multiple of 2 MiB"),
    ],
)
def test_a_wrong_range_is_explained(region: Path, arguments: list[str], reason: str) -> None:
    """In one sentence, with units."""
    mshare("create", region, "4M").ok()
    assert reason in mshare("map", region, *arguments).refused()
    assert mappings(region) == []


def test_a_region_without_a_size_is_explained(region: Path) -> None:
    """Nothing can be mapped in it yet."""
    region.touch()
    assert "no size yet" in mshare("map", region, "0", "4K").refused()
    assert "no size yet" in mshare("unmap", region, "0", "4K").refused()


def test_mapping_a_file(region: Path, tmp_path: Path) -> None:
    """Its bytes are there, for reading; stat says which file it was, and where it begins."""
    mshare("create", region, "2M").ok()
    file = tmp_path / "file"
    file.write_bytes(bytes(4096) + b"from the file".ljust(4096))
    file.chmod(0o600)
    result = mshare("map", region, "0", "4K", "--file", file, "--file-offset", "4K").ok()
    assert (result.out, result.err) == ("", "")
    with Region.open(region) as opened, opened.attach(0, 4096) as attachment:
        assert bytes(attachment.buf[:13]) == b"from the file"
        (mapping,) = opened.layout().mappings
    assert (mapping.prot, mapping.file and mapping.file.path) == ("r--", str(file))
    assert "changed" not in mshare("stat", region, "--json").json["layout"][0]["file"]
    assert f"bytes of a file: {file} from 4 KiB" in mshare("stat", region).ok().out


def test_a_file_that_fewer_may_read_than_the_region(region: Path, tmp_path: Path) -> None:
    """A note on stderr: it is done, but the copy is for all of them."""
    mshare("create", region, "2M", "--mode", "644").ok()
    file = tmp_path / "private"
    file.write_bytes(b"private")
    file.chmod(0o600)
    result = mshare("map", region, "0", "4K", "--file", file).ok()
    assert result.err == f"more users may read {region} than {file}\n"


def test_a_file_mapped_for_writing(region: Path, tmp_path: Path) -> None:
    """What is changed goes back at sync; stat says that it does, or why not."""
    mshare("create", region, "2M").ok()
    file = tmp_path / "file"
    file.write_bytes(b"bytes")
    mshare("map", region, "0", "4K", "--file", file, "--prot", "rw").ok()
    assert f"bytes of a file: {file}, goes back" in mshare("stat", region).ok().out
    with Region.open(region) as opened, opened.attach(0, 4096) as attachment:
        attachment.buf[:5] = b"fresh"
        hand_over(opened.fileno())
        said = mshare("stat", region).ok().out
        assert f"bytes of a file: {file}, goes back, changed: 4 KiB not written\n" in said
        narrow = drawn("stat", region, columns=60)
        assert "changed:4KiBnotwritten" in re.sub(r"\s|\x1b\[[0-9;]*m", "", narrow)
        (mapping,) = mshare("stat", region, "--json").json["layout"]
        assert mapping["file"]["changed"] == 4096
        assert file.read_bytes() == b"bytes"
        mshare("sync", region).ok()
        assert "changed:" not in mshare("stat", region).ok().out
    assert file.read_bytes() == b"fresh"


def test_a_file_that_cannot_be_written(region: Path, mounted: Mount) -> None:
    """sync says which one and why, and so does stat until it is over."""
    mounted.expect_log("are not written to")
    mshare("create", region, "2M").ok()
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"bytes")
    with Region.open(region) as opened:
        opened.map_file(0, fd, prot="rw")
        with opened.attach(0, 4096) as attachment:
            attachment.buf[:5] = b"fresh"
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
        sentence = mshare("sync", region).refused()
        assert "sealed (deleted): Operation not permitted (4 KiB not written)" in sentence
        assert "4 KiB not written: Operation not permitted" in mshare("stat", region).ok().out
        with opened.attach(0, 4096) as attachment:
            attachment.buf[:5] = b"bytes"
        opened.sync()
        assert "goes back" in mshare("stat", region).ok().out
    os.close(fd)


def test_files_that_cannot_be_mapped_are_refused(region: Path, tmp_path: Path) -> None:
    """A directory, a pipe, a missing file: one sentence each, and no waiting for the pipe."""
    mshare("create", region, "2M").ok()
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing"):
        sentence = mshare(
            "map", region, "0", "4K", "--file", tmp_path / name, "--prot", "r"
        ).refused()
        assert name in sentence
    mshare("map", region, "0", "4K", "--file", tmp_path).refused(2)
    assert mappings(region) == []


def test_options_that_do_not_go_together_are_refused(region: Path) -> None:
    """Before anything is opened."""
    assert "--file" in mshare("map", region, "0", "4K", "--file-offset", "0").refused(2)
    refused = mshare("map", region, "0", "2M", "--file", "/etc/passwd", "--huge").refused(2)
    assert "--huge" in refused


def test_sync_succeeds(region: Path) -> None:
    """There is nothing to write back where no file is mapped."""
    mshare("create", region, "2M", "--map").ok()
    assert mshare("sync", region).ok().out == ""


def test_rm_removes_regions_and_nothing_else(mounted: Mount, region: Path, tmp_path: Path) -> None:
    """What it may not remove is said, a sentence each, and the others are removed."""
    other = region.with_name(f"{region.name}.2")
    plain = tmp_path / "plain"
    plain.touch()
    for path in (region, other):
        mshare("create", path, "2M").ok()
    info = mounted.path / "mshare_info"
    result = mshare("rm", region, plain, info, mounted.path, region.with_name("none"), other)
    assert result.code == 1
    assert result.err.splitlines() == [
        f"mshare: {plain} is not on a mounted msharefs",
        f"mshare: {info} is not a region",
        f"mshare: {mounted.path} is not a region",
        f"mshare: {region.with_name('none')}: No such file or directory",
    ]
    assert (region.exists(), other.exists()) == (False, False)
    assert (plain.exists(), info.exists()) == (True, True)


def test_the_rights_of_others_are_kept(region: Path) -> None:
    """Not root's region for another user, and nobody else's name in a sticky directory."""
    mshare("create", region, "2M", "--mode", "644").ok()
    assert "Permission denied" in mshare_as(ALICE, "map", region, "0", "4K").refused()
    assert "Permission denied" in mshare_as(ALICE, "unmap", region, "0", "4K").refused()
    refused = mshare_as(ALICE, "rm", region)
    assert (refused.code, "not permitted" in refused.err) == (1, True)
    assert region.exists()


def test_a_quick_change_draws_nothing_on_a_terminal(region: Path) -> None:
    """What takes less than a second needs no explanation."""
    assert drawn("create", region, "16M", "--map") == ""
