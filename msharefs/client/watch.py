"""Following the changes of a region's layout.

Owns `layouts`, which asks again and again. inotify cannot serve: the kernel reports what is
written to a file or done to its name, and an ioctl, which is how a layout changes, is neither.
One question is one short request of the mount, whatever the number of mappings.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msharefs.client.errors import translated
from msharefs.client.layout import read_moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from msharefs.client.layout import Layout, Moment, ReadAttribute
    from msharefs.client.region import Region


def layouts(
    region: Region, read: ReadAttribute, interval: float, timeout: float | None
) -> Iterator[Layout]:
    """The layout of `region` now, then each time it is another; see `Region.watch`."""
    with _until_closed(region):
        while True:
            seen = region.layout()
            yield seen
            deadline = None if timeout is None else time.monotonic() + timeout
            while _moment(region, read, seen.size) == seen.moment:
                pause = interval if deadline is None else min(interval, deadline - time.monotonic())
                if pause < 0:
                    return
                time.sleep(pause)


def _moment(region: Region, read: ReadAttribute, size: int) -> Moment:
    region.fileno()
    with translated("cannot watch the layout", region.path):
        return read_moment(read, size)


@contextmanager
def _until_closed(region: Region) -> Iterator[None]:
    """Whatever fails because another thread has closed the region is an end, not an error."""
    try:
        yield
    except (OSError, ValueError):
        if not region.closed:
            raise
