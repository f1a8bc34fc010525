"""Conformance of a Transport, as tests against a real server.

    class TestMyTransport(TransportSuite):
        capabilities = frozenset({"enforces-checksums", "sse-c"})

        @pytest.fixture
        def open_transport(self): ...        # an OpenTransport: async context manager of a transport to an empty bucket

        @pytest.fixture
        def endpoint_url(self): ...          # of the server behind it, plain HTTP on loopback

        @pytest.fixture
        def independent(self): ...           # a synchronous boto3 client and the empty bucket's name

Tests of what differs between servers run only where `capabilities` names it. Needs pytest with anyio's plugin.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from typing import Any, ClassVar

import pytest

from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    BucketMissing,
    ConfigError,
    CredentialsError,
    IntegrityError,
    ObjectMissing,
    PreconditionFailed,
    UploadMissing,
)
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import MIB, ChecksumAlgorithm, Secret
from asyncsink.s3.get_object import DeleteObjects, GetObject
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    DeleteObject,
    HeadObject,
    ListMultipartUploads,
    ListObjects,
    ListParts,
    ObjectAttributes,
    PutObject,
    UploadPart,
)
from asyncsink.testing.get_suite import GetSuite
from asyncsink.testing.transport_kit import (
    Capability,
    OpenTransport,
    TransportConditionSuite,
    TransportFaultSuite,
    crc64,
    upload_in_parts,
)

ODD_KEYS = (
    "plain.nii.gz",
    "with space/and+plus",
    "percent%20encoded%2Fslash%",
    "ünï/cødé/日本語.txt",
    "emoji-🧠-🧪",
    "tilde~/star*(paren)'quote'!",
    "semi;colon=equals&and,comma@at:colon$dollar",
    'quote"and<angle>{brace}[bracket]^caret`tick|pipe',
    "hash#question?mark",
    "sub-01/_task_rest/deep/" + "x" * 200,
)


@pytest.mark.anyio
class TransportSuite(TransportConditionSuite, TransportFaultSuite, GetSuite):
    """Conformance of a Transport. A subclass gives the server's capabilities and the three fixtures above."""

    capabilities: ClassVar[frozenset[Capability]] = frozenset()

    def need(self, *capabilities: Capability) -> None:
        """Skip the test where the server lacks one of `capabilities`."""
        for capability in capabilities:
            if capability not in self.capabilities:
                pytest.skip(f"the server lacks {capability!r}")

    # One object at a time

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    async def test_what_is_put_comes_back(
        self, open_transport: OpenTransport, kind: type[bytes | bytearray | memoryview]
    ) -> None:
        async with open_transport() as transport:
            for size_bytes in (0, 1, 65536, 65537, 3 * 256 * 1024, 5 * MIB + 1):
                data = os.urandom(size_bytes)
                stored = await transport.send(PutObject(key="a/b", body=kind(data), checksum=crc64(data)))
                assert stored.etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
                assert stored.checksum in (None, crc64(data))
                head = await transport.send(HeadObject(key="a/b"))
                assert (head.size_bytes, head.etag, head.composite) == (size_bytes, stored.etag, False)
                assert head.last_modified is not None
                assert head.last_modified.tzinfo is not None
                if "answers-checksums" in self.capabilities:
                    assert head.checksums["CRC64NVME"] == crc64(data).value
                if size_bytes:
                    whole = await transport.send(GetObject(key="a/b", length=size_bytes))
                    assert (whole.data, whole.etag) == (data, stored.etag)

    async def test_a_range_and_more_than_there_is(self, open_transport: OpenTransport) -> None:
        data = bytes(range(256)) * 4
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=data))
            assert (await transport.send(GetObject(key="k", offset=10, length=5))).data == data[10:15]
            assert (await transport.send(GetObject(key="k", offset=1000, length=5000))).data == data[1000:]

    async def test_get_of_a_replaced_object_is_refused(self, open_transport: OpenTransport) -> None:
        self.need("if-match")
        async with open_transport() as transport:
            first = await transport.send(PutObject(key="k", body=b"first"))
            await transport.send(GetObject(key="k", length=5, if_match=first.etag))
            await transport.send(PutObject(key="k", body=b"other"))
            with pytest.raises(PreconditionFailed):
                await transport.send(GetObject(key="k", length=5, if_match=first.etag))

    @pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5"])
    async def test_every_checksum_is_accepted_and_a_wrong_one_refused(
        self, open_transport: OpenTransport, algorithm: ChecksumAlgorithm
    ) -> None:
        data = os.urandom(70_000)
        async with open_transport() as transport:
            await transport.send(PutObject(key="good", body=data, checksum=checksum_of(data, algorithm)))
            self.need("enforces-checksums")
            wrong = checksum_of(data[:-1], algorithm)
            with pytest.raises(IntegrityError) as caught:
                await transport.send(PutObject(key="bad", body=data, checksum=wrong))
            assert caught.value.expected == str(wrong)
            with pytest.raises(ObjectMissing):
                await transport.send(HeadObject(key="bad"))

    async def test_a_missing_key(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            with pytest.raises(ObjectMissing, match="no/such"):
                await transport.send(HeadObject(key="no/such"))
            with pytest.raises(ObjectMissing, match="no/such"):
                await transport.send(GetObject(key="no/such", length=1))
            await transport.send(DeleteObject(key="no/such"))

    async def test_deleted_is_gone(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b"x"))
            await transport.send(DeleteObject(key="k"))
            with pytest.raises(ObjectMissing):
                await transport.send(HeadObject(key="k"))

    async def test_many_are_deleted_by_one_request(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            keys = ["k", "a b/c+%&<é>", "gone"]
            stored = [await transport.send(PutObject(key=key, body=b"x")) for key in keys[:2]]
            objects = ((keys[0], stored[0].etag), (keys[1], stored[1].etag), (keys[2], ""))
            answer = await transport.send(DeleteObjects(objects=objects))
            assert (set(answer.versions), answer.errors) == (set(keys), {})
            assert not (await transport.send(ListObjects())).objects

    async def test_a_missing_bucket(self, open_transport: OpenTransport) -> None:
        async with open_transport(bucket="no-such-bucket-anywhere") as transport:
            with pytest.raises(BucketMissing, match="no-such-bucket-anywhere"):
                await transport.send(ListObjects())
            with pytest.raises(BucketMissing):
                await transport.send(PutObject(key="k", body=b"x", checksum=crc64(b"x")))

    async def test_a_wrong_secret(self, open_transport: OpenTransport) -> None:
        self.need("checks-signatures")
        wrong = "wrong-" + "s" * 34
        async with open_transport(secret_access_key=wrong) as transport:
            with pytest.raises(CredentialsError) as caught:
                await transport.send(PutObject(key="k", body=b"x"))
            assert wrong not in str(caught.value) + repr(caught.value) + repr(transport)
            with pytest.raises((CredentialsError, AccessDenied)):  # a HEAD has no body to distinguish them
                await transport.send(HeadObject(key="k"))

    # Attributes

    async def test_metadata_and_content_type(self, open_transport: OpenTransport) -> None:
        attributes = ObjectAttributes(content_type="application/gzip", metadata=(("subject-id", "sub 01 =?"),))
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b"x", attributes=attributes))
            head = await transport.send(HeadObject(key="k"))
            assert head.metadata["subject-id"] == "sub 01 =?"
            assert head.content_type == "application/gzip"

    @pytest.mark.parametrize("value", ["é", "a\nb", "a\x00b"])
    async def test_metadata_that_no_header_carries_is_refused(self, open_transport: OpenTransport, value: str) -> None:
        async with open_transport() as transport:
            with pytest.raises(ConfigError, match="metadata"):
                await transport.send(
                    PutObject(key="k", body=b"x", attributes=ObjectAttributes(metadata=(("m", value),)))
                )

    async def test_sse_s3(self, open_transport: OpenTransport) -> None:
        self.need("sse-s3")
        async with open_transport() as transport:
            stored = await transport.send(PutObject(key="k", body=b"x", attributes=ObjectAttributes(sse="AES256")))
            assert stored.sse == "AES256"
            assert (await transport.send(HeadObject(key="k"))).sse == "AES256"

    async def test_customer_key(self, open_transport: OpenTransport) -> None:
        self.need("sse-c")
        key, data = Secret(b"k" * 32), os.urandom(100_000)
        attributes = ObjectAttributes(sse_customer_key=key)
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=data, checksum=crc64(data), attributes=attributes))
            head = await transport.send(HeadObject(key="k", sse_customer_key=key))
            assert (head.size_bytes, head.sse) == (len(data), "customer")
            assert (await transport.send(GetObject(key="k", length=len(data), sse_customer_key=key))).data == data
            with pytest.raises(AsyncSinkError) as caught:
                await transport.send(GetObject(key="k", length=1))
            assert "k" * 32 not in str(caught.value)
            parts = await upload_in_parts(transport, "parts", data * 60, attributes=attributes)
            assert parts.etag
            last = GetObject(key="parts", offset=len(data) * 59, length=len(data), sse_customer_key=key)
            assert (await transport.send(last)).data == data

    async def test_attributes_as_another_client_reads_them(
        self, open_transport: OpenTransport, independent: tuple[Any, str]
    ) -> None:
        self.need("tags", "sse-s3")
        client, bucket = independent
        attributes = ObjectAttributes(
            content_type="text/csv",
            tags=(("project", "a b=c+d/e@f"), ("sub-01", "x")),
            metadata=(("Run-Id", "7"),),
            sse="AES256",
        )
        data = os.urandom(6 * MIB)
        async with open_transport() as transport:
            await transport.send(PutObject(key="one", body=data, attributes=attributes))
            await upload_in_parts(transport, "parts", data, attributes=attributes)

        def read_back(key: str) -> tuple[object, ...]:
            answer = client.get_object(Bucket=bucket, Key=key)
            tags = client.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
            named = {tag["Key"]: tag["Value"] for tag in tags}
            with answer["Body"] as body:
                same = body.read() == data
            return same, answer["ContentType"], answer["Metadata"], answer["ServerSideEncryption"], named

        for key in ("one", "parts"):
            found = await asyncio.to_thread(read_back, key)
            assert found == (True, "text/csv", {"run-id": "7"}, "AES256", dict(attributes.tags))

    async def test_storage_class(self, open_transport: OpenTransport) -> None:
        self.need("storage-class")
        attributes = ObjectAttributes(storage_class="STANDARD_IA")
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b"x", attributes=attributes))
            assert (await transport.send(HeadObject(key="k"))).storage_class == "STANDARD_IA"

    # Listing

    async def test_odd_keys(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            for key in ODD_KEYS:
                await transport.send(PutObject(key=key, body=key.encode(), checksum=crc64(key.encode())))
            for key in ODD_KEYS:
                size = len(key.encode())
                assert (await transport.send(GetObject(key=key, length=size))).data == key.encode()
            page = await transport.send(ListObjects())
            assert [found.key for found in page.objects] == sorted(ODD_KEYS, key=str.encode)
            assert page.next_token == ""
            only = await transport.send(ListObjects(prefix="ünï/"))
            assert [found.key for found in only.objects] == ["ünï/cødé/日本語.txt"]
            assert only.objects[0].size_bytes == len("ünï/cødé/日本語.txt".encode())
            moment = only.objects[0].last_modified
            assert moment is not None
            assert moment.tzinfo is not None
            assert len(only.objects[0].etag) == 32

    async def test_listing_in_pages(self, open_transport: OpenTransport) -> None:
        keys = [f"p/{number:03}" for number in range(7)]
        async with open_transport() as transport:
            assert (await transport.send(ListObjects())).objects == ()
            for key in [*keys, "other"]:
                await transport.send(PutObject(key=key, body=b"x"))
            found: list[str] = []
            token, pages = "", 0
            while True:
                page = await transport.send(ListObjects(prefix="p/", token=token, max_keys=3))
                found += [each.key for each in page.objects]
                token, pages = page.next_token, pages + 1
                if not token:
                    break
            assert (found, pages) == (keys, 3)
            page = await transport.send(ListObjects(prefix="p/", start_after="p/002~", max_keys=3))
            assert [each.key for each in page.objects] == keys[3:6]
            page = await transport.send(
                ListObjects(prefix="p/", start_after="p/002~", token=page.next_token, max_keys=3)
            )
            assert [each.key for each in page.objects] == keys[6:]

    async def test_listing_below_odd_prefixes(self, open_transport: OpenTransport) -> None:
        prefixes = ("a b+c%20d/", "&<x>/", "ü=?#/")
        async with open_transport() as transport:
            for prefix in prefixes:
                await transport.send(PutObject(key=f"{prefix}one", body=b"1"))
                await transport.send(PutObject(key=f"{prefix}two+2 %2B", body=b"22"))
            for prefix in prefixes:
                page = await transport.send(ListObjects(prefix=prefix))
                expected = [(f"{prefix}one", 1), (f"{prefix}two+2 %2B", 2)]
                assert [(found.key, found.size_bytes) for found in page.objects] == expected
                assert page.objects[0].etag == hashlib.md5(b"1", usedforsecurity=False).hexdigest()
            assert (await transport.send(ListObjects(prefix="a b+c%20d/three"))).objects == ()

    async def test_listing_with_a_wrong_secret(self, open_transport: OpenTransport) -> None:
        self.need("checks-signatures")
        async with open_transport(secret_access_key="wrong-" + "s" * 34) as transport:
            with pytest.raises(CredentialsError, match="ListObjectsV2"):
                await transport.send(ListObjects(prefix="p/"))

    # Multipart

    async def test_multipart(self, open_transport: OpenTransport) -> None:
        data = os.urandom(12 * MIB + 1)
        async with open_transport() as transport:
            stored = await upload_in_parts(transport, "big", data)
            assert stored.etag.endswith("-3")
            head = await transport.send(HeadObject(key="big"))
            assert (head.size_bytes, head.etag, head.composite) == (len(data), stored.etag, False)
            if "mpu-checksum" in self.capabilities:
                assert head.checksums["CRC64NVME"] == crc64(data).value
                assert stored.checksum in (None, crc64(data))
            if "part-1-head" in self.capabilities:
                first = await transport.send(HeadObject(key="big", part_number=1))
                assert (first.size_bytes, first.parts_count) == (5 * MIB, 3)
            end = await transport.send(GetObject(key="big", offset=10 * MIB, length=3 * MIB))
            assert end.data == data[10 * MIB :]

    async def test_a_wrong_total_is_refused(self, open_transport: OpenTransport) -> None:
        self.need("mpu-checksum")
        data = os.urandom(6 * MIB)
        async with open_transport() as transport:
            with pytest.raises(AsyncSinkError):
                await upload_in_parts(transport, "big", data, total=crc64(data[1:]))
            with pytest.raises(ObjectMissing):
                await transport.send(HeadObject(key="big"))

    async def test_a_wrong_part_checksum_is_refused(self, open_transport: OpenTransport) -> None:
        self.need("enforces-checksums")
        data = os.urandom(100_000)
        async with open_transport() as transport:
            created = await transport.send(CreateMultipartUpload(key="big", algorithm="CRC64NVME"))
            with pytest.raises(IntegrityError):
                await transport.send(
                    UploadPart(
                        key="big", upload_id=created.upload_id, part_number=1, body=data, checksum=crc64(data[1:])
                    )
                )
            await transport.send(AbortMultipartUpload(key="big", upload_id=created.upload_id))

    async def test_parts_and_uploads_are_listed_and_abort_forgets_them(self, open_transport: OpenTransport) -> None:
        data = os.urandom(5 * MIB)
        key = "in parts/é +1"
        async with open_transport() as transport:
            created = await transport.send(CreateMultipartUpload(key=key, algorithm="CRC64NVME"))
            part = UploadPart(key=key, upload_id=created.upload_id, part_number=2, body=data, checksum=crc64(data))
            stored = await transport.send(part)
            listed = await transport.send(ListParts(key=key, upload_id=created.upload_id))
            (only,) = listed.parts
            assert (only.part_number, only.size_bytes, only.etag) == (2, len(data), stored.etag)
            assert listed.next_marker is None
            if "list-parts-checksums" in self.capabilities:
                assert only.checksum == crc64(data)
            after = await transport.send(ListParts(key=key, upload_id=created.upload_id, marker=2))
            assert after.parts == ()
            if "list-uploads" in self.capabilities:
                uploads = await transport.send(ListMultipartUploads(prefix="in parts/"))
                assert [(each.key, each.upload_id) for each in uploads.uploads] == [(key, created.upload_id)]
                initiated = uploads.uploads[0].initiated
                assert initiated is not None
                assert initiated.tzinfo is not None
            await transport.send(AbortMultipartUpload(key=key, upload_id=created.upload_id))
            await transport.send(AbortMultipartUpload(key=key, upload_id=created.upload_id))
            with pytest.raises(UploadMissing):
                await transport.send(ListParts(key=key, upload_id=created.upload_id))
            with pytest.raises(ObjectMissing):
                await transport.send(HeadObject(key=key))

    async def test_an_unknown_upload(self, open_transport: OpenTransport) -> None:
        self.need("unknown-upload")
        async with open_transport() as transport:
            created = await transport.send(CreateMultipartUpload(key="k"))
            await transport.send(AbortMultipartUpload(key="k", upload_id=created.upload_id))
            with pytest.raises(UploadMissing, match="k"):
                await transport.send(UploadPart(key="k", upload_id=created.upload_id, part_number=1, body=b"x" * 10))
            part = CompletedPart(part_number=1, etag="0" * 32)
            with pytest.raises(UploadMissing):
                await transport.send(
                    CompleteMultipartUpload(key="k", upload_id=created.upload_id, parts=(part,), size_bytes=10)
                )
