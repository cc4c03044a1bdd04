"""A random client in a process of its own: forked, and asked at its end what it did."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable


def start_client(run: Callable[[], object]) -> tuple[int, int]:
    """Fork a process that calls `run`; its id, and the pipe on which it reports. What the
    client opens belongs to the child alone, so `run` makes the client, too."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.close(reader)
        answer: object
        try:
            answer = run()
        except BaseException as error:  # noqa: BLE001 - the parent reports it
            answer = repr(error)
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
    finally:
        os._exit(0)


def answer_of(pid: int, reader: int) -> object:
    """Wait for its end: what `run` returned, or a text that says what happened instead."""
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    status = os.waitpid(pid, 0)[1]
    answer: object = pickle.loads(text) if text else f"client {pid} ended with {status:#x}"
    return answer
