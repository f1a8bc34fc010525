"""Peers on loopback that misbehave: silent, scripted, gating and acting ones, and a proxy that admits by rule.

All are async context managers; leaving the block closes every connection.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from time import gmtime, monotonic, strftime, time
from typing import Final, Self
from urllib.parse import urlsplit

from asyncsink.options.settings import Secret
from asyncsink.s3.http.signing import Signer, canonical_headers
from asyncsink.value import dataclass

_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def canned(status: int, body: bytes, *headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class _Peer:
    """A TCP server on 127.0.0.1; leaving the block ends all of its connections."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.connections_total = 0
        """Connections accepted so far."""
        self.accepted = asyncio.Event()
        """Set by the first connection."""

    @property
    def endpoint_url(self) -> str:
        """http://127.0.0.1:port, or https."""
        assert self._server is not None, "enter the block first"
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one connection."""
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
            # The peer went away, or the block was left: both are intended.
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)


class SilentPeer(_Peer):
    """Accepts connections and never answers; reads nothing, or with `reading=True` everything."""

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
    """Reads each request whole, then writes the next of `answers` (the last one repeatedly).

    Args:
        answers: raw bytes, status line and headers included; b"" closes the connection without an answer.
        hang_up: close the connection after the answer, even if that is incomplete.
        tls: use TLS with this server-side context.
    """

    def __init__(self, *answers: bytes, hang_up: bool = True, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self._answers = list(answers)
        self._hang_up = hang_up
        self.heads: list[bytes] = []
        """Request line and headers of each request."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the client, or `hang_up`, ends the connection."""
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

    Then it stops reading, sets `held`, and waits for `release`. Bytes that arrive later are counted in `late_bytes` and
    discarded, and the connection to the server is cut, as when the client's machine fails in mid-body.
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
    """A peer that applies a function to each connection.

    Args:
        serve: the function.
        receive_bytes: most bytes that the kernel receives ahead of the function; 0 leaves that to the kernel.
    """

    def __init__(self, serve: _Handler, *, receive_bytes: int = 0) -> None:
        super().__init__()
        self._act = serve
        self._receive_bytes = receive_bytes

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        assert self._server is not None
        for listening in self._server.sockets if self._receive_bytes else ():
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_bytes)
        return self

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Call the function."""
        await self._act(reader, writer)


# -- A proxy before a real S3 server that checks every request, answers some itself, and signs the others anew ---------
# With signatures of its own it can impose conditions that the server does not have: expiring credentials, another
# clock, a rate limit. It checks clients' signatures first, so nothing passes that S3 would refuse.

READ_BYTES: Final = 256 * 1024
_REPLACED: Final = ("authorization", "x-amz-date", "x-amz-security-token")
_CREDENTIAL: Final = re.compile(r"Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+), ?")
_STAMP: Final = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials that a server accepts or issues."""

    access_key_id: str
    secret_access_key: Secret
    session_token: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """The head of a request.

    Attributes:
        method, target: of the request line; the target is path and query as they were sent.
        headers: lower-case names, in order.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def header(self, name: str) -> str:
        """The value of a header, or ""."""
        return next((value for known, value in self.headers if known == name), "")

    @property
    def stamp(self) -> str:
        """The client's time, "20260131T235959Z"."""
        return self.header("x-amz-date")

    def signed_by(self, identity: Identity) -> bool:
        """Whether these credentials signed it (S3 API, "Authenticating Requests: Authorization Header")."""
        said = self.header("authorization")
        if (known := _CREDENTIAL.search(said)) is None or self.header("x-amz-security-token") != identity.session_token:
            return False
        wanted = self.signature(identity, known[3], tuple(known[4].split(";")), self.stamp)
        return wanted.rpartition("=")[2] == said.rpartition("=")[2] and known[1] == identity.access_key_id

    def signature(self, identity: Identity, region: str, names: tuple[str, ...], stamp: str) -> str:
        """The Authorization header that `identity` would send."""
        path, _, query = self.target.partition("?")
        block, listed = canonical_headers((name, self.header(name)) for name in names)
        return Signer(identity.access_key_id, identity.secret_access_key, region).authorization(
            method=self.method,
            path=path,
            query="&".join(sorted(pair if "=" in pair else f"{pair}=" for pair in query.split("&") if pair)),
            headers=block,
            header_names=listed,
            payload_hash=self.header("x-amz-content-sha256"),
            timestamp=stamp,
        )


Admit = Callable[[Asked], Awaitable[bytes | None]]


