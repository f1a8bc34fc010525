"""A peer on loopback that gives objects away as S3 does, and lies about them where a test says so.

It knows ListObjectsV2, HEAD and GET with ranges and If-Match, and checks no signature. For faults that no real server
can be asked to commit; everything else is tested on real ones.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import re
from collections.abc import Callable
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

from asyncsink.integrity.checksums import checksum_of
from asyncsink.testing.peers import ActingPeer

Fault = Callable[[str, str, int], bytes | None]
"""Given method, key and first byte: the answer to give instead (b"" hangs up), or None for the right one."""


# Large objects are served in ranges, each with a checksum of the whole: the peer must not pause for it every time.
@functools.lru_cache(maxsize=8)
def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@functools.lru_cache(maxsize=8)
def _crc64nvme(data: bytes) -> str:
    return checksum_of(data, "CRC64NVME").value


class ObjectPeer(ActingPeer):
    """Serves `objects` of a bucket of any name. `fault` is asked before each answer to HEAD and GET of an object.

    Attributes:
        requests: (method, key, first byte) of every request about an object, in order.
        hold: while set, GETs of objects whose first byte it holds are not answered; `held` is set when one comes.
    """

    def __init__(self, objects: dict[str, bytes], *, multipart: bool = False) -> None:
        super().__init__(self._serve_requests)
        self.objects = objects
        self.fault: Fault = lambda *_: None
        self.requests: list[tuple[str, str, int]] = []
        self.hold: set[int] = set()
        self.held = asyncio.Event()
        self.same_token = False
        self._multipart = multipart

    def etag(self, key: str) -> str:
        """The ETag that is told: the MD5, or one that proves nothing."""
        digest = _md5(self.objects[key])
        return f"{digest}-99" if self._multipart else digest

    async def _serve_requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, target, _ = head.split("\r\n")[0].split(" ")
            parts = urlsplit(target)
            key = unquote(parts.path.partition("/")[2].partition("/")[2])
            if not key:
                writer.write(self._listing(parse_qs(parts.query)))
                continue
            wanted = re.search(r"(?im)^range: bytes=(\d+)-(\d+)", head)
            first = int(wanted[1]) if wanted else 0
            self.requests.append((method, key, first))
            if method == "GET" and first in self.hold:
                self.held.set()
                await asyncio.Event().wait()
            answer = self.fault(method, key, first)
            if answer is None:
                answer = self._object(method, key, head, wanted)
            if not answer:
                return
            writer.write(answer)
            await writer.drain()

    def _object(self, method: str, key: str, head: str, wanted: re.Match[str] | None) -> bytes:
        if key not in self.objects:
            return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        etag, data = self.etag(key), self.objects[key]
        condition = re.search(r'(?im)^if-match: "([^"]*)"', head)
        if condition and condition[1] != etag:
            return b"HTTP/1.1 412 Precondition Failed\r\nContent-Length: 0\r\n\r\n"
        lines = [f'ETag: "{etag}"', "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"]
        if not self._multipart:
            lines.append(f"x-amz-checksum-crc64nvme: {_crc64nvme(data)}")
        status, body = "200 OK", data
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            status, body = "206 Partial Content", data[first : last + 1]
            lines.append(f"Content-Range: bytes {first}-{last}/{len(data)}")
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]
        return "\r\n".join(lines).encode() + (b"" if method == "HEAD" else body)

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        entries = "".join(
            f"<Contents><Key>{escape(quote(key, safe='/'))}</Key><Size>{len(data)}</Size>"
            f"<ETag>&quot;{self.etag(key)}&quot;</ETag><LastModified>1994-11-06T08:49:37Z</LastModified></Contents>"
            for key, data in self.objects.items()
            if key.startswith(prefix)
        )
        more = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
        told = more if self.same_token else "<IsTruncated>false</IsTruncated>"
        body = f"<ListBucketResult><EncodingType>url</EncodingType>{told}{entries}</ListBucketResult>".encode()
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
