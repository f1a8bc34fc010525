"""Faults of a proxy in single requests: each toxic is a small frozen dataclass. See also s3_toxics.py.

The first seven have the names and meanings of toxiproxy (https://github.com/Shopify/toxiproxy), for one request instead
of one connection: `stream` "upstream" is the request's body, "downstream" the answer with its headers. All sizes are
bytes, all times seconds.

Each fault is recorded (`Passage.hit`) when it really happens: a byte of an empty body cannot be changed, and is not.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import field
from typing import Final, Literal, NoReturn
from urllib.parse import parse_qs, unquote

from asyncsink.value import dataclass

# -- Requests as a proxy before an S3 server reads them: operation, key, upload, part ----------------------------------
# Sources: RFC 9112 (messages and their framing); Amazon S3 API Reference, the request syntax of each operation. Bucket
# names are taken from the path ("path style"), as clients send them to a loopback address.

HEAD_BYTES_MAX: Final = 128 * 1024
"""Longest head of a request or an answer. A proxy's streams must be opened with this limit."""
PIECE_BYTES: Final = 16 * 1024
"""Most bytes forwarded at once."""

_OF_OBJECTS: Final = {
    # (method, a name in the query, or "" where none of the others occurs): operation
    ("PUT", "uploadId"): "UploadPart",
    ("PUT", ""): "PutObject",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("DELETE", ""): "DeleteObject",
    ("HEAD", ""): "HeadObject",
    ("GET", "uploadId"): "ListParts",
    ("GET", ""): "GetObject",
}
_OF_BUCKETS: Final = {
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", ""): "ListObjects",
    ("HEAD", ""): "HeadBucket",
    ("PUT", ""): "CreateBucket",
    ("DELETE", ""): "DeleteBucket",
    ("POST", "delete"): "DeleteObjects",
}


@dataclass(frozen=True, slots=True)
class Head:
    """A message before its body. `headers` has lower-case names; of a repeated one, the last value."""

    raw: bytes = field(repr=False)
    first_line: str
    headers: dict[str, str] = field(repr=False)

    @property
    def status(self) -> int:
        """The status of an answer."""
        return int(self.first_line.split(" ", 2)[1])

    @property
    def length(self) -> int | None:
        """Length of the body in bytes, or None without a Content-Length."""
        told = self.headers.get("content-length")
        return int(told) if told is not None else None

    @property
    def chunked(self) -> bool:
        """Whether the body has a transfer coding."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Its headers may hold secrets, and are not part of its repr.

    Attributes:
        operation: S3's name ("PutObject"), or "Unknown".
        bucket, key: unquoted; the key is "" for requests about a bucket.
        upload_id: of a multipart upload, or "".
        part_number: 0 for other requests.
        repeat: number of earlier requests with the same operation, key and part number.
        head: its first line and headers.
    """

    operation: str
    bucket: str
    key: str
    upload_id: str
    part_number: int
    repeat: int
    head: Head = field(repr=False)

    @property
    def body_bytes(self) -> int:
        """Length of the body by its headers; 0 where they do not state one."""
        return self.head.length or 0

    @property
    def waits_for_continue(self) -> bool:
        """Whether the body comes only after an interim answer (RFC 9110, 10.1.1)."""
        return self.head.headers.get("expect", "").lower() == "100-continue"


