"""mshare status and top on a real mount."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from msharefs import Region
from tests.cli.tool import alone_with, drawn, mshare, mshare_as, on_terminal
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.helpers.users import ALICE

pytestmark = pytest.mark.mount

MIB = 1 << 20
MOUNT_OPTIONS = "size=256M"


def test_status_json_is_the_daemons_own(mounted: Mount, region: Path) -> None:
    """Nothing is added and nothing left out; any path on the mount will do."""
    Region.create(region, 2 * MIB).close()
    document = mshare("status", mounted.path, "--json").json
    assert document.keys() == mounted.status().keys()
    assert document["mount"] == {
        "source": mounted.source,
        "mountpoint": str(mounted.path),
        "earlier_devices": [],
    }
    assert document["regions"] == 1


def test_status_shows_what_matters(mounted: Mount, region: Path) -> None:
    """Plane, memory, regions, processes, and a line for each kind of request."""
    with Region.create(region, 64 * MIB) as made:
        made.map(0, 64 * MIB)
        text = mshare("status", mounted.path).ok().out
    assert re.search(r"Data plane +passthrough, \S", text)
    assert re.search(r"Memory +\u2588{8}\u2591{24} 64 MiB of 256 MiB, 64 MiB reserved", text)
    assert re.search(r"Holds +1 region with 1 mapping, open 1 time", text)
    assert f"server {mounted.server_pid}" in text
    assert re.search(r"^IOCTL +[0-9]+ +[0-9]+ +[0-9.]+ [um]s", text, re.MULTILINE)


def test_who_looks_makes_no_errors(mounted: Mount, region: Path) -> None:
    """ls asks for labels that are not there, and a reader of an attribute for its length."""

    def errors() -> dict[str, int]:
        return {name: done["errors"] for name, done in mounted.status()["operations"].items()}

    with Region.create(region, 2 * MIB) as made:
        made.map(0, 2 * MIB)
    os.getxattr(region, "user.msharefs.layout")
    before = errors()
    subprocess.run(["ls", "-l", mounted.path], check=True, timeout=20, stdout=subprocess.DEVNULL)
    with pytest.raises(OSError, match="not supported"):
        os.getxattr(region, "security.selinux")
    for words in (("ls", mounted.path), ("stat", region), ("status", mounted.path)):
        mshare(*words).ok()
    after = errors()
    assert after == {name: before.get(name, 0) for name in after}


def test_status_fits_a_terminal(mounted: Mount, place: Path) -> None:
    """24 lines of 80 characters, the rarer requests in one line."""
    with Region.create(place, 2 * MIB) as made:
        made.map(0, 4096)
        made.unlink()
    place.mkdir()
    place.rename(place.with_name(f"{place.name}.2"))
    place.with_name(f"{place.name}.2").rmdir()
    mounted.path.chmod(mounted.path.stat().st_mode & 0o7777)
    os.statvfs(mounted.path)
    os.listdir(mounted.path)
    text = re.sub("\x1b\\[[0-9;]*m", "", drawn("status", mounted.path))
    lines = text.splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines)) <= 80
    assert re.match("[0-9]+ others", lines[-1])


def test_status_prints_metrics(mounted: Mount, place: Path) -> None:
    """For Prometheus, labelled with the mount point."""
    text = mshare("status", mounted.path, "--prometheus").ok().out
    found = {family.name: family.samples for family in text_string_to_metric_families(text)}
    (size,) = found["msharefs_memory_size_bytes"]
    assert (size.labels, size.value) == ({"mountpoint": str(mounted.path)}, 256 * MIB)
    assert "msharefs_operation_duration_seconds" in found
    refused = mshare("status", mounted.path, "--prometheus", "--json").refused(2)
    assert "--json and --prometheus" in refused


def test_status_without_a_directory_wants_a_single_mount(
    mounted: Mount, make_mount: MakeMount
) -> None:
    """Where there are several it says which."""
    other = make_mount("size=16M")
    sentence = mshare("status", before=alone_with(mounted.path, other.path)).refused()
    assert sentence.endswith(f"say which: {mounted.path}, {other.path}")
    document = mshare("status", "--json", before=alone_with(other.path)).json
    assert document["mount"]["mountpoint"] == str(other.path)


def test_status_may_be_forbidden(make_mount: MakeMount) -> None:
    """It takes the right to read the root directory."""
    mount = make_mount("size=16M,mode=0711")
    assert "Permission denied" in mshare_as(ALICE, "status", mount.path).refused()


def test_top_gives_samples_as_lines_of_json(mounted: Mount, region: Path) -> None:
    """As many as asked for; rates from the second on."""
    Region.create(region, 2 * MIB).close()
    result = mshare("top", mounted.path, "--json", "-n", "2", "-i", "0.1").ok()
    first, second = map(json.loads, result.out.splitlines())
    assert first["operations_per_second"] == {}
    assert second["operations_per_second"]["GETXATTR"] > 0
    assert [each["path"] for each in second["regions"]] == [str(region)]
    assert second["time"] >= first["time"] + 0.1


def test_top_puts_the_largest_first_and_shows_changes(mounted: Mount, region: Path) -> None:
    """Memory decides the order; whoever maps has a rate."""
    small = region.with_name(f"{region.name}.small")
    with Region.create(region, 8 * MIB) as large, Region.create(small, 8 * MIB) as little:
        large.map(0, 8 * MIB)
        with on_terminal("top", mounted.path, "-i", "0.1") as terminal:
            terminal.read_until("8 MiB of 256 MiB")
            # Many times, so that it falls between two samples however they lie.
            for _ in range(200):
                little.map(0, 4096)
            terminal.read_until("4 KiB")
            terminal.press(b"q")
            code, text = terminal.end()
    assert code == 0
    frame = text[text.rindex("REGION") :]
    assert frame.index(region.name) < frame.index(f"{region.name}.small")


def test_top_into_a_pipe_prints_frames(mounted: Mount, region: Path) -> None:
    """One after the other, no escape codes, and requests per second in the second."""
    Region.create(region, 2 * MIB).close()
    text = mshare("top", mounted.path, "-n", "2", "-i", "0.1").ok().out
    assert "\x1b" not in text
    first, second = text.split("\n\n/")
    assert "Requests    ..." in first
    assert re.search(r"Requests +[0-9]+/s, [A-Z]+ [0-9]+/s [0-9.]+ [um]s", second)
