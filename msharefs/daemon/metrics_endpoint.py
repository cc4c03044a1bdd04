"""The optional Prometheus endpoint (-o metrics=ADDRESS:PORT).

Owns the HTTP server, which is prometheus_client's, in a thread of its own. Names and
values are those of msharefs.prometheus; the status is asked for in the loop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio

from msharefs.prometheus import collector

log = logging.getLogger(__name__)


async def publish(address: str, port: int, status: Callable[[], dict[str, Any]]) -> None:
    """Serve metrics until cancelled. An address that is taken is logged: the mount is more
    important than its figures."""
    # Few mounts have an endpoint, and the import costs each start of a server.
    from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415 - see above

    token = trio.lowlevel.current_trio_token()
    registry = CollectorRegistry()
    registry.register(collector(lambda: trio.from_thread.run_sync(status, trio_token=token)))
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
