"""Peers on loopback that misbehave on purpose: one that never answers, one that says what it was told, and a gate.

All are async context managers; leaving the block closes every connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Self

_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Peer:
    """A TCP server on 127.0.0.1 whose connections are all ended when the block is left."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.connections_total = 0
        """Connections accepted so far."""
        self.accepted = asyncio.Event()
        """Set when the first one is."""

    @property
    def endpoint_url(self) -> str:
        """http://127.0.0.1:port, or https."""
        assert self._server is not None, "enter the block first"
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What happens to one connection."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections_total += 1
        self.accepted.set()
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self.serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # The other side went away, or the block was left: both are what these peers are for.
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)


class SilentPeer(_Peer):
    """Accepts connections, and neither reads nor answers. `reading=True` reads everything, and still never answers."""

    def __init__(self, *, reading: bool = False) -> None:
        super().__init__()
        self._reading = reading

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Wait until the block is left."""
        if self._reading:
            while await reader.read(65536):
                pass
            return
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()


class CannedPeer(_Peer):
    """Reads each request whole, then writes the next of `answers` (the last one again and again).

    Args:
        answers: raw bytes, status line and headers included; b"" closes the connection without a word.
        hang_up: close the connection after the answer, also when it is not whole.
        tls: speak TLS with this server-side context.
    """

    def __init__(self, *answers: bytes, hang_up: bool = True, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._answers = list(answers)
        self._hang_up = hang_up
        self.heads: list[bytes] = []
        """Request line and headers of each request."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the other side, or `hang_up`, ends it."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    await reader.readexactly(int(value))
            self.heads.append(head)
            writer.write(self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])
            await writer.drain()
            if self._hang_up:
                writer.close()
                return


class Gate(_Peer):
    """Forwards connections to a server, until `hold_after_bytes` of one connection were forwarded to it.

    Then it stops reading, sets `held`, and waits for `release`; what still arrives is counted in `late_bytes`, not
    forwarded, and the connection to the server is cut, as when the client's machine vanishes in mid-body.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._target = (host, port)
        self.hold_after_bytes: int | None = None
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.ended = asyncio.Event()
        """Set when the held client's side of the connection is closed or reset."""
        self.late_bytes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward both ways."""
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        back = asyncio.create_task(self._copy_back(there_reader, writer))
        try:
            forwarded = 0
            while data := await reader.read(16384):
                there_writer.write(data)
                await there_writer.drain()
                forwarded += len(data)
                if self.hold_after_bytes is not None and forwarded >= self.hold_after_bytes:
                    break
            else:
                return
            self.held.set()
            there_writer.transport.abort()
            await self.release.wait()
            try:
                while data := await reader.read(65536):
                    self.late_bytes += len(data)
            finally:
                self.ended.set()
        finally:
            there_writer.transport.abort()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async def _copy_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


class ActingPeer(_Peer):
    """A peer whose behaviour is a function of one connection."""

    def __init__(self, serve: _Handler) -> None:
        super().__init__()
        self._act = serve

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What the function does."""
        await self._act(reader, writer)
