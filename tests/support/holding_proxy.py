"""A proxy before the real server that writes down what is asked, and keeps a request or its answer back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from asyncsink.testing.peers import CannedPeer

Held = Literal["request", "answer", "lost", ""]


def operation_of(method: str, query: str) -> str:
    """S3's name of a request, and the number of the part where it is about one."""
    has = parse_qs(query, keep_blank_values=True)
    if "partNumber" in has and method == "PUT":
        return f"UploadPart {has['partNumber'][0]}"
    if "uploadId" in has:
        return {"POST": "Complete", "DELETE": "Abort", "GET": "ListParts"}[method]
    if "uploads" in has:
        return "Create" if method == "POST" else "ListUploads"
    return {"GET": "List", "HEAD": "Head", "PUT": "Put"}[method]


class HoldingProxy(CannedPeer):
    """Passes everything on; `hold` says of each operation whether its request, or its answer, is kept back for ever,
    or its answer lost with the connection.

    Attributes:
        seen: the operations that came, in their order.
        keys: the path of each of them, bucket included.
        queries: the query string of each of them.
        held: set when something is kept back; where it is an answer, the server has done what it was asked.
    """

    def __init__(self, server_url: str, hold: Callable[[str], Held] = lambda _: "") -> None:
        super().__init__(b"")
        server = urlsplit(server_url)
        self._place = server.hostname, server.port
        self.hold = hold
        self.seen: list[str] = []
        self.keys: list[str] = []
        self.queries: list[str] = []
        self.held = asyncio.Event()

    @property
    def parts(self) -> list[int]:
        """Numbers of the parts that came, sorted."""
        return self.parts_of("")

    def parts_of(self, key: str) -> list[int]:
        """Numbers of the parts that came for keys that end in `key`, sorted."""
        came = zip(self.seen, self.keys, strict=True)
        return sorted(
            int(name.split()[1]) for name, path in came if name.startswith("UploadPart") and path.endswith(key)
        )

    def forget(self) -> None:
        """Begin anew: nothing was seen, and nothing is held."""
        self.seen.clear()
        self.keys.clear()
        self.queries.clear()
        self.held.clear()
        self.hold = lambda _: ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        there_reader, there_writer = await asyncio.open_connection(*self._place)
        keep: list[Held] = []
        back = asyncio.create_task(self._pass_back(there_reader, writer, keep))
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
                name = operation_of(method, urlsplit(target).query)
                self.seen.append(name)
                self.keys.append(urlsplit(target).path)
                self.queries.append(urlsplit(target).query)
                held = self.hold(name)
                if held == "request":
                    self.held.set()
                    await asyncio.Event().wait()
                if held in ("answer", "lost"):
                    keep.append(held)
                lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                there_writer.write(head)
                there_writer.write(await reader.readexactly(int(lines[0][15:]) if lines else 0))
                await there_writer.drain()
        finally:
            there_writer.transport.abort()
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)

    async def _pass_back(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: list[Held]) -> None:
        while data := await there.read(65536):
            if keep == ["lost"]:
                writer.transport.abort()
                return
            if keep:
                self.held.set()
                await asyncio.Event().wait()
            writer.write(data)
            await writer.drain()
