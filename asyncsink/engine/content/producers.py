"""The pieces of a stream, whatever gives them: an async iterable, an async reader, or a file object read in threads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Final

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.errors import ConfigError
from asyncsink.options.settings import MIB

PIECE_BYTES: Final = MIB
"""Bytes that a reader is asked for at a time: a call to a thread costs less than copying them."""


def stream_pieces(stream: Any, limiter: CapacityLimiter) -> AbstractAsyncContextManager[AsyncIterator[Any]]:
    """The pieces of a stream, for the duration of a block. What is neither kind of bytes is given on as it is.

    A `read` comes before an iterator, because readers are iterated by lines. An async generator that is not at its end
    when the block is left is closed. A file object is read in threads; cancelled, it abandons the thread, which may
    hang in the file system.

    Raises:
        ConfigError: this is no stream of bytes.
    """
    read = getattr(stream, "read", None)
    if callable(read):
        # What there is, where `read` would wait for all that was asked for, as on a pipe.
        available = getattr(stream, "read1", None)
        return _read(available if callable(available) and not iscoroutinefunction(read) else read, limiter)
    if hasattr(stream, "__aiter__"):
        return _iterated(stream)
    advice = "await `put_bytes` with it"
    if isinstance(stream, str) or hasattr(stream, "__fspath__"):
        advice = "a path is for `put`; give the opened file"
    elif hasattr(stream, "__iter__") and not isinstance(stream, (bytes, bytearray, memoryview)):
        advice = "make its iterator an async one"
    raise ConfigError(
        f"The stream is of type {type(stream).__name__}; expected an async iterable of bytes, an object with an "
        f"async `read`, or a file opened in binary mode: {advice}."
    )


@asynccontextmanager
async def _iterated(stream: AsyncIterable[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    iterator = aiter(stream)
    try:
        yield iterator
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()


@asynccontextmanager
async def _read(read: Callable[[int], Any], limiter: CapacityLimiter) -> AsyncIterator[AsyncIterator[Any]]:
    async with aclosing(_pieces_read(read, limiter)) as pieces:
        yield pieces


async def _pieces_read(read: Callable[[int], Any], limiter: CapacityLimiter) -> AsyncGenerator[Any, None]:
    blocks = not iscoroutinefunction(read)
    while True:
        if blocks:
            call = partial(read, PIECE_BYTES)
            piece = await anyio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
        else:
            piece = read(PIECE_BYTES)
        if isawaitable(piece):
            # Not every asynchronous `read` is a coroutine function: the next one need not come from a thread.
            piece, blocks = await piece, False
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            yield piece
            if piece is None or isinstance(piece, str):
                return
        elif not len(piece):
            return
        else:
            yield piece
