"""What the tests of the HTTP client share: requests of every kind, canned answers, and how a peer reads a request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.operations import PutObject, PutObjectFrom, UploadPartFrom
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import canned

STORED = canned(200, b"", 'ETag: "e"')
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
SLOW_DOWN = canned(503, b"<Error><Code>SlowDown</Code><Message>Slow.</Message></Error>")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Open = Callable[..., contextlib.AbstractAsyncContextManager[HttpTransport]]


@dataclass(frozen=True)
class Bodies:
    """Requests with a body of so many bytes, by the way in which the lane gets it."""

    kind: str
    source: OpenSource

    @property
    def where(self) -> str:
        """How an error names such a request."""
        return "UploadPart of part 3 of s3://bkt/k" if self.kind == "part" else "PutObject of s3://bkt/k"

    def __call__(self, length: int) -> Any:
        """The request."""
        if self.kind == "memory":
            return PutObject(key="k", body=memoryview(bytes(length)))
        return part(self.source, 0, length) if self.kind == "part" else whole(self.source, length)


def part(source: Any, offset: int, length: int, **changes: Any) -> UploadPartFrom:
    """A part that the lane reads."""
    given: dict[str, Any] = {"key": "k", "upload_id": "u", "part_number": 3, "algorithm": "CRC64NVME"}
    return UploadPartFrom(source=source, offset=offset, length=length, **given | changes)


def whole(source: Any, length: int, **changes: Any) -> PutObjectFrom:
    """An object that the lane reads: the first bytes of a source that stays open."""
    given: dict[str, Any] = {"key": "k", "algorithm": "CRC64NVME"}
    return PutObjectFrom(source=lambda: contextlib.nullcontext(source), length=length, **given | changes)


def header(head: bytes, name: bytes) -> bytes:
    """The one value of a header."""
    [value] = [line[len(name) + 1 :].strip() for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]
    return value


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of a request."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = header(head, b"content-length") if b"content-length:" in head.lower() else b"0"
    return head, await reader.readexactly(int(length))


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is so; what is waited for happens in a thread, or at the other end."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def at(monkeypatch: pytest.MonkeyPatch, port: int, *addresses: str) -> None:
    """Let s3.test have these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
    lookup = socket.getaddrinfo

    def answer(host: Any, *args: Any, **kwargs: Any) -> Any:
        return found if host == "s3.test" else lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