def request_of(head: Head) -> Request:
    """The request with this head, as the first of its kind. Pure.

    Raises:
        ValueError: it is not an HTTP request.
    """
    method, target, _ = head.first_line.split(" ")
    path, _, query = target.partition("?")
    asked = parse_qs(query, keep_blank_values=True)
    bucket, _, key = unquote(path, errors="surrogateescape").lstrip("/").partition("/")
    table = _OF_OBJECTS if key else _OF_BUCKETS
    name = next((name for known, name in table if known == method and name and name in asked), "")
    operation = table.get((method, name), "Unknown") if bucket else "ListBuckets"
    number = asked.get("partNumber", ["0"])[0]
    return Request(
        operation=operation,
        bucket=bucket,
        key=key,
        upload_id=asked.get("uploadId", [""])[0],
        part_number=int(number) if operation == "UploadPart" and number.isdigit() else 0,
        repeat=0,
        head=head,
    )


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The first line and headers of the next message.

    Raises:
        asyncio.IncompleteReadError, ConnectionError: there is none.
        asyncio.LimitOverrunError: it is longer than HEAD_BYTES_MAX.
    """
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(raw, first, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def read_body(reader: asyncio.StreamReader, head: Head, *, until_end: bool = False) -> AsyncIterator[bytes]:
    """The pieces of a message's body as they arrive, with their transfer coding (RFC 9112, 6.3).

    Args:
        reader: positioned after the head.
        head: states the length of the body.
        until_end: a body of unknown length ends with the connection, as an answer's does; else there is none.

    Raises:
        asyncio.IncompleteReadError, ConnectionError: the body is incomplete.
    """
    if head.chunked:
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            yield line
            size = int(line.split(b";")[0], 16)
            if size:
                async for piece in _exactly(reader, size + 2):
                    yield piece
        while line != b"\r\n":  # trailers
            line = await reader.readuntil(b"\r\n")
            yield line
    elif head.length is not None:
        async for piece in _exactly(reader, head.length):
            yield piece
    elif until_end:
        while piece := await reader.read(PIECE_BYTES):
            yield piece


async def _exactly(reader: asyncio.StreamReader, size_bytes: int) -> AsyncIterator[bytes]:
    while size_bytes:
        piece = await reader.read(min(size_bytes, PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", size_bytes)
        size_bytes -= len(piece)
        yield piece


# -- The passage of one request through a fault proxy, and the operations of a toxic on it -----------------------------

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Send = Callable[[bytes], Awaitable[None]]
Carry = Callable[[Send, bytes], Awaitable[None]]
"""Forwards one piece by `Send`: later, in slices, changed, or not at all."""
OnAnswer = Callable[[Head], Awaitable[None]]

End = Literal["reset", "close", "hang", "half_close"]
"""How a client's connection ends: with a TCP reset; closed; open but silent; or closed on the server's side while the
client's data are still read, so that the last answer reaches it."""
_NEVER_A_BODY = (204, 304)


class Cut(Exception):
    """The client's connection ends here. Not an error, but the purpose of a toxic."""

    def __init__(self, end: End) -> None:
        super().__init__(end)
        self.end = end


