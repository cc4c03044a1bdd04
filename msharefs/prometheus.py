"""The status of a mount as Prometheus metrics, in the text format, version 0.0.4.

Owns their names: base units, totals that only grow. Text out of a status document; what the
document does not have is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Where it is in the document, its name, its kind, what it is.
_SIMPLE = (
    (("uptime",), "uptime_seconds", "gauge", "Seconds since the daemon was started."),
    (("restarts",), "restarts_total", "counter", "How often the server was restarted."),
    (
        ("resent_requests",),
        "resent_requests_total",
        "counter",
        "Requests that the kernel sent again.",
    ),
    (
        ("last_gap_seconds",),
        "last_gap_seconds",
        "gauge",
        "How long requests waited in the last restart.",
    ),
    (("regions",), "regions", "gauge", "Regions that exist."),
    (("mappings",), "mappings", "gauge", "Mappings in all regions."),
    (("open_handles",), "open_handles", "gauge", "Open files of regions."),
    (("inodes", "used"), "inodes", "gauge", "Names in use."),
    (("inodes", "limit"), "inodes_limit", "gauge", "Names that there may be."),
    (("arena", "size"), "memory_size_bytes", "gauge", "Memory that the mount may use."),
    (("arena", "used"), "memory_used_bytes", "gauge", "Memory in use."),
    (("arena", "reserved"), "memory_reserved_bytes", "gauge", "Memory reserved for mappings."),
    (("arena", "limit"), "memory_limit_bytes", "gauge", "Memory that may be in use right now."),
)


def exposition(status: Mapping[str, Any]) -> str:
    """Every metric of one mount, each line labelled with the mount point."""
    mountpoint = status.get("mount", {}).get("mountpoint", "")
    return "".join(f"{line}\n" for line in _lines(status, {"mountpoint": mountpoint}))


def _lines(status: Mapping[str, Any], labels: dict[str, str]) -> Iterator[str]:
    version, plane = status.get("version"), status.get("data_plane", {}).get("name")
    if version is not None:
        yield from _head("info", "gauge", "Always 1; the version and the data plane are labels.")
        yield _sample("info", labels | {"version": version, "data_plane": str(plane)}, 1)
    for path, name, kind, text in _SIMPLE:
        value = _at(status, path)
        if value is not None:
            yield from _head(name, kind, text)
            yield _sample(name, labels, value)
    operations = status.get("operations", {})
    if operations:
        yield from _operations(operations, labels)


def _operations(counters: Mapping[str, Any], labels: dict[str, str]) -> Iterator[str]:
    """Counters and latency: a histogram where the status has buckets, else sum and count."""
    by_name = [(labels | {"operation": name}, counter) for name, counter in counters.items()]
    yield from _head("operations_total", "counter", "Requests answered.")
    for each, counter in by_name:
        yield _sample("operations_total", each, counter["count"])
    yield from _head("operation_errors_total", "counter", "Requests that were refused.")
    for each, counter in by_name:
        yield _sample("operation_errors_total", each, counter["errors"])
    name = "operation_duration_seconds"
    kind = "histogram" if all("buckets" in counter for _, counter in by_name) else "summary"
    yield from _head(name, kind, "Time from reading a request to its answer.")
    for each, counter in by_name:
        if kind == "histogram":
            yield from _buckets(name, each, counter)
        yield _sample(f"{name}_sum", each, counter["seconds"])
        yield _sample(f"{name}_count", each, counter["count"])


def _buckets(name: str, labels: dict[str, str], counter: Mapping[str, Any]) -> Iterator[str]:
    """`buckets` maps upper bounds in seconds to how many requests took at most so long."""
    bounds = sorted(counter["buckets"].items(), key=lambda item: float(item[0]))
    for bound, count in bounds:
        yield _sample(f"{name}_bucket", labels | {"le": f"{float(bound):g}"}, count)
    yield _sample(f"{name}_bucket", labels | {"le": "+Inf"}, counter["count"])


def _at(document: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = document
    for key in path:
        if not isinstance(value, dict) or key not in value:
            return None
        value = value[key]
    return value if isinstance(value, (int, float)) else None


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP msharefs_{name} {text}"
    yield f"# TYPE msharefs_{name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"msharefs_{name}{{{inside}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
