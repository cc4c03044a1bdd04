"""The endpoint for metrics, and what those who reach its port cannot do to the server."""

from __future__ import annotations

import errno
import socket
import threading
import urllib.request
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import trio

from msharefs.daemon import metrics_endpoint
from msharefs.daemon.metrics_endpoint import CONNECTIONS, publish

STATUS = {"mount": {"mountpoint": "/mnt/m"}, "regions": 7}
LOOPBACK = "127.0.0.1"


@asynccontextmanager
async def endpoint(address: str = LOOPBACK) -> AsyncIterator[int]:
    """A port where it is served."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish, address, port, lambda: STATUS)
        with trio.fail_after(10):
            while not await trio.to_thread.run_sync(listens, address, port):
                await trio.lowlevel.checkpoint()
        yield port
        nursery.cancel_scope.cancel()


def listens(address: str, port: int) -> bool:
    """Whether somebody is there."""
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


async def scrape(port: int, address: str = LOOPBACK) -> str:
    """As Prometheus does."""

    def fetch() -> str:
        with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=10) as answer:
            text: bytes = answer.read()
            return text.decode()

    return await trio.to_thread.run_sync(fetch)


def test_an_address_that_cannot_be_had_is_found_out() -> None:
    """One that is taken, and one that is not this machine's (192.0.2.0/24 is nobody's)."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError) as caught:
            metrics_endpoint.check(LOOPBACK, port)
        assert caught.value.errno == errno.EADDRINUSE
    metrics_endpoint.check(LOOPBACK, port)
    with pytest.raises(OSError) as caught:
        metrics_endpoint.check("192.0.2.1", port)
    assert caught.value.errno == errno.EADDRNOTAVAIL


async def ended(connection: socket.socket) -> None:
    """Wait until the other side has closed it."""
    connection.settimeout(5)
    assert await trio.to_thread.run_sync(connection.recv, 1) == b""


def start(port: int) -> socket.socket:
    """A request that does not come to its end."""
    connection = socket.create_connection((LOOPBACK, port), timeout=5)
    connection.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    return connection


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
async def test_metrics_are_served(address: str) -> None:
    """The status of the moment."""
    async with endpoint(address) as port:
        assert 'msharefs_regions{mountpoint="/mnt/m"} 7.0' in await scrape(port, address)


async def test_idle_connections_take_a_few_threads_and_stop_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Long before their time is over the oldest are ended; a scrape comes through."""
    monkeypatch.setattr(metrics_endpoint, "SECONDS", 1000)
    async with endpoint() as port:
        before = threading.active_count()
        with ExitStack() as stack:
            idle = [stack.enter_context(start(port)) for _ in range(10 * CONNECTIONS)]
            for connection in idle[:-CONNECTIONS]:
                await ended(connection)
            assert "msharefs_regions" in await scrape(port)
            # One of Python's own for what runs in a thread here.
            with trio.fail_after(10):
                while threading.active_count() > before + CONNECTIONS + 2:
                    await trio.lowlevel.checkpoint()


async def drip(connection: socket.socket) -> None:
    """A byte now and then, until that is an error."""
    while True:
        connection.sendall(b"x")
        await trio.sleep(0.01)


async def test_a_connection_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that never waits long for its next byte."""
    monkeypatch.setattr(metrics_endpoint, "SECONDS", 0.2)
    async with endpoint() as port:
        with start(port) as connection, trio.fail_after(10):
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await drip(connection)


async def test_a_port_that_is_taken_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The mount goes on without."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        await publish(LOOPBACK, taken.getsockname()[1], lambda: STATUS)
    assert "no metrics at 127.0.0.1" in caplog.text