class Passage:
    """One request, its answer, and the two connections. Belongs to the proxy's event loop.

    Args:
        request: its head is read, its body is not.
        client: connection of the request.
        connect: returns the connection to the server, opened at the first call.
        dice: random numbers of this request, so that its fault does not depend on others.
        note: called with the description of the fault.
        answered: called with the status of the server's answer.
    """

    def __init__(
        self,
        request: Request,
        client: Stream,
        connect: Callable[[], Awaitable[Stream]],
        dice: random.Random,
        note: Callable[[str], None],
        answered: Callable[[int], None],
    ) -> None:
        self.request = request
        self.dice = dice
        self.reusable = True
        """Whether the client's connection can carry another request; final when the toxic has ended."""
        self._client = client
        self._connect = connect
        self._note = note
        self._answered = answered

    def hit(self, what: str) -> None:
        """Record that the fault happens now. Called once per passage, when nothing can prevent it any more."""
        self._note(what)

    def end(self, how: End) -> NoReturn:
        """End the client's connection, and the server's."""
        raise Cut(how)

    async def to_client(self, data: bytes) -> None:
        """Send bytes of an answer."""
        self._client[1].write(data)
        await self._client[1].drain()

    async def discard_body(self) -> None:
        """Read the request's body, and discard it."""
        async for _ in read_body(self._client[0], self.request.head):
            pass

    async def relay(self, *, carry: Carry | None = None, answer: OnAnswer | None = None) -> None:
        """Forward the request to the server, and the answer back.

        Args:
            carry: forwards each piece of the request's body; None forwards it unchanged.
            answer: called with the head of the final answer instead of `pass_answer`.

        Raises:
            Cut: by `carry` or `answer`.
            asyncio.IncompleteReadError, OSError: a side has closed its connection.
        """
        server = await self._connect()
        server[1].write(self.request.head.raw)
        sending = asyncio.create_task(self._send_body(server[1], carry))
        reading = asyncio.create_task(self._final_head(server[0]))
        try:
            await asyncio.wait({sending, reading}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() or not reading.done():
                await sending
            head = await reading
            self._answered(head.status)
            await (answer or self.pass_answer)(head)
            if not sending.done():
                # A refusal before the end of the body: its rest would be read as the next request.
                self.end("half_close")
            self.reusable = "close" not in head.headers.get("connection", "").lower() and (
                head.chunked or head.length is not None or self._bodiless(head)
            )
        finally:
            for task in (sending, reading):
                task.cancel()
            await asyncio.gather(sending, reading, return_exceptions=True)

    async def pass_answer(self, head: Head, carry: Carry | None = None) -> None:
        """Send the client the server's answer, each piece by `carry`."""
        await _passed(head.raw, self.to_client, carry)
        async for piece in self._answer_body(head):
            await _passed(piece, self.to_client, carry)

    async def whole_body(self, head: Head) -> bytes:
        """The body of the server's answer, without its transfer coding."""
        pieces = [piece async for piece in self._answer_body(head)]
        return b"".join(pieces) if not head.chunked else _unchunked(b"".join(pieces))

    async def _answer_body(self, head: Head) -> AsyncIterator[bytes]:
        if not self._bodiless(head):
            reader, _ = await self._connect()
            async for piece in read_body(reader, head, until_end=True):
                yield piece

    def _bodiless(self, head: Head) -> bool:
        return self.request.head.first_line.startswith("HEAD ") or head.status in _NEVER_A_BODY

    async def _send_body(self, server: asyncio.StreamWriter, carry: Carry | None) -> None:
        refused = False

        async def send(piece: bytes) -> None:
            nonlocal refused
            try:
                server.write(piece)
                await server.drain()
            except ConnectionError:
                refused = True

        async for piece in read_body(self._client[0], self.request.head):
            # A server that hangs up has often sent an answer before: it is forwarded, and the body is discarded.
            if not refused:
                await _passed(piece, send, carry)

    async def _final_head(self, server: asyncio.StreamReader) -> Head:
        while (head := await read_head(server)).status < 200:
            await self.to_client(head.raw)
        return head


async def serve_end(how: End, client: Stream) -> None:
    """End a client's connection as a toxic requires; the caller closes it afterwards.

    Runs until the client closes it, or (hang) until it is cancelled.
    """
    reader, writer = client
    with suppress(ConnectionError):
        if how == "half_close":
            writer.write_eof()
            while await reader.read(65536):
                pass
        elif how == "hang":
            # Nothing is read any more: the client's data fill the kernel's buffers, and stop.
            await asyncio.Event().wait()
        elif how == "close":
            writer.close()
            await writer.wait_closed()


async def _passed(piece: bytes, send: Send, carry: Carry | None) -> None:
    if carry is None:
        await send(piece)
    else:
        await carry(send, piece)


def _unchunked(coded: bytes) -> bytes:
    body, position = [], 0
    while position < len(coded):
        end = coded.index(b"\r\n", position)
        size = int(coded[position:end].split(b";")[0], 16)
        if not size:
            break
        body.append(coded[end + 2 : end + 2 + size])
        position = end + size + 4
    return b"".join(body)


# -- The toxics --------------------------------------------------------------------------------------------------------

Direction = Literal["upstream", "downstream"]
Phase = Literal["continue", "body", "before_answer", "answer"]


class Toxic(ABC):
    """One kind of fault."""

    @abstractmethod
    async def play(self, passage: Passage) -> None:
        """Complete one request: answer it, relay it with a fault, or cut it (raises Cut)."""


async def _relay(passage: Passage, stream: Direction, carry: Carry) -> None:
    """Relay with `carry` in one direction."""
    if stream == "upstream":
        await passage.relay(carry=carry)
    else:
        await passage.relay(answer=lambda head: passage.pass_answer(head, carry))


async def _cut_after(passage: Passage, stream: Direction, size_bytes: int, end: End, name: str) -> None:
    """Forward `size_bytes` of a stream, then end the connection. The last byte of a body is always withheld."""
    left = size_bytes
    if stream == "upstream":
        left = max(0, min(left, passage.request.body_bytes - 1))
    if stream == "upstream" and not left:
        passage.hit(f"{name} before the body")
        passage.end(end)

    async def carry(send: Send, piece: bytes) -> None:
        nonlocal left
        if len(piece) > left:
            await send(piece[:left])
            passage.hit(f"{name} after {size_bytes} bytes {stream} at most")
            passage.end(end)
        left -= len(piece)
        await send(piece)

    await _relay(passage, stream, carry)


@dataclass(frozen=True, slots=True)
class Latency(Toxic):
    """A stream begins later by `seconds`, give or take `jitter_seconds`."""

    seconds: float
    jitter_seconds: float = 0.0
    stream: Direction = "downstream"

    async def play(self, passage: Passage) -> None:
        wait = max(0.0, self.seconds + passage.dice.uniform(-self.jitter_seconds, self.jitter_seconds))
        passage.hit(f"latency of {wait:.3f} s {self.stream}")
        if self.stream == "upstream":
            await asyncio.sleep(wait)
            await passage.relay()
            return

        async def answer(head: Head) -> None:
            await asyncio.sleep(wait)
            await passage.pass_answer(head)

        await passage.relay(answer=answer)


@dataclass(frozen=True, slots=True)
class Bandwidth(Toxic):
    """A stream carries at most `bytes_per_second`."""

    bytes_per_second: float
    stream: Direction = "upstream"

    async def play(self, passage: Passage) -> None:
        passage.hit(f"bandwidth of {self.bytes_per_second:g} bytes/s {self.stream}")

        async def carry(send: Send, piece: bytes) -> None:
            await asyncio.sleep(len(piece) / self.bytes_per_second)
            await send(piece)

        await _relay(passage, self.stream, carry)


@dataclass(frozen=True, slots=True)
class SlowClose(Toxic):
    """The connection is closed `seconds` after this answer, which does not announce it."""

    seconds: float

    async def play(self, passage: Passage) -> None:
        await passage.relay()
        passage.hit(f"closed {self.seconds:g} s after the answer")
        await asyncio.sleep(self.seconds)
        passage.end("close")


@dataclass(frozen=True, slots=True)
class Timeout(Toxic):
    """Nothing is forwarded; the connection is closed after `seconds` (0: never)."""

    seconds: float = 0.0

    async def play(self, passage: Passage) -> None:
        passage.hit(f"nothing got through, for {self.seconds:g} s" if self.seconds else "nothing got through")
        if self.seconds:
            await asyncio.sleep(self.seconds)
            passage.end("close")
        passage.end("hang")


@dataclass(frozen=True, slots=True)
class ResetPeer(Toxic):
    """The connection is reset after `after_bytes` of a stream; upstream always before the end of the body."""

    after_bytes: int = 0
    stream: Direction = "upstream"

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, self.stream, self.after_bytes, "reset", "reset")


