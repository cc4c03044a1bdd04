"""How each figure is taken. One function a group of rows that share their preparation.

Knows the probes and the site; knows neither what is wanted nor how it is shown.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..effort import GIB, MIB, Effort
from ..processes import NotMeasured, Watched, is_named, memory_of
from ..site import SHM, Mounted, Site, need_memory, sides
from ..ways import USER
from .figures import Figure

KIB = 1 << 10
PAGE = 4096


FEW_REGIONS, MANY_REGIONS, VERY_MANY_REGIONS = 10, 10_000, 100_000
FEW_MAPPINGS, MANY_MAPPINGS = 10, 60_000
CLIENTS, GAP_REGIONS = 16, 1_000

COLLAPSE_TIMEOUT = 180.0
"""Seconds, for 1 GiB."""
STANDBY_TIMEOUT = 15.0
"""Seconds; it is started two seconds after a server."""

Figures = Mapping[str, Figure]


def attach(site: Site, effort: Effort) -> Figures:
    """Page tables and time of processes that attach to 1 GiB and touch every page."""
    need_memory(3 * GIB)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    tables: dict[str, list[float]] = {"ours": [], "theirs": []}
    huge: dict[str, float] = {}
    with site.msharefs("size=1100M") as mounted, site.shm_file(GIB) as plain:
        region = mounted.path / "region"
        site.probe("fill", "region", region, GIB)
        for path in (region, plain):
            site.probe("attach", path, GIB)  # the first after writing is slower on both
        for _ in range(effort.rounds):
            for side, path in (("ours", region), ("theirs", plain)):
                values = {key: float(value) for key, value in site.probe("attach", path, GIB)}
                seconds[side].append(values["nanoseconds"] / 1e9)
                # One page is the least that can be counted.
                tables[side].append(max(values["tables_kb"], 4.0) * KIB)
                huge[side] = values["huge_kb"] * KIB / GIB
    note = f"mapped by huge pages: ours {huge['ours']:.0%}, theirs {huge['theirs']:.0%}"
    return {
        "page-tables": Figure(tuple(tables["ours"]), tuple(tables["theirs"]), note),
        "attach": Figure(tuple(seconds["ours"]), tuple(seconds["theirs"])),
    }


def write(site: Site, effort: Effort) -> Figures:
    """Bandwidth of writing an attached region from end to end."""
    need_memory(3 * GIB)
    with site.msharefs("size=1100M") as mounted:
        region = mounted.path / "region"
        site.probe("fill", "region", region, GIB)
        return {
            "write": _figure(sides(site.probe("memory", "write", effort.rounds, GIB, region), 1.0))
        }


def random(site: Site, effort: Effort) -> Figures:
    """Time of reads that miss the processor's caches and its table of translations."""
    need_memory(5 * GIB)
    with site.msharefs("size=2100M") as mounted, site.shm_file(2 * GIB) as plain:
        region = mounted.path / "region"
        site.probe("fill", "region", region, 2 * GIB)
        lines = site.probe("memory", "random", effort.rounds, 2 * GIB, region, plain)
        return {"random": _figure(sides(lines, 1e-9))}


def attributes(site: Site, effort: Effort) -> Figures:
    """stat and fstat of a region that nobody changes."""
    with site.msharefs("size=16M") as mounted, site.tmpfs() as tmpfs:
        ours, theirs = _file_on(site, mounted.path), _file_on(site, tmpfs)
        return {
            name: _figure(site.contend(name, effort.rounds, 20_000, ours, theirs))
            for name in ("stat", "fstat")
        }


def requests(site: Site, effort: Effort) -> Figures:
    """Open and close, and the two ioctls, against the C peer."""
    with site.msharefs("size=64M") as mounted, site.cfs() as cfs:
        ours, theirs = _file_on(site, mounted.path), _file_on(site, cfs)
        return {
            "open": _figure(site.contend("open", effort.rounds, 300, ours, theirs)),
            "map": _figure(site.contend("map-unmap", effort.rounds, 200, ours, theirs)),
            "crowd": _figure(site.crowd(effort.rounds, CLIENTS, 60, ours, theirs)),
        }


def work(site: Site, effort: Effort) -> Figures:
    """The two ioctls against a C peer that has the kernel do the same."""
    with site.msharefs("size=64M") as mounted, site.working_cfs() as cfs:
        ours, theirs = _file_on(site, mounted.path), _file_on(site, cfs)
        return {"map-work": _figure(site.contend("map-unmap", effort.rounds, 200, ours, theirs))}


