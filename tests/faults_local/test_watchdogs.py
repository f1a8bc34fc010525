"""A peer that stops in any phase of a request is noticed within its limit, on every way that a body can take.

No lane sends `Expect: 100-continue`, so nobody waits for it; an interim answer that comes all the same is progress,
and the silence after it is watched like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from asyncsink.errors import ConnectionLost, RetryableError, Stalled
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.testing.peers import ActingPeer, SilentPeer, canned

pytestmark = pytest.mark.anyio
IMPATIENT = RetryPolicy(stall_seconds=0.3, complete_seconds=0.3, connect_seconds=0.3)
# A busy machine may take a second to connect.
CONNECTED = replace(IMPATIENT, connect_seconds=10)
STORED = canned(200, b"<ok/>", 'ETag: "e"')
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SIZES = [100, 24 * MIB]


@pytest.fixture
def unanswered() -> Iterator[str]:
    """The URL of a port where nobody accepts and no connection is completed: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_connecting(put_once: Any, unanswered: str) -> None:
    with pytest.raises(RetryableError):
        await put_once(unanswered, retry=IMPATIENT)


async def test_the_tls_handshake(put_once: Any) -> None:
    async with SilentPeer() as peer:
        with pytest.raises(RetryableError):
            await put_once(peer.endpoint_url.replace("http:", "https:"), retry=IMPATIENT)
        await peer.accepted.wait()  # which may be after the client has given up


async def test_the_body(put_once: Any) -> None:
    async with SilentPeer() as peer:
        with pytest.raises(Stalled, match=r"no byte moved for 0\.3 s"):
            await put_once(peer.endpoint_url, size=24 * MIB, retry=CONNECTED)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "told",
    [b"", CONTINUE, STORED[:9], STORED[:-8], STORED[:-1]],
    ids=["before the answer", "after an interim answer", "in the status line", "in the head", "in its body"],
)
async def test_the_answer(put_once: Any, told: bytes, size: int) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"expect:" not in head.lower()
        await reader.readexactly(size)
        writer.write(told)
        await asyncio.Event().wait()

    async with ActingPeer(serve) as peer:
        with pytest.raises(Stalled, match=r"no byte moved for 0\.3 s"):
            await put_once(peer.endpoint_url, size=size, retry=CONNECTED)


async def test_a_peer_that_hangs_up_instead(put_once: Any) -> None:
    """The other end of silence is told apart from it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with ActingPeer(serve) as peer:
        with pytest.raises(ConnectionLost):
            await put_once(peer.endpoint_url, size=24 * MIB)
