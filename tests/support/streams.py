"""Streams for the tests of content without files, and what must hold after each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncsink

PART_BYTES = 5 << 20
SMALLEST: dict[str, Any] = {"part_size_bytes": PART_BYTES, "memory_bytes": PART_BYTES}
"""The smallest parts, and memory for one of them."""
TRUTHS = {"bytes", "stream"}


def body_of(size: int, seed: int = 7) -> bytes:
    """Bytes that differ from part to part."""
    block = bytes((index * 31 + seed) % 251 for index in range(65_521))
    return (block * (size // len(block) + 1))[:size]


async def pieces(data: bytes, size: int = 1 << 18) -> AsyncIterator[bytes]:
    """The data, piece by piece; other tasks run between them."""
    for start in range(0, len(data), size):
        await asyncio.sleep(0)
        yield data[start : start + size]


async def breaking(data: bytes, error: BaseException) -> AsyncIterator[bytes]:
    """The data, and then an exception."""
    async for piece in pieces(data):
        yield piece
    raise error


class Reader:
    """Something with an asynchronous `read`."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    async def read(self, size: int, /) -> memoryview:
        """The next bytes."""
        found, self._data = self._data[:size], self._data[size:]
        return found


def budget_of(sink: asyncsink.AsyncSink) -> Any:
    """The byte budget of an open sink."""
    run = sink._session.run
    assert run is not None
    return run.resources.budget


def nothing_is_held(sink: asyncsink.AsyncSink) -> None:
    """No memory, no key and no stream is left over."""
    run = sink._session.run
    assert run is not None
    assert run.resources.budget.held_bytes == 0
    assert not run.resources.budget.wanted
    assert repr(run.resources.key_turns) == "<KeyTurns of 0 keys>"
    assert repr(sink._session._contents) == "<Contents: 0 in memory, 0 streams>"
    assert run.resources.progress.objects_in_hand == 0
    assert run.resources.progress.bytes_under_way == 0


def causes_of(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__
