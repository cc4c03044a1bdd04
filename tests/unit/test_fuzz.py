"""Anything that a kernel could send, and what it never would: one answer each, and on it goes.

A sequence that fails is made shorter by hypothesis. The long run is `tests.survival.fuzz`.
"""

from __future__ import annotations

import struct

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from msharefs.fuse.kernel import Opcode
from tests.unit.support.fuzzing import PLANES, fuzzed
from tests.unit.support.planes import message
from tests.unit.support.requests import Requests

MOST_REQUESTS = 60
EXAMPLES = 60


@pytest.mark.parametrize("plane", PLANES)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_comes_is_answered_once(plane: str, data: st.DataObject) -> None:
    """No exception is left, the loop goes on, and what is counted is right."""
    count = data.draw(st.integers(1, MOST_REQUESTS))

    def choose(most: int) -> int:
        return data.draw(st.integers(0, most - 1))

    async def run() -> None:
        with trio.fail_after(60):
            async with fuzzed(PLANES[plane]()) as server:
                requests = Requests(choose, server.inodes)
                for _ in range(count):
                    await server.ask(requests.next())
                server.check_sums()

    trio.run(run)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("opcode", [int(opcode) for opcode in Opcode])
async def test_every_request_may_be_torn(plane: str, opcode: int) -> None:
    """At every byte of its body, and before it."""
    async with fuzzed(PLANES[plane]()) as server:
        for size in range(120):
            await server.ask(message(opcode, bytes(size), unique=2 + 2 * size))
        server.check_sums()


@pytest.mark.parametrize("length", [0, 1, 15, 39])
async def test_less_than_a_header_is_survived(
    length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody can be answered; one line."""
    async with fuzzed(PLANES["passthrough"]()) as server:
        await server.tell(bytes(length))
        await server.ask(message(Opcode.GETATTR, bytes(16)))
    assert [record.levelname for record in caplog.records] == ["ERROR"] * bool(length)


async def test_a_length_that_is_not_the_messages() -> None:
    """A header that says more, or less, than there is."""
    async with fuzzed(PLANES["passthrough"]()) as server:
        for said in (0, 39, 55, 57, 1 << 31):
            request = bytearray(message(Opcode.GETATTR, bytes(16)))
            struct.pack_into("<I", request, 0, said)
            await server.ask(bytes(request))
