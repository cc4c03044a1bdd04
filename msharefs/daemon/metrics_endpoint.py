"""The optional Prometheus endpoint (-o metrics=ADDRESS:PORT).

Owns the HTTP server, which is prometheus_client's, in a thread of its own. Names and
values are those of msharefs.prometheus; the status is asked for in the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import trio

from msharefs.prometheus import exposition

log = logging.getLogger(__name__)


async def publish(address: str, port: int, status: Callable[[], dict[str, Any]]) -> None:
    """Serve metrics until cancelled. An address that is taken is logged: the mount is more
    important than its figures."""
    # Few mounts have an endpoint, and the import costs each start of a server.
    from prometheus_client import (  # noqa: PLC0415 - see above
        CollectorRegistry,
        Metric,
        start_http_server,
    )
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    token = trio.lowlevel.current_trio_token()

    class StatusCollector(Collector):
        def collect(self) -> Iterator[Metric]:
            text = exposition(trio.from_thread.run_sync(status, trio_token=token))
            yield from text_string_to_metric_families(text)

        def describe(self) -> Iterator[Metric]:
            """Nothing: else the registry would collect at once, in the loop that is asked."""
            yield from ()

    registry = CollectorRegistry()
    registry.register(StatusCollector())
    try:
        server, _thread = start_http_server(port, address, registry)
    except OSError as error:
        log.error("no metrics at %s:%d: %s", address, port, error)
        return
    log.info("metrics at http://%s:%d/metrics", address, port)
    try:
        await trio.sleep_forever()
    finally:
        # A scrape in hand waits for the loop, so the loop cannot wait for its thread.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.shutdown)
        server.server_close()
