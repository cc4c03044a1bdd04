"""What server, broker and helpers say to one another: JSON and descriptors, a message a packet.

Owns the form of the messages. All are of one version: a broker is replaced with its server when
other code is installed, and helpers are forks of the broker.

    server to broker    {"uid": U, "writes": WHETHER}                          and a socket: the helper's
    server to helper    {"have": {"thread": T, "uid": U, "gid": G, "descriptor": D}}
    helper to server    {"file": {...}}                                        what it has
    server to helper    {"read": [[WHICH, START, FILE_OFFSET, SIZE], ...]}     and descriptors: WHICH of these
    helper to server    {"read": BYTES}, again and again, then {"done": true}
    server to helper    {"measure": [FILE_OFFSET, SIZE]}
    helper to server    {"data": BYTES}, again and again, then {"done": true, "data": BYTES}
    server to helper    {"fill": [[WHICH, START, FILE_OFFSET, SIZE], ...]}     as "read", without memory for holes and zeros
    server to helper    {"remember": [FILE_OFFSET, SIZE]}                      before "read": {"done": true}
    server to helper    {"record": true}                                       {"done": true} and the file and its record
    server to helper    {"close": true}                                        and then perhaps "have" again
    server to writer    {"write": [START, FILE_OFFSET, SIZE]}                  and the file, its record, the segment
    writer to server    {"busy": true}, again and again, then {"done": [WRITTEN, BOTH, UNWRITTEN, ERRNO]}
    server to writer    {"count": [START, FILE_OFFSET, SIZE]}                  and the file, its record, the segment
    writer to server    {"busy": true}, again and again, then {"done": CHANGED}
    server to writer    {"sync": true}                                         and the file and its record
    writer to server    {"synced": true}
    server to keeper    {"keep": NUMBER}                                       and the file and its record
    server to keeper    {"give": NUMBER} or {"forget": [NUMBER, ...]}
    keeper to server    {"of": NUMBER}                                         and what was asked for
    both to server      {"errno": N, "why": "a sentence"}                      instead of any of them
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

LARGEST = 1 << 16
"""Bytes of a message."""
PIECES = 500
"""In one message at most; a piece takes up to 80 bytes of it."""
MOST_DESCRIPTORS = 8

Some = TypeVar("Some")


class Wanted(NamedTuple):
    """Whose descriptor: that of a thread of this user, as the kernel has told of him."""

    thread: int
    uid: int
    gid: int
    descriptor: int


class Facts(NamedTuple):
    """What was seen of a file: see core's port OpenFile."""

    mode: int
    flags: int
    seals: int
    file_system: str
    device: int
    inode: int
    path: str


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as the bytes of a packet."""
    return json.dumps(message).encode()


def decode(packet: bytes) -> dict[str, Any]:
    """The message in a packet; an empty one where there is none, because the sender is gone."""
    message: dict[str, Any] = json.loads(packet) if packet else {}
    return message


def failure(error: OSError) -> dict[str, Any]:
    """The message that says why something cannot be done."""
    return {"errno": error.errno, "why": error.strerror or str(error)}


def send(
    conversation: socket.socket, message: Mapping[str, Any], descriptors: Sequence[int] = ()
) -> None:
    """Raises OSError where the other side is gone."""
    socket.send_fds(conversation, [encode(message)], descriptors)


def receive(conversation: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors, which are the receiver's now. Raises OSError."""
    packet, descriptors, _flags, _address = socket.recv_fds(
        conversation, LARGEST, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    return decode(packet), descriptors


def close(descriptors: Iterable[int]) -> None:
    """Let go of what came with a message."""
    for fd in descriptors:
        with suppress(OSError):
            os.close(fd)


def batches(pieces: Sequence[Some]) -> Iterator[Sequence[Some]]:
    """Pieces of memory, or numbers, in parts that a message has room for."""
    for first in range(0, len(pieces), PIECES):
        yield pieces[first : first + PIECES]
