"""What a fault proxy can do to a request: each toxic is a small frozen dataclass.

The first seven have the names that toxiproxy (https://github.com/Shopify/toxiproxy) gives them, and mean the same for
one request instead of one connection: `stream` "upstream" is the request's body, "downstream" the answer with its
headers. The others know S3. All sizes are bytes, all times seconds.

Each is remembered (`Passage.hit`) when it really happens: a byte of an empty body cannot be changed, and is not.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import Final, Literal
from xml.sax.saxutils import escape

from asyncsink.testing.passage import Carry, End, Passage, Send
from asyncsink.testing.s3_requests import Head

Direction = Literal["upstream", "downstream"]
Phase = Literal["continue", "body", "before_answer", "answer"]


class Toxic(ABC):
    """One kind of trouble."""

    @abstractmethod
    async def play(self, passage: Passage) -> None:
        """Bring one request to its end: answer it, relay it with a fault, or cut it (raises passage.Cut)."""


async def _relay(passage: Passage, stream: Direction, carry: Carry) -> None:
    """Relay with `carry` in one direction."""
    if stream == "upstream":
        await passage.relay(carry=carry)
    else:
        await passage.relay(answer=lambda head: passage.pass_answer(head, carry))


async def _cut_after(passage: Passage, stream: Direction, size_bytes: int, end: End, name: str) -> None:
    """Let `size_bytes` of a stream through, then end the connection. A body never passes whole: its last byte stays."""
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
    """A stream begins `seconds`, more or less up to `jitter_seconds`, later."""

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
    """A stream carries so many bytes a second at most."""

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
    """The connection ends after this answer, but only `seconds` later; the client is not told beforehand."""

    seconds: float

    async def play(self, passage: Passage) -> None:
        await passage.relay()
        passage.hit(f"closed {self.seconds:g} s after the answer")
        await asyncio.sleep(self.seconds)
        passage.end("close")


@dataclass(frozen=True, slots=True)
class Timeout(Toxic):
    """Nothing gets through; the connection is closed after `seconds` (0: never)."""

    seconds: float = 0.0

    async def play(self, passage: Passage) -> None:
        passage.hit(f"nothing got through, for {self.seconds:g} s" if self.seconds else "nothing got through")
        if self.seconds:
            await asyncio.sleep(self.seconds)
            passage.end("close")
        passage.end("hang")


@dataclass(frozen=True, slots=True)
class ResetPeer(Toxic):
    """The connection is reset after so many bytes of a stream; upstream always before the whole body got through."""

    after_bytes: int = 0
    stream: Direction = "upstream"

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, self.stream, self.after_bytes, "reset", "reset")


@dataclass(frozen=True, slots=True)
class Slicer(Toxic):
    """A stream comes in slices of about `average_bytes` (give or take `variation_bytes`), `delay_seconds` apart."""

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
    """The connection is closed after so many bytes of a stream; upstream always before the whole body got through."""

    limit_bytes: int
    stream: Direction = "downstream"

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, self.stream, self.limit_bytes, "close", "closed")


@dataclass(frozen=True, slots=True)
class HalfClose(Toxic):
    """The server's side is closed after so many bytes of the body, while the client's stays open and is read."""

    after_bytes: int = 0

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, "upstream", self.after_bytes, "half_close", "half-closed")


@dataclass(frozen=True, slots=True)
class Stall(Toxic):
    """Nothing moves any more, and nobody hangs up.

    Attributes:
        phase: "continue": the head was read, and neither 100 Continue nor anything else comes; "body": `after_bytes`
            of it were read; "before_answer": the server has committed the request; "answer": 20 bytes of it came.
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
            await _withhold(passage, "hang", "stalled before")


@dataclass(frozen=True, slots=True)
class LostAnswer(Toxic):
    """The request is passed on and committed; its answer is swallowed, and the connection is reset."""

    async def play(self, passage: Passage) -> None:
        await _withhold(passage, "reset", "lost")


async def _withhold(passage: Passage, end: End, word: str) -> None:
    async def answer(head: Head) -> None:
        await passage.whole_body(head)
        passage.hit(f"{word} the answer {head.status}")
        passage.end(end)

    await passage.relay(answer=answer)


@dataclass(frozen=True, slots=True)
class Status(Toxic):
    """The proxy answers in the server's place; the server is never asked.

    Attributes:
        status: the HTTP status.
        code: S3's error code; "" for an answer without a body.
        retry_after: the header's value; "" for none.
        date_offset_seconds: the `Date` header's distance from this machine's clock.
        early: answer before the body was read, as a server does that is in a hurry.
    """

    status: int
    code: str
    message: str = "The fault proxy says so."
    retry_after: str = ""
    date_offset_seconds: float = 0.0
    early: bool = False

    async def play(self, passage: Passage) -> None:
        early = self.early or passage.request.waits_for_continue
        if not early:
            await passage.discard_body()
        passage.hit(f"answered {self.status} {self.code}".rstrip())
        bodiless = passage.request.head.first_line.startswith("HEAD ")
        await passage.to_client(self._answer(bodiless=bodiless, last=early))
        if early:
            passage.end("half_close")

    def _answer(self, *, bodiless: bool, last: bool) -> bytes:
        body = error_document(self.code, self.message) if self.code else b""
        headers = {"Date": formatdate(time() + self.date_offset_seconds, usegmt=True), "Content-Type": XML}
        if last:
            headers["Connection"] = "close"
        if self.retry_after:
            headers["Retry-After"] = self.retry_after
        return answer_of(self.status, headers, body, bodiless=bodiless)


