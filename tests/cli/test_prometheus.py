"""The metrics that mshare status prints for Prometheus."""

from __future__ import annotations

import re
from typing import Any

from msharefs.prometheus import exposition

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "uptime": 12.5,
    "data_plane": {"name": "passthrough", "why": "asked for"},
    "mount": {"source": "msharefs", "mountpoint": '/mnt/a "quoted" place'},
    "arena": {"size": 4096, "reserved": 2048, "used": 1024, "limit": 3072, "huge": "always"},
    "inodes": {"limit": 100, "used": 3},
    "regions": 1,
    "mappings": 2,
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
LABEL = r'mountpoint="/mnt/a \"quoted\" place"'
LINE = re.compile(r'(msharefs_[a-z_]+)\{([a-z_]+="(?:[^"\\]|\\.)*",?)+\} -?[0-9.]+(?:e-?[0-9]+)?')


def samples(text: str) -> dict[str, float]:
    """Name and labels to value, each line checked for its form."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            assert LINE.fullmatch(line), line
            key, _, value = line.rpartition(" ")
            assert key not in found
            found[key] = float(value)
    return found


def test_names_are_in_base_units() -> None:
    """Seconds and bytes, totals named so, every one labelled with its mount."""
    found = samples(exposition(STATUS))
    assert found == {
        f'msharefs_info{{{LABEL},version="0.1.0",data_plane="passthrough"}}': 1,
        f"msharefs_uptime_seconds{{{LABEL}}}": 12.5,
        f"msharefs_restarts_total{{{LABEL}}}": 4,
        f"msharefs_resent_requests_total{{{LABEL}}}": 6,
        f"msharefs_last_gap_seconds{{{LABEL}}}": 0.125,
        f"msharefs_regions{{{LABEL}}}": 1,
        f"msharefs_mappings{{{LABEL}}}": 2,
        f"msharefs_open_handles{{{LABEL}}}": 5,
        f"msharefs_inodes{{{LABEL}}}": 3,
        f"msharefs_inodes_limit{{{LABEL}}}": 100,
        f"msharefs_memory_size_bytes{{{LABEL}}}": 4096,
        f"msharefs_memory_used_bytes{{{LABEL}}}": 1024,
        f"msharefs_memory_reserved_bytes{{{LABEL}}}": 2048,
        f"msharefs_memory_limit_bytes{{{LABEL}}}": 3072,
        f'msharefs_operations_total{{{LABEL},operation="OPEN"}}': 3,
        f'msharefs_operations_total{{{LABEL},operation="IOCTL"}}': 7,
        f'msharefs_operation_errors_total{{{LABEL},operation="OPEN"}}': 1,
        f'msharefs_operation_errors_total{{{LABEL},operation="IOCTL"}}': 0,
        f'msharefs_operation_duration_seconds_sum{{{LABEL},operation="OPEN"}}': 0.25,
        f'msharefs_operation_duration_seconds_sum{{{LABEL},operation="IOCTL"}}': 0.5,
        f'msharefs_operation_duration_seconds_count{{{LABEL},operation="OPEN"}}': 3,
        f'msharefs_operation_duration_seconds_count{{{LABEL},operation="IOCTL"}}': 7,
    }


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


def test_what_the_status_does_not_have_is_left_out() -> None:
    """An older daemon gives fewer metrics, not wrong ones."""
    assert samples(exposition({"regions": 3})) == {'msharefs_regions{mountpoint=""}': 3}


def test_latency_is_a_histogram_where_there_are_buckets() -> None:
    """Upper bounds in order, and all requests below infinity."""
    counter = {"count": 9, "errors": 0, "seconds": 1.5, "buckets": {"0.01": 8, "0.0001": 5}}
    text = exposition({"operations": {"OPEN": counter}})
    assert "# TYPE msharefs_operation_duration_seconds histogram" in text
    bounds = re.findall(r'_bucket\{.*le="([^"]+)"\} ([0-9]+)', text)
    assert bounds == [("0.0001", "5"), ("0.01", "8"), ("+Inf", "9")]