def create(site: Site, effort: Effort) -> Figures:
    """The life of an empty region against the pyfuse3 peer."""
    with site.msharefs("size=16M") as mounted, site.plain_pyfuse3() as plain:
        return {"create": _figure(site.contend("create", effort.rounds, 200, mounted.path, plain))}


def regions(site: Site, effort: Effort) -> Figures:
    """The life of a region among few and among many, and what many cost in memory."""
    options = "size=1G,nr_inodes=20000"
    with site.msharefs(options) as many, site.msharefs(options) as few:
        site.probe("fill", "regions", few.path, FEW_REGIONS)
        bare = _resident(many)
        start = time.monotonic()
        site.probe("fill", "regions", many.path, MANY_REGIONS)
        filled = time.monotonic() - start
        resident = _resident(many)
        note = (
            f"of these {bare / MIB:.0f} MiB with no region; "
            f"PSS {_memory(many, 'Pss:') / MIB:.0f} MiB; supervisor, server and children added"
        )
        samples = site.contend("create-map", effort.rounds, 60, many.path, few.path)
        return {
            "regions": _figure(samples, f"{MANY_REGIONS} regions made in {filled:.1f} s"),
            "memory": Figure((resident,), note=note),
        }


def many(site: Site, effort: Effort) -> Figures:
    """The same and other operations among very many regions, and what those cost."""
    need_memory(3 * GIB)
    options = f"size=2G,nr_inodes={2 * VERY_MANY_REGIONS}"
    with site.msharefs(options) as many, site.msharefs(options) as few:
        site.probe("fill", "regions", few.path, FEW_REGIONS)
        start = time.monotonic()
        site.probe("fill", "regions", many.path, VERY_MANY_REGIONS)
        filled = time.monotonic() - start
        resident = _resident(many)
        note = f"PSS {_memory(many, 'Pss:') / MIB:.0f} MiB; supervisor, server and children added"
        ours, theirs = many.path / "region-5", few.path / "region-5"
        return {
            "many-make": Figure((filled / VERY_MANY_REGIONS,)),
            "many-stat": _figure(site.contend("stat", effort.rounds, 20_000, ours, theirs)),
            "many-open": _figure(site.contend("open", effort.rounds, 300, ours, theirs)),
            "many-map": _figure(site.contend("map-unmap", effort.rounds, 200, ours, theirs)),
            "many-create": _figure(
                site.contend("create-map", effort.rounds, 60, many.path, few.path)
            ),
            "many-memory": Figure((resident,), note=note),
        }


def mappings(site: Site, effort: Effort) -> Figures:
    """CREATE_MAPPING of a page between two others, among few and among many."""
    options = f"size=1G,max_mappings={MANY_MAPPINGS + 10_000}"
    with site.msharefs(options) as many, site.msharefs(options) as few:
        ours, theirs = many.path / "region", few.path / "region"
        site.probe("fill", "mappings", theirs, FEW_MAPPINGS)
        start = time.monotonic()
        site.probe("fill", "mappings", ours, MANY_MAPPINGS)
        filled = time.monotonic() - start
        samples = site.contend("map-in-gap", effort.rounds, 60, ours, theirs)
        return {"mappings": _figure(samples, f"{MANY_MAPPINGS} mappings made in {filled:.1f} s")}


def files(site: Site, effort: Effort) -> Figures:
    """A small file and a large one, both in the page cache, mapped for reading, and the large one
    written back."""
    need_memory(4 * GIB)
    file, copy = site.directory / "file", SHM / site.directory.name
    with site.msharefs("size=1100M,align=4096") as mounted:
        region = mounted.path / "region"
        site.probe("fill", "sized", region, GIB)
        site.probe("fill", "plain", file, GIB)
        try:
            small = site.python_probe("files", "map", effort.rounds, 20, region, file)
            large = site.python_probe("files", "read", effort.mounts, GIB, region, file, copy)
            some = site.python_probe("files", "changed", effort.mounts, GIB, region, file)
            shutil.copyfile(file, copy)
            whole = site.python_probe("files", "write", effort.mounts, GIB, region, file, copy)
        finally:
            copy.unlink(missing_ok=True)
            file.unlink()
    return {
        "file-map": _figure(sides(small, 1.0)),
        "file-read": _figure(sides(large, 1.0)),
        "file-write": _figure(sides(whole, 1.0)),
        "file-changed": _figure(sides(some, 1.0)),
    }