class AdmittingProxy(ActingPeer):
    """An async context manager; `endpoint_url` is the endpoint of clients.

    Args:
        server_url: the real server, "http://host:port".
        identity: credentials that the real server accepts.
        admit: called with the head of each request, may wait. None forwards the request; an answer (whole, as from
            `canned`) is sent instead, once the request's body has arrived.
        region: of the real server's signatures.
        clock_offset_seconds: how far this server's clock, in its Date headers, is ahead.
    """

    def __init__(
        self,
        server_url: str,
        identity: Identity,
        admit: Admit,
        *,
        region: str = "us-east-1",
        clock_offset_seconds: float = 0.0,
    ) -> None:
        super().__init__(self._serve_connection)
        server = urlsplit(server_url)
        self._place = server.hostname or "", server.port or 80
        self._identity = identity
        self._admit = admit
        self._region = region
        self._offset = clock_offset_seconds
        self.received_bytes = 0
        """Heads and bodies of requests so far."""
        self.arrivals: list[tuple[float, int]] = []
        """Times (time.monotonic), each with `received_bytes` at that time."""
        self.refused: list[Asked] = []
        """Requests that were answered here."""
        self.forwarded: list[Asked] = []

    def clock(self) -> float:
        """This server's time, in seconds since the epoch."""
        return time() + self._offset

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._place)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self._count(len(head))
                asked = _parse(head)
                answer = await self._admit(asked)
                if answer is None:
                    self.forwarded.append(asked)
                    there_writer.write(self._signed_anew(asked))
                else:
                    self.refused.append(asked)
                await self._take_body(reader, int(asked.header("content-length") or 0), answer is None, there_writer)
                if answer is None:
                    await self._answer(there_reader, writer, bodiless=asked.method == "HEAD")
                else:
                    first, rest = answer.split(b"\r\n", 1)
                    head, _, body = b"\r\n".join((first, self._date(), rest)).partition(b"\r\n\r\n")
                    writer.write(head + b"\r\n\r\n" + (b"" if asked.method == "HEAD" else body))
                await writer.drain()
        finally:
            there_writer.transport.abort()

    async def _take_body(
        self, reader: asyncio.StreamReader, length: int, forward: bool, there: asyncio.StreamWriter
    ) -> None:
        while length:
            data = await reader.read(min(length, READ_BYTES))
            if not data:
                raise asyncio.IncompleteReadError(b"", length)
            self._count(len(data))
            length -= len(data)
            if forward:
                there.write(data)
                await there.drain()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, *, bodiless: bool) -> None:
        lines = (await there.readuntil(b"\r\n\r\n")).split(b"\r\n")
        told = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip() for line in lines[1:]}
        writer.write(b"\r\n".join([self._date() if line[:5].lower() == b"date:" else line for line in lines]))
        if bodiless or lines[0].split()[1] in (b"204", b"304"):
            return
        if told.get(b"transfer-encoding") == b"chunked":
            size = -1
            while size:
                line = await there.readuntil(b"\r\n")
                size = int(line, 16)
                writer.write(line + await there.readexactly(size + 2))
            return
        writer.write(await there.readexactly(int(told[b"content-length"])))

    def _count(self, size_bytes: int) -> None:
        self.received_bytes += size_bytes
        self.arrivals.append((monotonic(), self.received_bytes))

    def _date(self) -> bytes:
        return b"Date: " + formatdate(self.clock(), usegmt=True).encode()

    def _signed_anew(self, asked: Asked) -> bytes:
        stamp = strftime(_STAMP, gmtime())
        kept = tuple((name, value) for name, value in asked.headers if name not in _REPLACED)
        headers = (*kept, ("x-amz-date", stamp))
        signed = Asked(asked.method, asked.target, headers)
        names = tuple(name for name, _ in headers if name in ("host", "content-md5") or name.startswith("x-amz-"))
        authorization = signed.signature(self._identity, self._region, names, stamp)
        lines = [f"{asked.method} {asked.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in (*headers, ("authorization", authorization))]
        return "\r\n".join((*lines, "", "")).encode("latin-1")


def refusal(status: int, code: str, *headers: str) -> bytes:
    """A whole S3 error answer, for an `Admit` function."""
    return canned(status, f"<Error><Code>{code}</Code><Message>told by the proxy</Message></Error>".encode(), *headers)


def _parse(head: bytes) -> Asked:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines if line)
    return Asked(method, target, tuple((name.lower(), value.strip()) for name, _, value in pairs))
