"""Signed requests against botocore's own signer as the oracle."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import Secret
from asyncsink.s3.http.requests import ObjectOperation, RequestWriter
from asyncsink.s3.http.signing import (
    EMPTY_PAYLOAD,
    UNSIGNED_PAYLOAD,
    Endpoint,
    Signer,
    canonical_headers,
    canonical_query,
    encode_path,
    endpoint_of,
)
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    HeadObject,
    ListParts,
    ObjectAttributes,
    PutObject,
    UploadPart,
)

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
VALUES = st.text(PRINTABLE, min_size=1, max_size=40).filter(lambda text: text.strip() == text)
TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789-_.~!#$&'*+^`|", min_size=1, max_size=20)
KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
REGIONS = st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1", "local", "x"])
MOMENTS = st.datetimes(datetime.datetime(2000, 1, 1), datetime.datetime(2099, 12, 31))  # noqa: DTZ001 - naive by design
SECRETS = st.text(PRINTABLE, min_size=1, max_size=50).map(str.strip).filter(bool)
ENDPOINTS = st.builds(
    lambda scheme, host, port, path: f"{scheme}://{host}{port}{path}",
    st.sampled_from(["http", "https"]),
    st.sampled_from(["s3.example.org", "127.0.0.1", "[::1]", "localhost", "A.Example.ORG"]),
    st.sampled_from(["", ":80", ":443", ":9000"]),
    st.sampled_from(["", "/", "/gateway/s3"]),
)
CHECKSUMS = st.sampled_from([None, "CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5"])


@st.composite
def attributes(draw: Any) -> ObjectAttributes:
    metadata = draw(st.dictionaries(TOKENS.map(str.lower), VALUES, max_size=4))
    return ObjectAttributes(
        content_type=draw(st.just("") | VALUES),
        sse=draw(st.sampled_from(["", "AES256", "aws:kms"])),
        sse_kms_key_id=draw(st.just("") | VALUES),
        sse_customer_key=draw(st.none() | st.binary(min_size=32, max_size=32).map(Secret)),
        storage_class=draw(st.sampled_from(["", "STANDARD_IA"])),
        acl=draw(st.sampled_from(["", "private"])),
        tags=tuple(draw(st.dictionaries(KEYS, KEYS, max_size=2)).items()),
        metadata=tuple(metadata.items()),
    )


TOKEN = st.sampled_from(["", "0123456789abcdef" * 2])


@st.composite
def operations(draw: Any) -> ObjectOperation:
    key = draw(KEYS)
    body = draw(st.binary(max_size=20))
    algorithm = draw(CHECKSUMS)
    checksum = None if algorithm is None else checksum_of(body, algorithm)
    customer_key = draw(st.none() | st.binary(min_size=32, max_size=32).map(Secret))
    return draw(
        st.sampled_from(
            [
                PutObject(
                    key=key,
                    body=body,
                    checksum=checksum,
                    attributes=draw(attributes()),
                    only_new=draw(st.booleans()),
                    write_token=draw(TOKEN),
                ),
                UploadPart(
                    key=key,
                    upload_id=draw(KEYS),
                    part_number=draw(st.integers(1, 10_000)),
                    body=body,
                    checksum=checksum,
                    sse_customer_key=customer_key,
                ),
                HeadObject(
                    key=key,
                    part_number=draw(st.none() | st.integers(1, 10_000)),
                    version_id=draw(st.just("") | KEYS),
                    sse_customer_key=customer_key,
                ),
                CreateMultipartUpload(
                    key=key, algorithm=algorithm, attributes=draw(attributes()), write_token=draw(TOKEN)
                ),
                CompleteMultipartUpload(
                    key=key,
                    upload_id=draw(KEYS),
                    parts=(),
                    size_bytes=draw(st.integers(0, 50 * 2**40)),
                    checksum=checksum,
                    only_new=draw(st.booleans()),
                    sse_customer_key=customer_key,
                ),
                AbortMultipartUpload(key=key, upload_id=draw(KEYS)),
                ListParts(
                    key=key, upload_id=draw(KEYS), marker=draw(st.integers(0, 10_000)), sse_customer_key=customer_key
                ),
            ]
        )
    )


def oracle(
    method: str, url: str, headers: dict[str, str], credentials: Credentials, region: str, moment: datetime.datetime
) -> AWSRequest:
    request = AWSRequest(method=method, url=url, headers=headers)
    request.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    with patch.object(botocore.auth, "get_current_datetime", lambda: moment):
        botocore.auth.S3SigV4Auth(credentials, "s3", region).add_auth(request)
    return request


UNSIGNED = ("user-agent", "content-length", "host", "accept-encoding")


def parse(head: bytes) -> tuple[str, str, dict[str, str]]:
    lines = head.decode("ascii").split("\r\n")
    assert lines[-2:] == ["", ""]
    method, target, version = lines[0].split(" ")
    assert version == "HTTP/1.1"
    pairs = [line.split(": ", 1) for line in lines[1:-2]]
    headers = dict(pairs)
    assert len(headers) == len(pairs)
    return method, target, headers


@given(
    operation=operations(),
    url=ENDPOINTS,
    style=st.sampled_from(["auto", "path", "virtual"]),
    bucket=st.sampled_from(["bucket", "dotted.bucket", "under_score", "Upper"]),
    region=REGIONS,
    key_id=st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=20),
    secret=SECRETS,
    token=st.none() | SECRETS,
    moment=MOMENTS,
    payer=st.booleans(),
)
@settings(max_examples=200)
def test_the_signature_is_botocores(
    operation: ObjectOperation,
    url: str,
    style: Any,
    bucket: str,
    region: str,
    key_id: str,
    secret: str,
    token: str | None,
    moment: datetime.datetime,
    payer: bool,
) -> None:
    endpoint = endpoint_of(S3Target(bucket=bucket, endpoint_url=url, addressing_style=style), region)
    signer = Signer(key_id, Secret(secret.encode()), region, Secret(token.encode()) if token else None)
    writer = RequestWriter(endpoint, signer, request_payer=payer)
    method, target, headers = parse(writer.head(operation, UNSIGNED_PAYLOAD, f"{moment:%Y%m%dT%H%M%SZ}"))
    ours = headers.pop("authorization")
    unsigned = {name: headers.pop(name) for name in UNSIGNED if name in headers}
    server = urlsplit(endpoint.url)
    expected = oracle(
        method,
        f"{server.scheme}://{server.netloc}{target}",
        headers,
        Credentials(key_id, secret, token),
        region,
        moment,
    )
    assert ours == expected.headers["Authorization"]
    assert headers.pop("x-amz-security-token", None) == token
    assert unsigned["host"] == botocore.auth._host_from_url(endpoint.url)
    assert headers["x-amz-content-sha256"] == UNSIGNED_PAYLOAD
    assert unquote(urlsplit(target).path) == f"{unquote(endpoint.base_path)}{operation.key}"
    # The same request again comes from the template that is kept now.
    assert parse(writer.head(operation, UNSIGNED_PAYLOAD, f"{moment:%Y%m%dT%H%M%SZ}"))[2]["authorization"] == ours


@given(pairs=st.lists(st.tuples(KEYS, KEYS), max_size=5), headers=st.dictionaries(TOKENS.map(str.lower), VALUES))
@settings(max_examples=100)
def test_queries_and_headers_are_canonical(pairs: list[tuple[str, str]], headers: dict[str, str]) -> None:
    auth = botocore.auth.S3SigV4Auth(None, "s3", "x")
    request = AWSRequest(method="PUT", url="http://h/", headers=headers)
    request.headers["Host"] = "h"
    assert canonical_query(pairs) == auth._canonical_query_string_params(pairs)
    text, names = canonical_headers([*headers.items(), ("host", "h")] if "host" not in headers else headers.items())
    named = auth.headers_to_sign(request)
    left_out = {"expect", "transfer-encoding", "user-agent", "x-amzn-trace-id", "host"} & set(headers)
    if not left_out:
        assert text == auth.canonical_headers(named) + "\n"
        assert names == auth.signed_headers(named)


@given(key=KEYS)
def test_paths_are_encoded_as_s3_reads_them(key: str) -> None:
    encoded = encode_path(key)
    assert unquote(encoded) == key
    assert set(encoded) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~/%")
    assert encoded.count("/") == key.count("/")


def days() -> Iterator[str]:
    return (f"202601{day:02}T000000Z" for day in (1, 2, 1))


def test_the_key_follows_the_day() -> None:
    kept = Signer("A", Secret(b"s"), "x")
    request = {"method": "PUT", "path": "/", "query": "", "headers": "", "header_names": "", "payload_hash": "h"}
    for timestamp in days():
        fresh = Signer("A", Secret(b"s"), "x")
        signature = kept.authorization(**request, timestamp=timestamp)
        assert signature == fresh.authorization(**request, timestamp=timestamp)
        assert f"/{timestamp[:8]}/" in signature


def test_the_example_of_the_documentation() -> None:
    # S3 API Reference, "Signature Calculations: Transferring Payload in a Single Chunk", GET Object.
    secret = Secret(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    signer = Signer("AKIAIOSFODNN7EXAMPLE", secret, "us-east-1")
    text, names = canonical_headers(
        [
            ("Host", "examplebucket.s3.amazonaws.com"),
            ("Range", "bytes=0-9"),
            ("x-amz-content-sha256", EMPTY_PAYLOAD),
            ("x-amz-date", "20130524T000000Z"),
        ]
    )
    signature = signer.authorization(
        method="GET",
        path="/test.txt",
        query="",
        headers=text,
        header_names=names,
        payload_hash=EMPTY_PAYLOAD,
        timestamp="20130524T000000Z",
    )
    assert signature.endswith("Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")
    assert "wJalr" not in repr(signer)


@pytest.mark.parametrize(
    ("target", "region", "url", "path"),
    [
        (S3Target(bucket="b-1"), "eu-west-1", "https://b-1.s3.eu-west-1.amazonaws.com", "/"),
        (S3Target(bucket="b-1"), "cn-north-1", "https://b-1.s3.cn-north-1.amazonaws.com.cn", "/"),
        (S3Target(bucket="b.1"), "eu-west-1", "https://s3.eu-west-1.amazonaws.com", "/b.1/"),
        (S3Target(bucket="B_1"), "eu-west-1", "https://s3.eu-west-1.amazonaws.com", "/B_1/"),
        (S3Target(bucket="b-1", addressing_style="path"), "eu-west-1", "https://s3.eu-west-1.amazonaws.com", "/b-1/"),
        (S3Target(bucket="b-1", endpoint_url="http://h:9000/"), "x", "http://h:9000", "/b-1/"),
        (S3Target(bucket="b-1", endpoint_url="http://h:80/gw/"), "x", "http://h/gw", "/gw/b-1/"),
        (S3Target(bucket="b-1", endpoint_url="http://h", addressing_style="virtual"), "x", "http://b-1.h", "/"),
        (S3Target(bucket="b.1", endpoint_url="http://h", addressing_style="virtual"), "x", "http://b.1.h", "/"),
        (S3Target(bucket="b.1", endpoint_url="https://h", addressing_style="virtual"), "x", "https://h", "/b.1/"),
        (S3Target(bucket="b-1", endpoint_url="http://[::1]", addressing_style="virtual"), "x", "http://[::1]", "/b-1/"),
    ],
)
def test_where_requests_go(target: S3Target, region: str, url: str, path: str) -> None:
    endpoint: Endpoint = endpoint_of(target, region)
    assert (endpoint.url, endpoint.base_path) == (url, path)
    assert endpoint.tls == url.startswith("https")
