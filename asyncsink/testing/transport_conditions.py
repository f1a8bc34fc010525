"""The part of the transport suite that is about writes: conditions and write tokens."""

from __future__ import annotations

import os

import pytest

from asyncsink.config import MIB
from asyncsink.errors import PreconditionFailed
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    HeadObject,
    PutObject,
    UploadPart,
)
from asyncsink.s3.transport import Transport
from asyncsink.testing.transport_kit import Capability, OpenTransport, crc64

TOKEN = "0123456789abcdef" * 2


@pytest.mark.anyio
class TransportConditionSuite:
    """Tests against a real server; part of `TransportSuite`."""

    def need(self, *capabilities: Capability) -> None:
        """Skip the test where the server lacks one of `capabilities`."""
        raise NotImplementedError

    async def test_a_put_that_is_to_replace_nothing(self, open_transport: OpenTransport) -> None:
        self.need("if-none-match")
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b"first", only_new=True, write_token=TOKEN))
            with pytest.raises(PreconditionFailed, match="PutObject of s3://"):
                await transport.send(PutObject(key="k", body=b"other", checksum=crc64(b"other"), only_new=True))
            head = await transport.send(HeadObject(key="k"))
            assert head.size_bytes == 5
            assert head.metadata["asyncsink-write"] == TOKEN

    async def test_an_upload_that_is_to_replace_nothing(self, open_transport: OpenTransport) -> None:
        self.need("if-none-match-complete")
        async with open_transport() as transport:
            upload_id, complete = await _upload(transport, os.urandom(1000))
            await transport.send(PutObject(key="k", body=b"first"))
            with pytest.raises(PreconditionFailed, match="CompleteMultipartUpload of s3://"):
                await transport.send(complete)
            assert (await transport.send(HeadObject(key="k"))).size_bytes == 5
            await transport.send(AbortMultipartUpload(key="k", upload_id=upload_id))

    async def test_the_write_token_of_an_upload(self, open_transport: OpenTransport) -> None:
        data = os.urandom(5 * MIB)
        async with open_transport() as transport:
            _, complete = await _upload(transport, data)
            await transport.send(complete)
            assert (await transport.send(HeadObject(key="k"))).metadata["asyncsink-write"] == TOKEN


async def _upload(transport: Transport, data: bytes) -> tuple[str, CompleteMultipartUpload]:
    """An upload of one part, and what completes it where nothing is to be replaced."""
    created = await transport.send(CreateMultipartUpload(key="k", algorithm="CRC64NVME", write_token=TOKEN))
    stored = await transport.send(
        UploadPart(key="k", upload_id=created.upload_id, part_number=1, body=data, checksum=crc64(data))
    )
    part = CompletedPart(part_number=1, etag=stored.etag, checksum=crc64(data))
    return created.upload_id, CompleteMultipartUpload(
        key="k", upload_id=created.upload_id, parts=(part,), size_bytes=len(data), checksum=crc64(data), only_new=True
    )
