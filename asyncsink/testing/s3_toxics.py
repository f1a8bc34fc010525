"""Toxics of S3: its errors, the particular answers of CompleteMultipartUpload, and deviations of look-alikes.

Sources: S3 API Reference, "Error responses" and CompleteMultipartUpload.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from email.utils import formatdate
from time import time
from typing import Final
from xml.sax.saxutils import escape

from asyncsink.testing.toxics import Direction, Head, Passage, Request, Send, Toxic, withhold
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class LostAnswer(Toxic):
    """The request is forwarded and committed; its answer is discarded, and the connection is reset."""

    async def play(self, passage: Passage) -> None:
        await withhold(passage, "reset", "lost")


@dataclass(frozen=True, slots=True)
class Status(Toxic):
    """The proxy answers instead of the server, which does not receive the request.

    Attributes:
        status: the HTTP status.
        code: S3's error code; "" for an answer without a body.
        retry_after: the header's value; "" for none.
        date_offset_seconds: the `Date` header's distance from this machine's clock.
        early: answer before the body is read, as an overloaded server does.
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
    """A 200 with an `<Error>` in the body, as S3 may answer CompleteMultipartUpload.

    Attributes:
        code: S3's error code.
        committed: the server received and performed the request.
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
    """One byte of the body of the request, or downstream of its answer, is changed, at a random position."""

    stream: Direction = "upstream"

    async def play(self, passage: Passage) -> None:
        place = position = 0

        async def carry(send: Send, piece: bytes) -> None:
            nonlocal position
            inside = place - position
            position += len(piece)
            if 0 <= inside < len(piece):
                passage.hit(f"changed byte {place} {self.stream}")
                piece = piece[:inside] + bytes([piece[inside] ^ 0x20]) + piece[inside + 1 :]
            await send(piece)

        async def answer(head: Head) -> None:
            nonlocal place, position
            place, position = passage.dice.randrange(head.length or 1), -len(head.raw)
            await passage.pass_answer(head, carry)

        if self.stream == "downstream":
            await passage.relay(answer=answer)
        elif size := passage.request.body_bytes:
            place = passage.dice.randrange(size)
            await passage.relay(carry=carry)
        else:
            await passage.relay()


@dataclass(frozen=True, slots=True)
class Whitespace(Toxic):
    """200 and the XML declaration come at once, then `count` spaces `every_seconds`, then the rest of the answer.

    S3 keeps a connection alive this way while it joins the parts of an upload (S3 API, CompleteMultipartUpload).
    """

    count: int
    every_seconds: float

    async def play(self, passage: Passage) -> None:
        async def answer(head: Head) -> None:
            body = await passage.whole_body(head)
            passage.hit(f"{self.count} spaces before the answer {head.status}")
            # The declaration must be the first thing in a document, so the server's own one is removed.
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
    """Headers of the answer that begin with `prefix` (lower case) are removed, as by a server without them."""

    prefix: str

    async def play(self, passage: Passage) -> None:
        async def answer(head: Head) -> None:
            first, *lines = head.raw.split(b"\r\n")
            kept = [line for line in lines if not line.lower().startswith(self.prefix.encode())]
            if len(kept) < len(lines):
                passage.hit(f"dropped the headers {self.prefix}*")
            await passage.pass_answer(Head(b"\r\n".join([first, *kept]), head.first_line, head.headers))

        await passage.relay(answer=answer)


@dataclass(frozen=True, slots=True)
class Meanwhile(Toxic):
    """A call during a request, before any of its body is read.

    Attributes:
        what: called with the request, in the proxy's thread, which waits for it. The proxy raises its exception at the
            end of the block.
        then: the request's own fault; None forwards it.
    """

    what: Callable[[Request], object]
    then: Toxic | None = None

    async def play(self, passage: Passage) -> None:
        self.what(passage.request)
        if self.then is not None:
            await self.then.play(passage)
        else:
            passage.hit("something happened elsewhere")
            await passage.relay()


XML: Final = "application/xml"
DECLARATION: Final = b'<?xml version="1.0" encoding="UTF-8"?>'


def error_document(code: str, message: str) -> bytes:
    """S3's `<Error>` (S3 API Reference, "REST error responses"). Pure."""
    text = f"<Code>{escape(code)}</Code><Message>{escape(message)}</Message><RequestId>0FA0175</RequestId>"
    return DECLARATION + f"\n<Error>{text}</Error>".encode()


def answer_of(status: int, headers: dict[str, str], body: bytes, *, bodiless: bool = False) -> bytes:
    """A whole HTTP answer; `bodiless` (HEAD) omits the body. Pure."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if bodiless else body)
