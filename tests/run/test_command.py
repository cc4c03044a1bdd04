"""mshare run as a command: its region, its exit codes, its words, its environment."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from msharefs import Region
from msharefs.cli.run import run as run_command
from tests.helpers.mount import Mount
from tests.helpers.users import ALICE, as_user, open_the_way
from tests.run.conftest import Start
from tests.run.programs import MIB, layout, run, sizes

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M"
DRY = ("--dry-run",)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 7"], 7, ""),
        (["sh", "-c", "exit 127"], 127, ""),
        (["sh", "-c", "kill -9 $$"], 137, ""),
        (["/etc/passwd"], 126, "mshare run: /etc/passwd: Permission denied\n"),
        (["no-such-command"], 127, "mshare run: no-such-command: command not found\n"),
    ],
)
def test_exit_code_is_the_commands(place: Path, words: list[str], code: int, line: str) -> None:
    """As shells, env(1) and timeout(1) have it; the region is gone each time."""
    done = run(place, *words)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", line)
    assert not place.exists()


def test_a_dry_run_says_what_would_happen_and_makes_nothing(mounted: Mount, place: Path) -> None:
    """The command, the region, what goes there, and what there is room for."""
    done = run(place, "sh", "-c", "echo ran", options=DRY)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.removeprefix("mshare run: ") for line in done.stdout.splitlines()]
    assert re.fullmatch("would run /.*/sh with the library in it", lines[0])
    assert lines[1] == f"would make the region {place}, and remove it at the end"
    assert lines[2].startswith("would put shared anonymous memory from ")
    assert re.fullmatch(r".* of the mount's 256 MiB \(size=\) are free", lines[3])
    assert not place.exists()
    with Region.create(place, 2 * MIB):
        done = run(place, "true", options=(*DRY, "--shm"))
        assert f"would use the region {place}, which is there, with 2 MiB" in done.stdout
        assert "memory and segments" in done.stdout
        place.chmod(0o666)
        done = run(place, "true", options=DRY)
        assert (done.returncode, done.stdout) == (125, "")
        assert "wider than --mode" in done.stderr
    place.unlink()


def test_a_dry_run_finds_what_would_fail(tmp_path: Path, place: Path) -> None:
    """With the code that the run would have."""
    assert run(place, "no-such-command", options=DRY).returncode == 127
    done = run(tmp_path / "region", "true", options=DRY)
    assert done.returncode == 125
    assert "no msharefs is mounted there" in done.stderr


def test_no_mount_is_said_in_one_line(tmp_path: Path) -> None:
    """Exit code 125, a sentence with the path, and the command is not run."""
    done = run(tmp_path / "region", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == f"mshare run: {tmp_path}: no msharefs is mounted there\n"
    assert os.listdir(tmp_path) == []


def test_no_command_is_a_usage_error(place: Path) -> None:
    """Exit code 2, and nothing is made."""
    done = run(place)
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
    assert not place.exists()


def test_options_of_the_command_are_its_own(place: Path) -> None:
    """Everything behind -- is the command's, whatever it looks like."""
    done = run(place, "echo", "--strict", "--region")
    assert (done.returncode, done.stdout) == (0, "--strict --region\n")


def test_keep_leaves_region_and_memory(start: Start, place: Path) -> None:
    """With --keep what is mapped at the end can be looked into; what was unmapped is gone."""
    work = start(place, "--keep")
    work.map(0, 64)
    work.map(1, 65)
    work.ok("put 1 11 99", "unmap 0")
    assert work.end() == (0, "")
    with Region.open(place) as region:
        (mapping,) = region.layout().mappings
        with region.attach(mapping.offset, 4096) as attachment:
            assert attachment.buf[11] == 99
        region.unlink()


def test_a_region_that_is_there_is_used_and_stays(start: Start, place: Path) -> None:
    """Its own mappings are left alone, ours go into the holes, and at the end it is as before."""
    with Region.create(place, 1 << 30) as region:
        region.map(0, MIB)
        region.map(100 * MIB, MIB)
        with region.attach(100 * MIB, MIB) as attachment:
            attachment.buf[0] = 77
            work = start(place)
            work.map(0, 64)
            work.map(1, 64)
            assert sizes(place) == [1, 64, 1, 64]
            assert work.end() == (0, "")
            assert layout(place) == [(0, MIB), (100 * MIB, MIB)]
            assert attachment.buf[0] == 77
        region.unlink()


