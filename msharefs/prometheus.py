"""The status of a mount as Prometheus metrics.

Owns their names: base units, totals that only grow. Metric families out of a status document,
each built once; what the document does not have is left out. The text format is
prometheus_client's, which is imported when something is asked for: it takes a quarter of a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector

Status = Mapping[str, Any]

# Where it is in the document, its name, what it is.
_GAUGES = (
    (("uptime",), "uptime_seconds", "Seconds since the daemon was started."),
    (("last_gap_seconds",), "last_gap_seconds", "How long requests waited in the last restart."),
    (("regions",), "regions", "Regions that exist."),
    (("mappings",), "mappings", "Mappings in all regions."),
    (("mappings_limit",), "mappings_limit", "Mappings that there may be in all regions."),
    (("files", "mapped"), "mapped_files", "Mappings of files in all regions."),
    (("files", "limit"), "mapped_files_limit", "Mappings of files that there may be."),
    (("open_handles",), "open_handles", "Open files of regions."),
    (("inodes", "used"), "inodes", "Names in use."),
    (("inodes", "limit"), "inodes_limit", "Names that there may be."),
    (("arena", "size"), "memory_size_bytes", "Memory that the mount may use."),
    (("arena", "used"), "memory_used_bytes", "Memory in use."),
    (("arena", "reserved"), "memory_reserved_bytes", "Memory reserved for mappings."),
    (("huge_pages", "collapsed"), "memory_huge_bytes", "Memory in pages of 2 MiB, as last seen."),
    (("arena", "limit"), "memory_limit_bytes", "Memory that may be in use right now."),
    (("user_limits", "size"), "user_memory_limit_bytes", "Memory that each user may have mapped."),
    (("user_limits", "inodes"), "user_inodes_limit", "Names that each user may have."),
    (("user_limits", "mappings"), "user_mappings_limit", "Mappings that each user may have."),
    (("user_limits", "files"), "user_mapped_files_limit", "Mappings of files that each may have."),
)
# Of each user.
_SHARES = (
    ("size", "user_memory_bytes", "Memory that is mapped in a user's regions."),
    ("inodes", "user_inodes", "Names of a user."),
    ("mappings", "user_mappings", "Mappings in a user's regions."),
    ("files", "user_mapped_files", "Mappings of files in a user's regions."),
)
_COUNTERS = (
    (("restarts",), "restarts", "How often the server was restarted."),
    (("resent_requests",), "resent_requests", "Requests that the kernel sent again."),
)
_REGION_GAUGES = (
    ("size", "size_bytes", "Size of the region, which costs nothing."),
    ("mapped", "mapped_bytes", "How much of the region is mapped."),
    ("reserved", "memory_reserved_bytes", "Memory reserved for the region's mappings."),
    ("mappings", "mappings", "Mappings in the region."),
    ("open_handles", "open_handles", "Open files of the region."),
)
_CHANGES = (
    ("maps", "maps", "CREATE_MAPPINGs that were done in the region."),
    ("unmaps", "unmaps", "UNMAPs that were done in the region."),
)


def exposition(status: Status) -> str:
    """Every metric of one mount in the text format, each line labelled with the mount point."""
    from prometheus_client import generate_latest  # noqa: PLC0415 - see above

    return generate_latest(collector(lambda: status)).decode()


def collector(read: Callable[[], Status]) -> Collector:
    """What gives the metrics of the status that `read` gives, anew each time it is asked."""
    from prometheus_client.registry import Collector  # noqa: PLC0415 - see above

    class StatusCollector(Collector):
        def collect(self) -> Iterator[Metric]:
            return families(read())

        def describe(self) -> Iterator[Metric]:
            """Nothing: else a registry would collect at once to learn the names."""
            return iter(())

    return StatusCollector()


def families(status: Status) -> Iterator[Metric]:
    """Every metric of one mount, each sample labelled with the mount point."""
    from prometheus_client.core import (  # noqa: PLC0415 - see above
        CounterMetricFamily,
        GaugeMetricFamily,
    )

    mountpoint = _text(status.get("mount", {}).get("mountpoint", ""))
    if "version" in status:
        words = {
            "mountpoint": mountpoint,
            "version": str(status["version"]),
            "data_plane": str(status.get("data_plane", {}).get("name")),
        }
        text = "Always 1; the version and the data plane are labels."
        info = GaugeMetricFamily("msharefs_info", text, labels=list(words))
        info.add_metric(list(words.values()), 1)
        yield info
    for kind, metrics in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
        for path, name, text in metrics:
            value = _at(status, path)
            if value is not None:
                family = kind(f"msharefs_{name}", text, labels=["mountpoint"])
                family.add_metric([mountpoint], value)
                yield family
    for key, name, text in _SHARES if status.get("users") else ():
        family = GaugeMetricFamily(f"msharefs_{name}", text, labels=["mountpoint", "uid"])
        for uid, share in status["users"].items():
            family.add_metric([mountpoint, uid], share[key])
        yield family
    if status.get("operations"):
        yield from _operations(status["operations"], mountpoint)
    if status.get("by_region"):
        yield from _regions(status["by_region"], mountpoint)


def _operations(counters: Mapping[str, Any], mountpoint: str) -> Iterator[Metric]:
    """Counters and latency: a histogram where the status has buckets, else sum and count."""
    from prometheus_client.core import (  # noqa: PLC0415 - see above
        CounterMetricFamily,
        HistogramMetricFamily,
        SummaryMetricFamily,
    )

    labels = ["mountpoint", "operation"]
    done = CounterMetricFamily("msharefs_operations", "Requests answered.", labels=labels)
    failed = CounterMetricFamily(
        "msharefs_operation_errors", "Requests that were refused.", labels=labels
    )
    name, text = "msharefs_operation_duration_seconds", "Time from reading a request to its answer."
    histogram = HistogramMetricFamily(name, text, labels=labels)
    summary = SummaryMetricFamily(name, text, labels=labels)
    has_buckets = all("buckets" in counter for counter in counters.values())
    for operation, counter in counters.items():
        values = [mountpoint, operation]
        done.add_metric(values, counter["count"])
        failed.add_metric(values, counter["errors"])
        if has_buckets:
            histogram.add_metric(values, _buckets(counter), counter["seconds"])
        else:
            summary.add_metric(values, counter["count"], counter["seconds"])
    yield from (done, failed, histogram if has_buckets else summary)


def _regions(regions: Sequence[Mapping[str, Any]], mountpoint: str) -> Iterator[Metric]:
    """The figures of each region that the status tells of, by its path on the mount."""
    from prometheus_client.core import (  # noqa: PLC0415 - see above
        CounterMetricFamily,
        GaugeMetricFamily,
    )

    labels = ["mountpoint", "region"]
    for kind, metrics in ((GaugeMetricFamily, _REGION_GAUGES), (CounterMetricFamily, _CHANGES)):
        for key, name, text in metrics:
            family = kind(f"msharefs_region_{name}", text, labels=labels)
            for region in regions:
                family.add_metric([mountpoint, _text(os.fsdecode(region["path"]))], region[key])
            yield family


def _buckets(counter: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Upper bounds in seconds, in order, each with how many requests took at most so long."""
    bounds = sorted((float(bound), count) for bound, count in counter["buckets"].items())
    return [*((f"{bound:g}", count) for bound, count in bounds), ("+Inf", counter["count"])]


def _text(path: str) -> str:
    """A path may hold bytes that are no UTF-8, which a label may not."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _at(document: Status, path: tuple[str, ...]) -> float | None:
    value: Any = document
    for key in path:
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value if isinstance(value, (int, float)) else None
