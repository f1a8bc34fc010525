"""A redirect to another host: nobody follows it, neither with credentials nor with a body nor without."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.operations import (
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    HeadObject,
    ListObjects,
    Operation,
    UploadPart,
)
from asyncsink.testing.peers import ActingPeer, CannedPeer, SilentPeer, canned
from tests.support.tls import DAY, Authority

pytestmark = pytest.mark.anyio
Send = Callable[[Operation[Any]], Awaitable[Any]]
BODY = (
    b"<Error><Code>%s</Code><Message>Go there.</Message><Bucket>bkt</Bucket><Endpoint>%s</Endpoint>"
    b"<Region>eu-west-3</Region></Error>"
)
OTHERS: list[Operation[Any]] = [
    HeadObject(key="k"),
    ListObjects(),
    CreateMultipartUpload(key="k"),
    UploadPart(key="k", upload_id="u", part_number=1, body=b"x" * 1000),
    CompleteMultipartUpload(
        key="k", upload_id="u", parts=(CompletedPart(part_number=1, etag="e"),), size_bytes=1000, checksum=None
    ),
    GetObject(key="k", offset=0, length=10),
]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (301, b"PermanentRedirect"),
        (302, b"Found"),
        (303, b"SeeOther"),
        (307, b"TemporaryRedirect"),
        (308, b"PermanentRedirect"),
        (400, b"AuthorizationHeaderMalformed"),
    ],
)
async def test_a_redirect_is_not_followed(put_once: Any, status: int, code: bytes) -> None:
    asked: list[bytes] = []
    refused: list[AsyncSinkError] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.split(b" ")[0])
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length is not None else 0)
        answer = canned(status, BODY % (code, place), *headers)
        writer.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith(b"HEAD") else answer)
        await writer.drain()
        writer.close()

    async def all_others(send: Send) -> None:
        for operation in OTHERS:
            with pytest.raises(AsyncSinkError) as caught:
                await send(operation)
            refused.append(caught.value)

    async with SilentPeer() as other:
        place = other.endpoint_url.removeprefix("http://").encode()
        headers = (f"Location: {other.endpoint_url}/bkt/k", "x-amz-bucket-region: eu-west-3", "Connection: close")
        async with ActingPeer(serve) as peer:
            with pytest.raises(AsyncSinkError, match=f"PutObject of s3://bkt/k failed.*HTTP {status}"):
                await put_once(peer.endpoint_url, before=all_others)
        assert other.connections_total == 0
    assert [str(status) in str(error) for error in refused] == [True] * len(OTHERS)
    assert {b"HEAD", b"GET", b"POST", b"PUT"} == set(asked)


# -- Certificates on every way that a body can take --------------------------------------------------------------------


STORED = canned(200, b"", 'ETag: "e"')


async def test_a_trusted_server_is_sent_to(put_once: Any, authority: Authority) -> None:
    async with CannedPeer(STORED, tls=authority.server_context("127.0.0.1")) as peer:
        stored = await put_once(peer.endpoint_url, ca_bundle=authority.path)
        assert stored.etag == "e"
        assert len(peer.heads) == 1


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ({}, False, "unable to get local issuer|self.signed|verify failed"),
        ({"host": "127.0.0.2"}, True, "not valid for|mismatch"),
        ({"ends": -DAY}, True, "expired"),
    ],
    ids=["of nobody known", "for another host", "expired"],
)
async def test_who_is_not_trusted_is_sent_nothing(
    put_once: Any, authority: Authority, certificate: dict[str, Any], trusted: bool, reason: str
) -> None:
    async with CannedPeer(STORED, tls=authority.server_context(**{"host": "127.0.0.1"} | certificate)) as peer:
        with pytest.raises(ConfigError, match=rf"not trusted.*({reason})"):
            await put_once(peer.endpoint_url, **({"ca_bundle": authority.path} if trusted else {}))
        assert peer.heads == []
