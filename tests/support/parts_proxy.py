"""A proxy before a real S3 server that decides what becomes of each UploadPart, PutObject and Complete on its way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from asyncsink.options.settings import MIB
from asyncsink.testing.peers import CannedPeer

WHOLE: Final = 0
"""The number of a PutObject."""
FORWARD: Final = None
"""The part arrives."""
DROP: Final = b""
"""A MiB of it is read, and the connection closed in the middle of the answer."""
LOSE: Final = b"lose"
"""The server does it, and its answer is lost: the connection is closed in the middle of it."""
HANG: Final = b"hang"
"""A MiB of it is read, and nothing more happens."""


class PartsProxy(CannedPeer):
    """Forwards everything but parts and whole objects as it is. Signatures stay valid: they hold the proxy's address.

    Args:
        server_url: the real server, "http://host:port".
        fate: told the number of each part that comes, or WHOLE; FORWARD, DROP, LOSE, HANG, or an answer (whole, as
            `canned` makes it) that the server is never asked for.
        complete: the same for each CompleteMultipartUpload.
    """

    def __init__(
        self,
        server_url: str,
        fate: Callable[[int], bytes | None],
        complete: Callable[[], bytes | None] = lambda: FORWARD,
    ) -> None:
        super().__init__(b"")
        server = urlsplit(server_url)
        self._place = server.hostname, server.port
        self._fate = fate
        self._complete = complete
        self.parts: list[int] = []
        """Numbers of the parts that came, in their order."""
        self.hung = asyncio.Event()
        """Set when a part hangs."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        there_reader, there_writer = await asyncio.open_connection(*self._place)
        back = asyncio.create_task(_copy(there_reader, writer))
        try:
            while (fate := await self._serve_one(reader, writer, there_writer, back)) is True:
                pass
            if fate == LOSE:
                answer = b""
                while b"etag" not in answer.lower() and (data := await there_reader.read(65536)):
                    answer += data
                writer.write(b"HTTP/1.1 20")
                await writer.drain()
        finally:
            there_writer.transport.abort()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async def _serve_one(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> bool | bytes:
        """Whether the connection goes on; LOSE where the answer that comes now is to be lost."""
        head = await reader.readuntil(b"\r\n\r\n")
        fate = FORWARD
        if head.startswith(b"PUT "):
            found = re.match(rb"PUT \S+[?&]partNumber=(\d+)", head)
            number = int(found[1]) if found else WHOLE
            self.parts.append(number)
            fate = self._fate(number)
        elif head.startswith(b"POST ") and b"uploadId=" in head.partition(b"\r\n")[0]:
            fate = self._complete()
        lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lines[0][15:]) if lines else 0
        if fate in (DROP, HANG):
            await reader.readexactly(min(length, MIB))
            if fate == HANG:
                self.hung.set()
                await asyncio.Event().wait()
            # Without a word, a kept connection would be taken for one that had gone stale.
            writer.write(b"HTTP/1.1 20")
            await writer.drain()
            return False
        if fate == LOSE:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
        forwarded = fate in (FORWARD, LOSE)
        if forwarded:
            there.write(head)
        while length:
            data = await reader.read(min(length, 1 << 18))
            if not data:
                return False
            length -= len(data)
            if forwarded:
                there.write(data)
                await there.drain()
        if not forwarded and fate is not None:
            writer.write(fate)
        return LOSE if fate == LOSE else True


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
