"""The optional Prometheus endpoint (-o metrics=ADDRESS:PORT).

Owns the HTTP server, with a thread for each connection, and the bounds on how many there are
and how long they last: whoever reaches the port has a few threads of the server at most. What
answers is prometheus_client's; names and values are those of msharefs.prometheus. The status
is asked for in the loop.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import trio

from msharefs.prometheus import collector

log = logging.getLogger(__name__)

CONNECTIONS = 8
"""The most at a time. One more ends the oldest: so a scrape, which takes milliseconds, comes
through however many idle ones there are."""
SECONDS = 10.0
"""That a connection may last."""


async def publish(address: str, port: int, status: Callable[[], dict[str, Any]]) -> None:
    """Serve metrics until cancelled. An address that is taken is logged: the mount, which had it
    when it was made, is more important than its figures."""
    # Few mounts have an endpoint, and the import costs each start of a server.
    from prometheus_client import CollectorRegistry, make_wsgi_app  # noqa: PLC0415 - see above

    token = trio.lowlevel.current_trio_token()
    registry = CollectorRegistry()
    registry.register(collector(lambda: trio.from_thread.run_sync(status, trio_token=token)))
    try:
        # In a thread, because a name may have to be looked up.
        server = await trio.to_thread.run_sync(_Server, address, port)
    except OSError as error:
        log.error("no metrics at %s:%d: %s", address, port, error)
        return
    server.set_app(make_wsgi_app(registry))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log.info("metrics at http://%s:%d/metrics", address, port)
    try:
        await trio.sleep_forever()
    finally:
        # A scrape in hand waits for the loop, so the loop cannot wait for its thread.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(server.shutdown)
        server.server_close()


def check(address: str, port: int) -> None:
    """Raises OSError where metrics cannot be served at this moment."""
    family, where = _place(address, port)
    socket.create_server(where, family=family).close()


def _place(address: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """The first that a name stands for. Raises OSError."""
    (family, *_rest, where), *_others = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    return family, (str(where[0]), port)


class _Handler(WSGIRequestHandler):
    """One connection, without a line in the log for each request."""

    timeout = SECONDS
    """That a single read may wait."""

    def log_message(self, format: str, *words: Any) -> None:  # noqa: A002 - the base's name
        """Scrapes are no events."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, within the bounds."""

    daemon_threads = True
    # Threads of its own are not waited for: the process ends without them.
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: str, port: int) -> None:
        """Listen there. Raises OSError."""
        self.address_family, where = _place(address, port)
        self._lock = threading.Lock()
        # When each began (time.monotonic), the oldest first.
        self._connections: dict[socket.socket, float] = {}
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        """Without looking up our own name, as HTTPServer would."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = map(str, self.server_address[:2])  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """A new connection."""
        with self._lock:
            if len(self._connections) >= CONNECTIONS:
                self._end(next(iter(self._connections)))
            self._connections[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Each half second."""
        with self._lock:
            now = time.monotonic()
            for connection in [
                c for c, began in self._connections.items() if began + SECONDS < now
            ]:
                self._end(connection)

    def shutdown_request(self, request: Any) -> None:
        """A connection has come to its end."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base's
        """What a client does wrong is not worth more."""
        log.debug("a connection for metrics failed: %r", sys.exception())

    def _end(self, connection: socket.socket) -> None:
        """Its thread sees the end, and closes it."""
        del self._connections[connection]
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
