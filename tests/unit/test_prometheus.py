"""The metrics that mshare status prints for Prometheus."""

from __future__ import annotations

import os
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from msharefs.prometheus import exposition

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "uptime": 12.5,
    "data_plane": {"name": "passthrough", "why": "asked for"},
    "mount": {"source": "msharefs", "mountpoint": '/mnt/a "quoted" place'},
    "huge_pages": {"collapsed": 512, "obstacle": None},
    "arena": {"size": 4096, "reserved": 2048, "used": 1024, "limit": 3072, "huge": "always"},
    "inodes": {"limit": 100, "used": 3},
    "regions": 1,
    "mappings": 2,
    "mappings_limit": 50,
    "files": {"limit": 16, "mapped": 1},
    "user_limits": {"size": 2048, "inodes": 20, "mappings": 30, "files": None},
    "users": {"1000": {"size": 1024, "inodes": 2, "mappings": 2, "files": 1}},
    "open_handles": 5,
    "operations": {
        "OPEN": {"count": 3, "errors": 1, "seconds": 0.25},
        "IOCTL": {"count": 7, "errors": 0, "seconds": 0.5},
    },
    "restarts": 4,
    "resent_requests": 6,
    "last_gap_seconds": 0.125,
    "pids": {"supervisor": 1, "server": 2},
}
MOUNT = '/mnt/a "quoted" place'
Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(text: str) -> dict[Sample, float]:
    """Name and labels to value, as Prometheus reads them."""
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def of_mount(name: str, **labels: str) -> Sample:
    """A sample of STATUS."""
    return f"msharefs_{name}", frozenset({"mountpoint": MOUNT, **labels}.items())


def test_names_are_in_base_units() -> None:
    """Seconds and bytes, totals named so, every one labelled with its mount; no limit, no metric."""
    found = samples(exposition(STATUS))
    assert found == {
        of_mount("info", version="0.1.0", data_plane="passthrough"): 1,
        of_mount("uptime_seconds"): 12.5,
        of_mount("restarts_total"): 4,
        of_mount("resent_requests_total"): 6,
        of_mount("last_gap_seconds"): 0.125,
        of_mount("regions"): 1,
        of_mount("mappings"): 2,
        of_mount("mappings_limit"): 50,
        of_mount("mapped_files"): 1,
        of_mount("mapped_files_limit"): 16,
        of_mount("user_memory_limit_bytes"): 2048,
        of_mount("user_inodes_limit"): 20,
        of_mount("user_mappings_limit"): 30,
        of_mount("user_memory_bytes", uid="1000"): 1024,
        of_mount("user_inodes", uid="1000"): 2,
        of_mount("user_mappings", uid="1000"): 2,
        of_mount("user_mapped_files", uid="1000"): 1,
        of_mount("open_handles"): 5,
        of_mount("inodes"): 3,
        of_mount("inodes_limit"): 100,
        of_mount("memory_size_bytes"): 4096,
        of_mount("memory_used_bytes"): 1024,
        of_mount("memory_reserved_bytes"): 2048,
        of_mount("memory_huge_bytes"): 512,
        of_mount("memory_limit_bytes"): 3072,
        of_mount("operations_total", operation="OPEN"): 3,
        of_mount("operations_total", operation="IOCTL"): 7,
        of_mount("operation_errors_total", operation="OPEN"): 1,
        of_mount("operation_errors_total", operation="IOCTL"): 0,
        of_mount("operation_duration_seconds_sum", operation="OPEN"): 0.25,
        of_mount("operation_duration_seconds_sum", operation="IOCTL"): 0.5,
        of_mount("operation_duration_seconds_count", operation="OPEN"): 3,
        of_mount("operation_duration_seconds_count", operation="IOCTL"): 7,
    }


def test_regions_have_figures_of_their_own() -> None:
    """By path, which may hold any bytes."""
    figures = {"size": 8, "mapped": 6, "reserved": 4, "mappings": 2, "open_handles": 1}
    region = {"path": b"/a \xff", **figures, "maps": 9, "unmaps": 7}
    found = samples(exposition({**STATUS, "by_region": [region]}))
    of_region = {name: value for (name, labels), value in found.items() if "region_" in name}
    assert of_region == {
        "msharefs_region_size_bytes": 8,
        "msharefs_region_mapped_bytes": 6,
        "msharefs_region_memory_reserved_bytes": 4,
        "msharefs_region_mappings": 2,
        "msharefs_region_open_handles": 1,
        "msharefs_region_maps_total": 9,
        "msharefs_region_unmaps_total": 7,
    }
    assert of_mount("region_mapped_bytes", region="/a \\xff") in found


def test_every_metric_has_help_and_a_type_before_its_samples() -> None:
    """As the text format asks, once for each."""
    seen: list[str] = []
    for line in exposition(STATUS).splitlines():
        if line.startswith("# TYPE "):
            seen.append(line.split()[2])
        elif not line.startswith("#"):
            name = line.partition("{")[0]
            assert name.removesuffix("_sum").removesuffix("_count") == seen[-1]
    assert len(seen) == len(set(seen))


def test_a_mount_point_may_have_any_bytes() -> None:
    """What is no UTF-8 is escaped, and what is stays."""
    path = os.fsdecode("/mnt/gr\u00fcn".encode() + b"\xff")
    text = exposition({"regions": 3, "mount": {"mountpoint": path}})
    assert samples(text) == {
        ("msharefs_regions", frozenset({("mountpoint", "/mnt/gr\u00fcn\\xff")})): 3
    }


def test_what_the_status_does_not_have_is_left_out() -> None:
    """An older daemon gives fewer metrics, not wrong ones."""
    assert samples(exposition({"regions": 3})) == {
        ("msharefs_regions", frozenset({("mountpoint", "")})): 3
    }


def test_latency_is_a_histogram_where_there_are_buckets() -> None:
    """Upper bounds in order, and all requests below infinity."""
    counter = {"count": 9, "errors": 0, "seconds": 1.5, "buckets": {"0.01": 8, "0.0001": 5}}
    text = exposition({"operations": {"OPEN": counter}})
    assert "# TYPE msharefs_operation_duration_seconds histogram" in text
    (family,) = (each for each in text_string_to_metric_families(text) if each.type == "histogram")
    bounds = [
        (each.labels["le"], each.value) for each in family.samples if each.name.endswith("_bucket")
    ]
    assert bounds == [("0.0001", 5), ("0.01", 8), ("+Inf", 9)]
