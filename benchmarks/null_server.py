"""A null S3 server: it reads every body and keeps none, so that the client is what is measured. What is to be read
from it is zeros, as many as it is told when it is reset.

One process, one thread, HTTP/1.1 with keep-alive. Started by `benchmarks.servers`; prints its port and runs until it
is stopped. Bodies land in one reused buffer; PutObject and UploadPart take a path of a few microseconds.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import ssl
import sys
from email.utils import formatdate
from typing import cast

import uvloop

from benchmarks.null_answers import ZEROS, Answer, Request, Stored, checksum_lines, error, object_range
from benchmarks.null_chunked import ChunkedBody
from benchmarks.null_store import NullStore

BUFFER_BYTES = 256 * 1024
HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 8 * 1024 * 1024
"""Of requests whose body is kept until it is whole (CompleteMultipartUpload: 10,000 parts are below 2 MB)."""
_ZEROS = memoryview(ZEROS)
_END = b"\r\n\r\n"
_NO_ETAG = b'"%s-1"' % (b"0" * 32)
"""Shaped like a multipart ETag, which no client takes for the MD5 of the body."""


class Server:
    """What all connections share."""

    def __init__(self, delay_seconds: float) -> None:
        self.store = NullStore()
        self.delay_seconds = delay_seconds
        self.buffer = bytearray(BUFFER_BYTES)
        # Data is consumed before the next read, so that one buffer serves every connection and stays in the cache.
        self.view = memoryview(self.buffer)
        self.loop = asyncio.get_running_loop()
        self.date = b""
        self.tick()

    def tick(self) -> None:
        """Renew the Date header once a second."""
        self.date = b"Server: null\r\nx-amz-request-id: NULL000000000000\r\nDate: %s\r\n" % (
            formatdate(usegmt=True).encode()
        )
        self.loop.call_later(1.0, self.tick)


class NullProtocol(asyncio.BufferedProtocol):
    """One connection: head, body, answer, and again."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._carry = b""
        self._need = self._length = 0
        self._chunked: ChunkedBody | None = None
        self._body: bytearray | None = None
        self._upload = False
        self._head = self._low = b""
        self._target = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop registers its transports with no base class

    def get_buffer(self, sizehint: int) -> memoryview:
        """The shared buffer."""
        del sizehint
        return self._server.view

    def buffer_updated(self, nbytes: int) -> None:
        """Bytes arrived; those of a large body are only counted."""
        if nbytes < self._need and self._body is None:
            self._need -= nbytes
            return
        position = 0
        while position < nbytes:
            if self._need:
                taken = min(self._need, nbytes - position)
                if self._body is not None:
                    self._body += self._server.view[position : position + taken]
                position += taken
                self._need -= taken
                if not self._need:
                    self._finish()
            elif self._chunked is not None:
                position = self._chunked.feed(self._server.buffer, position, nbytes)
                if self._chunked.done:
                    self._chunked = None
                    self._finish()
            else:
                position = self._take_head(position, nbytes)

    def _take_head(self, position: int, end: int) -> int:
        buffer, before = self._server.buffer, len(self._carry)
        if before:
            data = self._carry + buffer[position:end]
            cut = data.find(_END)
            head, rest = data[:cut], position - before + cut + len(_END)
        else:
            cut = buffer.find(_END, position, end)
            head, rest = bytes(buffer[position:cut]), cut + len(_END)
        if cut < 0:
            self._carry += buffer[position:end]
            if len(self._carry) > HEAD_BYTES_MAX:
                self._transport.abort()
            return end
        self._carry = b""
        self._begin(head)
        return rest

    def _begin(self, head: bytes) -> None:
        low = head.lower()
        line_end = head.find(b"\r\n")
        first = head[: line_end if line_end >= 0 else len(head)].split(b" ")
        if len(first) != 3:
            self._transport.abort()
            return
        self._head, self._low, self._target = head, low, first[1].decode("latin-1")
        path = self._target.partition("?")[0]
        self._upload = first[0] == b"PUT" and path.find("/", 1) not in (-1, len(path) - 1)
        length = _value(low, head, b"\r\ncontent-length:")
        self._need = self._length = int(length) if length else 0
        self._body = None if self._upload else bytearray()
        if b"\r\nexpect: 100-continue" in low:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if b"\r\ntransfer-encoding: chunked" in low:
            self._chunked = ChunkedBody()
        elif not self._need:
            self._finish()
        elif self._body is not None and self._need > BODY_BYTES_MAX:
            self._transport.abort()

    def _finish(self) -> None:
        if self._upload:
            self._send(self._answer_to_upload())
        elif self._head.startswith(b"GET ") and (found := self._server.store.get(self._target)) is not None:
            self._send(*self._answer_to_get(found))
        else:
            body, self._body = bytes(self._body or b""), None
            method = self._head[: self._head.find(b" ")].decode("latin-1")
            self._send(self._rendered(self._server.store.answer(Request(method, self._target, self._head, body))))
        if b"\r\nconnection: close" in self._low:
            self._transport.close()

    def _answer_to_upload(self) -> bytes:
        head, low, checks = self._head, self._low, self._server.store.checks
        checksums, etag = checksum_lines(head, low), _NO_ETAG
        if checksums:
            checks[checksums[:26].partition(b":")[0]] += 1
        if trailer := _value(low, low, b"\r\nx-amz-trailer:"):
            checks[b"trailer " + trailer] += 1
        if md5 := _value(low, head, b"\r\ncontent-md5:"):
            etag = b'"%s"' % base64.b64decode(md5).hex().encode()
            checks[b"content-md5"] += 1
        at = low.find(b"\r\nx-amz-content-sha256: ")
        if at >= 0 and not low.startswith((b"unsigned", b"streaming"), at + 24):
            checks[b"sha256 in the signature"] += 1
        decoded = _value(low, head, b"\r\nx-amz-decoded-content-length:")
        size = int(decoded) if decoded else self._length
        if not self._server.store.put(self._target, Stored(size, etag, checksums)):
            return self._rendered(error("404 Not Found", "NoSuchUpload"))
        return b"HTTP/1.1 200 OK\r\n%sETag: %s\r\n%sContent-Length: 0\r\n\r\n" % (self._server.date, etag, checksums)

    def _answer_to_get(self, found: Stored) -> list[bytes | memoryview]:
        """Head and body; the body is the same zeros as often as needed, of which no copy is made."""
        head, length = object_range(found, _value(self._low, self._head, b"\r\nrange:"))
        whole, rest = divmod(length, len(_ZEROS))
        return [b"HTTP/1.1 %s%s\r\n" % (head, self._server.date), *[_ZEROS] * whole, _ZEROS[:rest]]

    def _rendered(self, answer: Answer) -> bytes:
        head = b"HTTP/1.1 %s\r\n%s%s" % (answer.status.encode(), self._server.date, answer.headers)
        if b"Content-Length:" not in answer.headers and not answer.status.startswith("204"):
            head += b"Content-Length: %d\r\n" % len(answer.body)
        return head + b"\r\n" + (b"" if self._head.startswith(b"HEAD ") else answer.body)

    def _send(self, *data: bytes | memoryview) -> None:
        if self._server.delay_seconds and not self._target.startswith("/-/"):
            self._server.loop.call_later(self._server.delay_seconds, self._transport.writelines, data)
        else:
            self._transport.writelines(data)


def _value(low: bytes, head: bytes, name: bytes) -> bytes:
    """The value of a header, as it was written; b"" where it is missing."""
    at = low.find(name)
    if at < 0:
        return b""
    at += len(name)
    end = head.find(b"\r\n", at)
    return head[at : end if end >= 0 else len(head)].strip()


async def serve(delay_seconds: float, certificate: str) -> None:
    """Listen on a free port of 127.0.0.1, print it, and serve until cancelled or killed.

    Args:
        delay_seconds: every answer comes this much later, as from a distant region.
        certificate: PEM file with key and certificate to serve HTTPS, or "".
    """
    context: ssl.SSLContext | None = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    shared = Server(delay_seconds)
    listener = await shared.loop.create_server(lambda: NullProtocol(shared), "127.0.0.1", 0, ssl=context, backlog=1024)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


def main() -> None:
    """The command line: --delay-ms N, --certificate PEM."""
    parser = argparse.ArgumentParser(description=serve.__doc__)
    parser.add_argument("--delay-ms", type=float, default=0.0)
    parser.add_argument("--certificate", default="")
    given = parser.parse_args()
    uvloop.run(serve(given.delay_ms / 1000, given.certificate))


if __name__ == "__main__":
    main()