SLOW_DOWN: Final = Status(503, "SlowDown", "Please reduce your request rate.")
INTERNAL_ERROR: Final = Status(500, "InternalError", "We encountered an internal error. Please try again.")
TOO_MANY_REQUESTS: Final = Status(429, "TooManyRequests")
REQUEST_TIMEOUT: Final = Status(
    400, "RequestTimeout", "Your socket connection to the server was not read from or written to in time."
)
EXPIRED_TOKEN: Final = Status(400, "ExpiredToken", "The provided token has expired.")
REQUEST_TIME_TOO_SKEWED: Final = Status(
    403, "RequestTimeTooSkewed", "The difference between the request time and the server's time is too large."
)


@dataclass(frozen=True, slots=True)
class ErrorIn200(Toxic):
    """200, and an `<Error>` in the body, as S3 may answer CompleteMultipartUpload.

    Attributes:
        code: S3's error code.
        committed: the server was asked, and did what it was asked for.
    """

    code: str = "InternalError"
    committed: bool = False

    async def play(self, passage: Passage) -> None:
        document = answer_of(200, {"Content-Type": XML}, error_document(self.code, "We encountered an internal error."))
        if not self.committed:
            await passage.discard_body()
            passage.hit(f"answered 200 with {self.code}")
            await passage.to_client(document)
            return

        async def answer(head: Head) -> None:
            await passage.whole_body(head)
            passage.hit(f"answered 200 with {self.code} instead of {head.status}")
            await passage.to_client(document)

        await passage.relay(answer=answer)


@dataclass(frozen=True, slots=True)
class CorruptBody(Toxic):
    """One byte of the request's body is changed on its way (which one, the dice say)."""

    async def play(self, passage: Passage) -> None:
        size = passage.request.body_bytes
        if not size:
            await passage.relay()
            return
        place, position = passage.dice.randrange(size), 0

        async def carry(send: Send, piece: bytes) -> None:
            nonlocal position
            inside = place - position
            position += len(piece)
            if 0 <= inside < len(piece):
                passage.hit(f"changed byte {place}")
                piece = piece[:inside] + bytes([piece[inside] ^ 0x20]) + piece[inside + 1 :]
            await send(piece)

        await passage.relay(carry=carry)


@dataclass(frozen=True, slots=True)
class Whitespace(Toxic):
    """200 and the XML declaration come at once, then `count` spaces `every_seconds`, then the rest of the answer.

    S3 keeps a connection alive in this way while it joins the parts of an upload (S3 API, CompleteMultipartUpload).
    """

    count: int
    every_seconds: float

    async def play(self, passage: Passage) -> None:
        async def answer(head: Head) -> None:
            body = await passage.whole_body(head)
            passage.hit(f"{self.count} spaces before the answer {head.status}")
            # The declaration must be the first thing in a document; the one that the server has written goes.
            body = body[body.find(b"?>") + 2 :] if body.startswith(b"<?xml") else body
            await passage.to_client(
                f"HTTP/1.1 200 OK\r\nContent-Type: {XML}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
            )
            await passage.to_client(b"%x\r\n%b\r\n" % (len(DECLARATION), DECLARATION))
            for _ in range(self.count):
                await passage.to_client(b"1\r\n \r\n")
                await asyncio.sleep(self.every_seconds)
            await passage.to_client(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

        await passage.relay(answer=answer)


@dataclass(frozen=True, slots=True)
class DropHeaders(Toxic):
    """Headers of the answer that begin with `prefix` (lower case) are left out, as by a server that never had them."""

    prefix: str

    async def play(self, passage: Passage) -> None:
        async def answer(head: Head) -> None:
            first, *lines = head.raw.split(b"\r\n")
            kept = [line for line in lines if not line.lower().startswith(self.prefix.encode())]
            if len(kept) < len(lines):
                passage.hit(f"dropped the headers {self.prefix}*")
            await passage.pass_answer(Head(b"\r\n".join([first, *kept]), head.first_line, head.headers))

        await passage.relay(answer=answer)


XML: Final = "application/xml"
DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>'


def error_document(code: str, message: str) -> bytes:
    """S3's `<Error>` (S3 API Reference, "REST error responses"). Pure."""
    text = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message><RequestId>0FA0175</RequestId>"
    return DECLARATION + f"\n<Error>{text}</Error>".encode()


def answer_of(status: int, headers: dict[str, str], body: bytes, *, bodiless: bool = False) -> bytes:
    """A whole HTTP answer; `bodiless` (HEAD) has the headers only. Pure."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if bodiless else body)
