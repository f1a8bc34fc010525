"""What is refused before it is sent, what is sent without credentials, and what an answer without a server means."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsink.errors import AccessDenied, ClockSkew, ConfigError, IntegrityError, InvalidKey, ServerFault
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Checksum
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import Secret
from asyncsink.s3.http import reading
from asyncsink.s3.http.reading import Answer, error_of_answer, is_error, response_of
from asyncsink.s3.http.requests import TEMPLATES_MAX, RequestWriter
from asyncsink.s3.http.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD, Signer, endpoint_of
from asyncsink.s3.operations import HeadObject, ObjectAttributes, ObjectHead, ObjectStored, PutObject, UploadPart

ENDPOINT = endpoint_of(S3Target(bucket="bkt", endpoint_url="http://127.0.0.1:1"), "us-east-1")
STAMP = "20260131T235959Z"


@pytest.fixture
def writer() -> RequestWriter:
    return RequestWriter(ENDPOINT, Signer("AKID", Secret(b"secret"), "us-east-1", Secret(b"tok%s{}en")))


@pytest.mark.parametrize("region", ["", "us-iso-east-1", "eu-isoe-west-1", "evil.example.org/", "é", "-"])
def test_a_region_without_a_known_host_is_refused(region: str) -> None:
    with pytest.raises(ConfigError, match="region="):
        endpoint_of(S3Target(bucket="bkt"), region)


@pytest.mark.parametrize(
    "url",
    ["ftp://h", "h:9000", "http://user:pass@h", "http://h?x=1", "http://hé", "http://.h", "http://h/a b", "http://h/é"],
)
def test_a_malformed_endpoint_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_url") as caught:
        endpoint_of(S3Target(bucket="bkt", endpoint_url=url), "x")
    assert "pass" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("bucket", ["arn:aws:s3:us-east-1:1:accesspoint/a", "b--use1-az4--x-s3"])
def test_a_bucket_of_another_kind_is_refused(bucket: str) -> None:
    with pytest.raises(ConfigError, match="aioboto3"):
        endpoint_of(S3Target(bucket=bucket), "us-east-1")


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        ("http://example.org", True),
        ("http://127.0.0.1", False),
        ("http://[::1]", False),
        ("https://example.org", False),
    ],
)
def test_the_payload_is_signed_where_nothing_else_guards_it(url: str, signed: bool) -> None:
    assert endpoint_of(S3Target(bucket="bkt", endpoint_url=url), "x").sign_payload is signed


@settings(max_examples=200)
@given(data=st.data())
def test_the_quick_head_of_a_small_put_is_the_head(data: st.DataObject) -> None:
    """For whatever keys, seconds and kinds follow each other."""
    token = data.draw(st.sampled_from([None, Secret(b"token")]))
    signer = data.draw(st.sampled_from([None, Signer("AKID", Secret(b"secret"), "us-east-1", token)]))
    writer = RequestWriter(ENDPOINT, signer, request_payer=data.draw(st.booleans()))
    kinds = [
        ObjectAttributes(),
        ObjectAttributes(content_type="text/plain", metadata=(("a", "b  c"), ("z", "%s{}"))),
        ObjectAttributes(sse_customer_key=Secret(b"k" * 32), tags=(("a b", "ü"),), storage_class="STANDARD_IA"),
    ]
    for _ in range(data.draw(st.integers(1, 8))):
        key = data.draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
        size = data.draw(st.integers(0, 300))
        checksum = checksum_of(bytes(size), data.draw(st.sampled_from(["CRC64NVME", "SHA256", "CRC32", "MD5"])))
        attributes = data.draw(st.sampled_from(kinds))
        payload_hash = data.draw(st.sampled_from([UNSIGNED_PAYLOAD, EMPTY_PAYLOAD, "0" * 64]))
        stamp = data.draw(st.sampled_from(["20260131T235959Z", "20260201T000000Z", "20260201T000001Z"]))
        put = PutObject(key=key, body=bytes(size), checksum=checksum, attributes=attributes)
        quick = writer.put_head(key, size, checksum, attributes, (payload_hash, stamp))
        assert quick == writer.head(put, payload_hash, stamp)


def test_a_key_that_is_no_text_is_refused(writer: RequestWriter) -> None:
    with pytest.raises(InvalidKey, match="Unicode"):
        writer.head(HeadObject(key="a\udcff"), UNSIGNED_PAYLOAD, STAMP)
    with pytest.raises(InvalidKey, match="Unicode"):
        writer.put_head("a\udcff", 0, Checksum("CRC32", ""), ObjectAttributes(), (EMPTY_PAYLOAD, STAMP))


@pytest.mark.parametrize(
    "attributes",
    [
        ObjectAttributes(content_type="a\r\nx-amz-acl: public-read"),
        ObjectAttributes(metadata=(("a b", "c"),)),
        ObjectAttributes(metadata=(("a:", "c"),)),
        ObjectAttributes(metadata=(("", "c"),)),
        ObjectAttributes(metadata=(("A", "c"), ("a", "d"))),
        ObjectAttributes(metadata=(("a", "c\r\nd"),)),
        ObjectAttributes(metadata=(("a", "é"),)),
        ObjectAttributes(sse_kms_key_id="\x00"),
    ],
)
def test_headers_that_http_cannot_carry_are_refused(writer: RequestWriter, attributes: ObjectAttributes) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="cannot be sent"):
            writer.head(PutObject(key="k", body=b"", attributes=attributes), UNSIGNED_PAYLOAD, STAMP)


def test_a_checksum_cannot_end_a_header(writer: RequestWriter) -> None:
    bad = Checksum("CRC32", "x\r\ny: z")
    with pytest.raises(ConfigError, match="checksum"):
        writer.head(PutObject(key="k", body=b"", checksum=bad), UNSIGNED_PAYLOAD, STAMP)
    writer.head(PutObject(key="k", body=b"", checksum=Checksum("CRC32", "AAAAAA==")), UNSIGNED_PAYLOAD, STAMP)
    with pytest.raises(ConfigError, match="checksum"):
        writer.head(PutObject(key="k", body=b"", checksum=bad), UNSIGNED_PAYLOAD, STAMP)


def test_anonymous_requests_are_not_signed() -> None:
    writer = RequestWriter(ENDPOINT, None, request_payer=True)
    put = PutObject(key="a b", body=b"xyz", checksum=checksum_of(b"xyz", "CRC32"))
    head = writer.head(put, UNSIGNED_PAYLOAD, STAMP)
    assert head == (
        b"PUT /bkt/a%20b HTTP/1.1\r\nuser-agent: asyncsink\r\nhost: 127.0.0.1:1\r\n"
        b"x-amz-checksum-crc32: 64uMZw==\r\nx-amz-request-payer: requester\r\ncontent-length: 3\r\n\r\n"
    ).replace(b"64uMZw==", checksum_of(b"xyz", "CRC32").value.encode())
    assert b"checksum" not in writer.head(PutObject(key="k", body=b""), UNSIGNED_PAYLOAD, STAMP)
    assert b"content-length: 0\r\n" in writer.head(PutObject(key="k", body=b""), UNSIGNED_PAYLOAD, STAMP)


def test_secrets_do_not_show_and_templates_are_bounded(writer: RequestWriter) -> None:
    for number in range(2 * TEMPLATES_MAX):
        attributes = ObjectAttributes(metadata=(("n", f"%s{{}}{number}"),), sse_customer_key=Secret(b"k" * 32))
        head = writer.head(PutObject(key="k", body=b"x", attributes=attributes), UNSIGNED_PAYLOAD, STAMP)
        assert f"x-amz-meta-n: %s{{}}{number}\r\n".encode() in head
        assert b"x-amz-security-token: tok%s{}en\r\n" in head
    assert len(writer._templates) <= TEMPLATES_MAX
    assert "tok" not in repr(writer)
    assert "secret" not in repr(writer)


PUT = PutObject(key="k", body=b"x", checksum=Checksum("CRC32", "AAAAAA=="))


def test_an_answer_to_a_put() -> None:
    answer = Answer(
        200,
        {
            b"etag": b'"abc"',
            b"x-amz-checksum-crc32": b"AAAAAA==",
            b"x-amz-version-id": b"v",
            b"x-amz-server-side-encryption-customer-algorithm": b"AES256",
        },
        b"",
    )
    expected = ObjectStored(etag="abc", checksum=PUT.checksum, version_id="v", sse="customer")
    assert response_of(PUT, answer) == expected
    assert response_of(UploadPart(key="k", upload_id="u", part_number=1, body=b"x"), answer) == expected


@settings(max_examples=500)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            b"etag": st.sampled_from([b'"abc"', b"abc", b'W/"abc"', b'"abc-2"', b"", b'"']),
            b"x-amz-checksum-crc32": st.sampled_from([b"AAAAAA==", b" AAAAAA== ", b"BBBBBB==", b"AAAAAA==-2", b""]),
            b"x-amz-checksum-crc64nvme": st.just(b"AAAAAAAAAAA="),
            b"x-amz-checksum-type": st.sampled_from([b"FULL_OBJECT", b"COMPOSITE", b"", b"full_object"]),
            b"x-amz-version-id": st.sampled_from([b"v", b" v", b""]),
            b"x-amz-server-side-encryption": st.sampled_from([b"AES256", b"aws:kms", b""]),
            b"x-amz-server-side-encryption-customer-algorithm": st.sampled_from([b"AES256", b""]),
        },
    ),
    st.sampled_from([PUT, UploadPart(key="k", upload_id="u", part_number=1, body=b"x", checksum=PUT.checksum)]),
)
def test_the_short_way_to_read_an_answer_means_what_the_long_way_means(
    headers: dict[bytes, bytes], operation: PutObject | UploadPart
) -> None:
    short = reading._as_sent(operation, Answer(200, headers, b""))
    if short is None:
        return
    with mock.patch.object(reading, "_as_sent", return_value=None):
        assert short == response_of(operation, Answer(200, headers, b""))


def test_an_answer_to_a_head() -> None:
    headers = {
        b"content-length": b"12",
        b"etag": b'W/"abc"',
        b"x-amz-checksum-crc64nvme": b"AAAAAAAAAAA=",
        b"x-amz-checksum-type": b"FULL_OBJECT",
        b"last-modified": b"Sun, 22 Nov 2026 12:00:00 -0000",
        b"x-amz-meta-a": "é".encode(),
        b"x-amz-mp-parts-count": b"3",
        b"content-type": b"text/plain",
        b"x-amz-storage-class": b"GLACIER",
    }
    assert response_of(HeadObject(key="k"), Answer(200, headers, b"")) == ObjectHead(
        size_bytes=12,
        etag="abc",
        checksums={"CRC64NVME": "AAAAAAAAAAA="},
        last_modified=datetime(2026, 11, 22, 12, tzinfo=UTC),
        metadata={"a": "é"},
        content_type="text/plain",
        storage_class="GLACIER",
        parts_count=3,
    )


@pytest.mark.parametrize("size", [None, b"", b"x", b"-1", b"9" * 30])
def test_a_head_without_a_size_is_a_fault(size: bytes | None) -> None:
    headers = {} if size is None else {b"content-length": size}
    with pytest.raises(ServerFault, match="size"):
        response_of(HeadObject(key="k"), Answer(200, headers, b""))


@pytest.mark.parametrize("date", [b"", b"nonsense", b"Sun, 99 Nov 2026 12:00:00 GMT", b"\xff"])
def test_dates_that_are_none(date: bytes) -> None:
    headers = {b"content-length": b"1", b"last-modified": date}
    head = response_of(HeadObject(key="k"), Answer(200, {**headers, b"etag": b'"e"'}, b""))
    assert isinstance(head, ObjectHead)
    assert head.last_modified is None
    # S3 gives every object an ETag and a date: an answer with neither is not about an object.
    with pytest.raises(ServerFault, match="describes no object"):
        response_of(HeadObject(key="k"), Answer(200, headers, b""))


def test_an_error_in_a_200() -> None:
    answer = Answer(200, {}, b"<?xml version='1.0'?>\n<Error><Code>InternalError</Code></Error>")
    assert is_error(answer)
    assert isinstance(error_of_answer(PUT, "bkt", answer, None), ServerFault)
    assert is_error(Answer(200, {}, b'<Error xmlns="x"><Code>InternalError</Code></Error>'))
    assert not is_error(Answer(200, {}, b"<PutObjectResult/>"))


def test_an_error_is_read_without_expanding_anything() -> None:
    body = (
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><Error xmlns="x"><Code>BadDigest</Code>'
        b"<Message>&b; &lt;x&gt; &amp;amp; \x1b[31m\xff</Message><CalculatedDigest>abc</CalculatedDigest></Error>"
    )
    error = error_of_answer(PUT, "bkt", Answer(400, {}, body), None)
    assert isinstance(error, IntegrityError)
    assert (error.expected, error.actual) == ("CRC32:AAAAAA==", "abc")
    assert "&b; <x> &amp;" in str(error)
    assert "\x1b" not in str(error)


def test_a_refused_head_with_another_clock_is_skew() -> None:
    answer = Answer(403, {b"date": b"Sun, 22 Nov 2026 12:00:00 GMT"}, b"")
    server_time = datetime(2026, 11, 22, 12, tzinfo=UTC).timestamp()
    assert isinstance(error_of_answer(HeadObject(key="k"), "bkt", answer, server_time - 3600), ClockSkew)
    assert isinstance(error_of_answer(HeadObject(key="k"), "bkt", answer, server_time - 60), AccessDenied)
    assert isinstance(error_of_answer(HeadObject(key="k"), "bkt", answer, None), AccessDenied)