def blocks(site: Site, effort: Effort) -> Figures:
    """Small blocks of SharedMemory against the standard library's class, in Python."""
    with site.msharefs("size=64M") as mounted:
        return {
            name: _figure(
                sides(site.python_probe("blocks", what, effort.rounds, 50, mounted.path), 1e-9)
            )
            for name, what in (("block", "create"), ("block-attach", "attach"))
        }


def under_a_run(site: Site, effort: Effort) -> Figures:
    """What programs that know nothing of mshare do, plainly and under mshare run."""
    need_memory(2 * GIB)
    small = ("--min-size", "64K")
    rows: dict[str, tuple[tuple[str, ...], str, int, int]] = {
        "run-anonymous": ((), "anonymous", 1000, 64 * KIB),
        "run-segment": ((), "segment", 1000, MIB),
        "run-munmap": ((), "munmap", 3, 64 * MIB),
        "run-fork": (small, "fork", 10, 64 * KIB),
        "run-small-anonymous": (small, "anonymous", 100, 64 * KIB),
        "run-small-segment": (small, "segment", 30, MIB),
        "run-small-munmap": (small, "munmap", 100, 64 * KIB),
    }
    found = {}
    with site.msharefs("size=1G") as mounted:
        for name, (options, *words) in rows.items():
            run = ("--region", str(mounted.path / name), "--shm", *options)
            found[name] = _figure(site.in_turns(effort.rounds, run, "memory_calls", *words))
    return found