def test_a_region_without_a_size_is_refused(place: Path) -> None:
    """Somebody is about to make it: exit code 125, and it is left alone."""
    place.touch()
    done = run(place, "true")
    assert (done.returncode, done.stderr) == (125, f"mshare run: {place} has no size yet\n")
    place.unlink()


def test_two_runs_do_not_share_a_region(start: Start, place: Path) -> None:
    """The second is refused and the first does not notice."""
    work = start(place)
    work.map(0, 64)
    done = run(place, "true")
    assert done.returncode == 125
    assert done.stderr == f"mshare run: {place} is in use by another mshare run\n"
    assert work.inside(0)
    assert work.end() == (0, "")


def test_size_and_mode_of_the_region(place: Path) -> None:
    """--size and --mode, whatever the umask; 1 TiB and 0600 without them."""
    shown = ["stat", "-c", "%s %a", str(place)]
    assert run(place, *shown).stdout == f"{1 << 40} 600\n"
    options = ("--size", "3M", "--mode", "666")
    assert run(place, *shown, options=options).stdout == f"{4 * MIB} 666\n"


def test_verbose_says_what_went_where(start: Start, place: Path) -> None:
    """A line for each mapping, and the most that lived in the region at the end."""
    work = start(place, "-v")
    work.map(0, 64)
    pid = work.ask("pid")
    _, errors = work.end()
    assert errors.splitlines() == [
        (
            f"mshare run: program[{pid}]: 64 MiB of shared anonymous memory live in the region "
            "at offset 0"
        ),
        f"mshare run: at most 64 MiB lived in {place}",
    ]


def test_verbose_says_the_most_that_lived_at_a_time(start: Start, place: Path) -> None:
    """What the program gives back by itself counts, with a segment beside it."""
    work = start(place, "-v", "--shm", "--min-size", "32M")
    name = f"/msharefs-most-{os.getpid()}"
    work.ok(f"open 1 {name} create", f"truncate 1 {32 * MIB}", f"mapfile 1 1 {32 * MIB} 0")
    work.ok(f"unlink {name}")
    work.map(0, 64)
    work.ok("unmap 0")
    _, errors = work.end()
    assert errors.splitlines()[-1] == f"mshare run: at most 96 MiB lived in {place}"


def test_relative_paths_and_links_lead_to_the_region(
    start: Start, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program may change its directory: it gets the real path."""
    (tmp_path / "link").symlink_to(place.parent)
    monkeypatch.chdir(tmp_path)
    work = start(Path("link") / place.name)
    work.map(0, 64)
    assert sizes(place) == [64]
    assert work.ask("where 0") == str(place)


def test_other_preloaded_libraries_stay(
    place: Path, built_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What LD_PRELOAD held comes behind ours."""
    monkeypatch.setenv("LD_PRELOAD", "libc.so.6")
    done = run(place, "sh", "-c", "echo $LD_PRELOAD")
    assert done.stdout == f"{built_library}:libc.so.6\n"


def test_an_ordinary_user_runs_programs(mounted: Mount, program: Path, tmp_path: Path) -> None:
    """Not root: own region, own library, and the same way back."""
    path = mounted.path / "alices"
    answers = tmp_path / "answers"
    answers.touch()
    os.chown(answers, ALICE, ALICE)
    open_the_way(tmp_path)
    script = (
        f"printf 'map 0 {64 * MIB} 0\\nput 0 5 6\\nwhere 0\\nfork\\n>get 0 5\\nunmap 0\\n>get 0 5\\n'"
        f" | {program} > {answers}; stat -c %U:%a {path} >> {answers}"
    )

    def work() -> object:
        return run_command.main(
            ["--region", str(path), "--", "sh", "-c", script], standalone_mode=False
        )

    assert as_user(ALICE, work) == 0
    lines = answers.read_text().splitlines()
    assert lines[1:3] == ["ok", str(path)]
    assert lines[4:7] == ["6", "ok", "6"]
    assert lines[7].endswith(":600")
    assert not path.exists()