@dataclass(frozen=True, slots=True)
class Slicer(Toxic):
    """A stream arrives in slices of about `average_bytes` (give or take `variation_bytes`), `delay_seconds` apart."""

    average_bytes: int
    variation_bytes: int = 0
    delay_seconds: float = 0.0
    stream: Direction = "downstream"

    async def play(self, passage: Passage) -> None:
        passage.hit(f"slices of about {self.average_bytes} bytes {self.stream}")

        async def carry(send: Send, piece: bytes) -> None:
            while piece:
                size = max(1, self.average_bytes + passage.dice.randint(-self.variation_bytes, self.variation_bytes))
                await send(piece[:size])
                piece = piece[size:]
                await asyncio.sleep(self.delay_seconds)

        await _relay(passage, self.stream, carry)


@dataclass(frozen=True, slots=True)
class LimitData(Toxic):
    """The connection is closed after `limit_bytes` of a stream; upstream always before the end of the body."""

    limit_bytes: int
    stream: Direction = "downstream"

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, self.stream, self.limit_bytes, "close", "closed")


@dataclass(frozen=True, slots=True)
class HalfClose(Toxic):
    """The server's side is closed after `after_bytes` of the body, while the client's stays open and is read."""

    after_bytes: int = 0

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, "upstream", self.after_bytes, "half_close", "half-closed")


@dataclass(frozen=True, slots=True)
class Stall(Toxic):
    """All data stop, and the connection stays open.

    Attributes:
        phase: "continue": the head was read, and neither 100 Continue nor anything else follows; "body": `after_bytes`
            of it were read; "before_answer": the server has committed the request; "answer": 20 bytes of it were sent.
        after_bytes: for "body".
    """

    phase: Phase
    after_bytes: int = 65536

    async def play(self, passage: Passage) -> None:
        if self.phase == "continue":
            passage.hit("stalled before 100 Continue")
            passage.end("hang")
        if self.phase == "body":
            await _cut_after(passage, "upstream", self.after_bytes, "hang", "stalled in the body")
        elif self.phase == "answer":
            await _cut_after(passage, "downstream", 20, "hang", "stalled in the answer")
        else:
            await withhold(passage, "hang", "stalled before")


async def withhold(passage: Passage, end: End, word: str) -> None:
    """Let the server perform the request, discard its answer, and end the connection."""

    async def answer(head: Head) -> None:
        await passage.whole_body(head)
        passage.hit(f"{word} the answer {head.status}")
        passage.end(end)

    await passage.relay(answer=answer)