def paged(site: Site, effort: Effort) -> Figures:
    """The paged plane: first touches, writing back, and pages that two processes share."""
    need_memory(5 * GIB)
    options = "size=1100M"
    rounds = max(3, effort.rounds // 3)
    with site.msharefs(f"{options},data=paged") as mounted:
        region = mounted.path / "region"
        site.probe("fill", "region", region, GIB)
        touches: dict[str, list[float]] = {"ours": [], "theirs": []}
        users = _touches_as_a_user(site, mounted, region, rounds)
        with site.shm_file(GIB) as plain:
            for _ in range(rounds):
                for side, path in (("ours", region), ("theirs", plain)):
                    values = dict(site.probe("attach", path, GIB))
                    touches[side].append(float(values["touch_ns"]) / 1e9 / (GIB / PAGE))
            turns = sides(site.probe("pingpong", rounds, 200_000, region, plain), 1e-9)
        with site.msharefs(f"{options},data=passthrough") as other:
            through = other.path / "region"
            site.probe("fill", "region", through, GIB)
            written = sides(site.probe("memory", "sync", rounds, GIB, region, through), 1.0)
    return {
        "paged-read": _figure((touches["ours"], touches["theirs"])),
        "paged-user": _figure(users),
        "paged-write": _figure(written),
        "paged-pingpong": _figure(turns),
    }


def direct(site: Site, effort: Effort) -> Figures:
    """A user's mount whose memory his programs have themselves: in small pages, as it comes there, and
    after it was put into huge ones."""
    need_memory(4 * GIB)
    with site.shm_file(GIB) as plain:
        with _users_region(site, "never") as region:
            small = _attached_in_turns(site, effort, region, plain)
        with _users_region(site, "always") as region:
            seconds = _until_huge(site, region)
            huge = _attached_in_turns(site, effort, region, plain)
            written = site.probe(
                "memory", "write", effort.rounds, GIB, f"direct:{region}", user=USER
            )
    note = f"1 GiB was collapsed {seconds:.1f} s after it was mapped"
    return {
        "direct-attach-small": _figure(small["seconds"]),
        "direct-attach": _figure(huge["seconds"], note),
        "direct-tables": _figure(huge["tables"]),
        "direct-write": _figure(sides(written, 1.0)),
    }


@contextlib.contextmanager
def _users_region(site: Site, huge: str) -> Iterator[Path]:
    """1 GiB that an ordinary user has mapped."""
    options = f"size=1100M,data=direct,huge={huge}"
    with site.msharefs(options, placed=False, user=USER) as mounted:
        region = mounted.path / "region"
        site.probe("fill", "mapped", region, GIB, user=USER)
        yield region


def _until_huge(site: Site, region: Path) -> float:
    """Seconds until all of it is mapped by huge pages."""
    start = time.monotonic()
    while time.monotonic() - start < COLLAPSE_TIMEOUT:
        values = dict(site.probe("attach", region, GIB, "direct", user=USER))
        if int(values["huge_kb"]) * KIB == GIB:
            return time.monotonic() - start
        time.sleep(0.2)
    raise NotMeasured("the region was not put into huge pages")


def _attached_in_turns(
    site: Site, effort: Effort, region: Path, plain: Path
) -> dict[str, tuple[list[float], list[float]]]:
    """What a new process pays, directly and for the other file."""
    found: dict[str, tuple[list[float], list[float]]] = {"seconds": ([], []), "tables": ([], [])}
    for number in range(effort.rounds + 1):
        ours = dict(site.probe("attach", region, GIB, "direct", user=USER))
        theirs = dict(site.probe("attach", plain, GIB))
        if number == 0:
            continue  # the first after writing is slower on both
        for side, values in enumerate((ours, theirs)):
            found["seconds"][side].append(float(values["nanoseconds"]) / 1e9)
            found["tables"][side].append(max(float(values["tables_kb"]), 4.0) * KIB)
    return found


def gap(site: Site, effort: Effort) -> Figures:
    """From the end of a server that had a standby to the next answer."""
    seconds = []
    with site.msharefs("size=64M", placed=False) as mounted:
        site.probe("fill", "regions", mounted.path, GAP_REGIONS)
        for _ in range(effort.mounts):
            _await_standby(mounted)
            server = Watched([mounted.server()])
            start = time.monotonic()
            server.kill()
            # A name that nobody has asked for before.
            (mounted.path / f"none-{start}").exists()
            seconds.append(time.monotonic() - start)
            server.close()
    return {"gap": Figure(tuple(seconds))}


def _touches_as_a_user(
    site: Site, mounted: Mounted, region: Path, rounds: int
) -> tuple[list[float], list[float]]:
    """First touches with what a user's mount is read ahead, and the mount's advice; and as root's
    is, without."""
    device = os.stat(mounted.path).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    roots = setting.read_text()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, kib, words in zip(seconds, ("128", roots), (("advised",), ()), strict=True):
            setting.write_text(kib)
            values = dict(site.probe("attach", region, GIB, *words))
            side.append(float(values["touch_ns"]) / 1e9 / (GIB / PAGE))
    setting.write_text(roots)
    return seconds


def mount(site: Site, effort: Effort) -> Figures:
    """From the start of the command until a stat on the mount is answered."""
    seconds, ends = [], []
    for _ in range(effort.mounts):
        with site.msharefs("size=16M", placed=False) as mounted:
            seconds.append(mounted.seconds)
            watched = Watched(mounted.processes())
            start = time.monotonic()
        ends.append(time.monotonic() - start)
        watched.close()
    note = f"umount until every process has ended: {statistics.median(ends):.2f} s"
    return {"mount": Figure(tuple(seconds), note=note)}


# Which rows a function gives, so that one of them can be asked for alone.
GROUPS: tuple[tuple[tuple[str, ...], Callable[[Site, Effort], Figures]], ...] = (
    (("page-tables", "attach"), attach),
    (("write",), write),
    (("random",), random),
    (("stat", "fstat"), attributes),
    (("open", "map", "crowd"), requests),
    (("map-work",), work),
    (("create",), create),
    (("regions", "memory"), regions),
    (
        ("many-make", "many-stat", "many-open", "many-map", "many-create", "many-memory"),
        many,
    ),
    (("mappings",), mappings),
    (("file-map", "file-read", "file-write", "file-changed"), files),
    (("block", "block-attach"), blocks),
    (("paged-read", "paged-user", "paged-write", "paged-pingpong"), paged),
    (
        (
            "run-anonymous",
            "run-segment",
            "run-munmap",
            "run-fork",
            "run-small-anonymous",
            "run-small-segment",
            "run-small-munmap",
        ),
        under_a_run,
    ),
    (("direct-attach-small", "direct-attach", "direct-tables", "direct-write"), direct),
    (("gap",), gap),
    (("mount",), mount),
)


def _file_on(site: Site, directory: Path) -> Path:
    path = directory / "region"
    site.probe("fill", "sized", path, 2 * MIB)
    return path


def _figure(samples: tuple[list[float], list[float]], note: str = "") -> Figure:
    ours, theirs = samples
    return Figure(tuple(ours), tuple(theirs), note)


def _await_standby(mounted: Mounted) -> None:
    """Until a process beside the server sleeps that bears the name of one."""
    deadline = time.monotonic() + STANDBY_TIMEOUT
    while time.monotonic() < deadline:
        if any(is_named(pid, "mshare-standby") for pid in mounted.processes()):
            return
        time.sleep(0.05)
    raise NotMeasured("no standby server came")


def _resident(mounted: Mounted) -> float:
    return _memory(mounted, "Rss:")


def _memory(mounted: Mounted, field: str) -> float:
    return memory_of(mounted.processes(), field)
