"""The fault proxy does to requests what it says, to those that it says, and nothing else; boto3 is the witness."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import botocore.exceptions as b
import pytest
from botocore.config import Config
from botocore.handlers import add_expect_header

from asyncsink.devserver.seaweedfs import REGION, DevServer
from asyncsink.options.settings import MIB
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.toxics import Head, Passage, request_of

Harm = Callable[..., FaultProxy]
Stored = Callable[[], dict[str, bytes]]
BODY = os.urandom(300_000)
LARGE = os.urandom(8 * MIB)


@pytest.fixture
def through(seaweed: DevServer) -> Iterator[Callable[..., Any]]:
    """A boto3 client behind a proxy: tries once, waits `seconds`, `expects` 100 Continue where that is asked for."""
    clients: list[Any] = []

    def connect(proxy: FaultProxy, *, expects: bool = False, seconds: float = 20) -> Any:
        client = boto3.client(
            "s3",
            endpoint_url=proxy.endpoint_url,
            region_name=REGION,
            aws_access_key_id=seaweed.access_key_id,
            aws_secret_access_key=seaweed.secret_access_key,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                read_timeout=seconds,
                connect_timeout=seconds,
                request_checksum_calculation="when_required",
            ),
        )
        if not expects:
            client.meta.events.unregister("before-call.s3", add_expect_header)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


def test_what_no_rule_names_passes_as_it_is(harm: Harm, through: Any, bucket: str) -> None:
    proxy = harm(Rule(s.SLOW_DOWN, operation="DeleteBucket"))
    client = through(proxy)
    client.put_object(Bucket=bucket, Key="a b/ü+", Body=BODY)
    client.put_object(Bucket=bucket, Key="chunked", Body=BODY, ChecksumAlgorithm="CRC32")
    assert client.get_object(Bucket=bucket, Key="a b/ü+")["Body"].read() == BODY
    assert client.get_object(Bucket=bucket, Key="chunked")["Body"].read() == BODY
    assert client.head_object(Bucket=bucket, Key="a b/ü+")["ContentLength"] == len(BODY)
    for number in range(30):
        client.put_object(Bucket=bucket, Key=f"n/{number}", Body=b"")
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 32
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=7, Body=BODY)["ETag"]
    assert len(client.list_parts(Bucket=bucket, Key="parts", UploadId=upload)["Parts"]) == 1
    assert len(client.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
    parts = {"Parts": [{"PartNumber": 7, "ETag": part}]}
    client.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload=parts)
    upload = client.create_multipart_upload(Bucket=bucket, Key="other")["UploadId"]
    client.abort_multipart_upload(Bucket=bucket, Key="other", UploadId=upload)
    client.delete_object(Bucket=bucket, Key="parts")
    with pytest.raises(b.ClientError, match="404"):
        client.head_object(Bucket=bucket, Key="parts")
    client.head_bucket(Bucket=bucket)
    client.list_buckets()
    seen = [request for request in proxy.requests if not request.key.startswith("n/")]
    assert [request.operation for request in seen] == [
        *("PutObject", "PutObject", "GetObject", "GetObject", "HeadObject", "ListObjectsV2"),
        *("CreateMultipartUpload", "UploadPart", "ListParts", "ListMultipartUploads", "CompleteMultipartUpload"),
        *("CreateMultipartUpload", "AbortMultipartUpload", "DeleteObject", "HeadObject", "HeadBucket", "ListBuckets"),
    ]
    assert (seen[0].bucket, seen[0].key, seen[0].repeat) == (bucket, "a b/ü+", 0)
    assert (seen[7].part_number, seen[7].upload_id, seen[11].upload_id) == (7, seen[8].upload_id, "")
    assert proxy.sent("HeadObject")[-1].key == "parts"
    assert proxy.hits == []


def test_headers_are_not_shown(harm: Harm, through: Any, bucket: str) -> None:
    proxy = harm()
    through(proxy).put_object(Bucket=bucket, Key="k", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey="0" * 32)
    assert "encryption-customer-key" in str(proxy.requests[0].head.headers)
    assert "encryption-customer-key" not in repr(proxy.requests)


ANSWERS = [
    (s.SLOW_DOWN, "SlowDown", 503),
    (s.INTERNAL_ERROR, "InternalError", 500),
    (s.TOO_MANY_REQUESTS, "TooManyRequests", 429),
    (s.REQUEST_TIMEOUT, "RequestTimeout", 400),
    (s.EXPIRED_TOKEN, "ExpiredToken", 400),
    (s.REQUEST_TIME_TOO_SKEWED, "RequestTimeTooSkewed", 403),
    (s.Status(503, "SlowDown", early=True), "SlowDown", 503),
]


@pytest.mark.parametrize(("toxic", "code", "status"), ANSWERS, ids=lambda value: str(value)[:30])
def test_answers_in_the_servers_place(
    harm: Harm, through: Any, bucket: str, stored: Stored, toxic: s.Status, code: str, status: int
) -> None:
    proxy = harm(Rule(toxic, operation="PutObject", nth=2))
    client = through(proxy)
    client.put_object(Bucket=bucket, Key="1", Body=BODY)
    with pytest.raises(b.ClientError) as caught:
        client.put_object(Bucket=bucket, Key="2", Body=BODY)
    assert caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    client.put_object(Bucket=bucket, Key="3", Body=BODY)
    assert stored() == {"1": BODY, "3": BODY}
    [hit] = proxy.hits
    assert (hit.request.key, hit.toxic, hit.what) == ("2", toxic, f"answered {status} {code}")
    assert proxy.count() == proxy.count(s.Status) == proxy.count(toxic, operation="PutObject") == 1
    assert proxy.count(t.Stall) == proxy.count(operation="HeadObject") == 0


def test_headers_of_an_answer_and_the_answer_to_a_head(harm: Harm, through: Any, bucket: str) -> None:
    client = through(harm(Rule(s.Status(503, "SlowDown", retry_after="7", date_offset_seconds=-86400 * 365))))
    with pytest.raises(b.ClientError) as caught:
        client.list_objects_v2(Bucket=bucket)
    headers = caught.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["retry-after"] == "7"
    with pytest.raises(b.ClientError, match="503"):
        client.head_object(Bucket=bucket, Key="k")
    with pytest.raises(b.ClientError, match="503"):
        client.head_object(Bucket=bucket, Key="k")


def test_who_waits_for_100_continue(harm: Harm, through: Any, bucket: str, stored: Stored) -> None:
    proxy = harm(Rule(s.SLOW_DOWN, key="refused"), Rule(t.Stall("continue"), key="stalled"))
    client = through(proxy, expects=True, seconds=0.5)
    client.put_object(Bucket=bucket, Key="taken", Body=BODY)
    with pytest.raises(b.ClientError, match="SlowDown"):
        client.put_object(Bucket=bucket, Key="refused", Body=BODY)
    with pytest.raises((b.ConnectionClosedError, b.ReadTimeoutError)):
        client.put_object(Bucket=bucket, Key="stalled", Body=BODY)
    assert all(request.waits_for_continue for request in proxy.requests)
    assert stored() == {"taken": BODY}
    assert proxy.count() == 2


@dataclass
class Cut:
    toxic: t.Toxic
    committed: bool
    error: type[Exception] = b.HTTPClientError


CUTS = {
    "lost answer": Cut(s.LostAnswer(), True, b.ConnectionClosedError),
    "reset": Cut(t.ResetPeer(), False),
    "reset in the body": Cut(t.ResetPeer(100_000), False),
    "reset in a body that is shorter": Cut(t.ResetPeer(10 * MIB), False),
    "reset in the answer": Cut(t.ResetPeer(5, stream="downstream"), True),
    "closed in the answer": Cut(t.LimitData(10), True),
    "closed in the body": Cut(t.LimitData(20, stream="upstream"), False),
    "half-closed": Cut(t.HalfClose(1000), False),
    "timeout": Cut(t.Timeout(0.01), False),
    "timeout without end": Cut(t.Timeout(), False, b.ReadTimeoutError),
    "stall before 100 Continue": Cut(t.Stall("continue"), False),
    "stall in the body": Cut(t.Stall("body"), False),
    "stall before the answer": Cut(t.Stall("before_answer"), True, b.ReadTimeoutError),
    "stall in the answer": Cut(t.Stall("answer"), True, b.ReadTimeoutError),
}


@pytest.mark.parametrize("name", CUTS)
def test_cuts_and_stalls(harm: Harm, through: Any, bucket: str, stored: Stored, name: str) -> None:
    cut = CUTS[name]
    proxy = harm(Rule(cut.toxic, operation="PutObject", key="hurt"))
    client = through(proxy)
    client.put_object(Bucket=bucket, Key="before", Body=BODY)
    with pytest.raises((cut.error, b.ConnectionClosedError, b.ReadTimeoutError)):
        through(proxy, seconds=0.5).put_object(Bucket=bucket, Key="hurt", Body=LARGE)
    client.put_object(Bucket=bucket, Key="after", Body=BODY)
    expected = {"before": BODY, "after": BODY} | ({"hurt": LARGE} if cut.committed else {})
    assert stored() == expected
    assert [(hit.request.key, hit.toxic) for hit in proxy.hits] == [("hurt", cut.toxic)]


@pytest.mark.parametrize(
    "toxic",
    [
        t.Latency(0.01, 0.005),
        t.Latency(0.01, stream="upstream"),
        t.Bandwidth(20e6),
        t.Bandwidth(1e5, stream="downstream"),
        t.Slicer(7, 3),
        t.Slicer(9000, 500, 0.0001, stream="upstream"),
        s.DropHeaders("x-amz-checksum-"),
    ],
    ids=lambda toxic: repr(toxic)[:40],
)
def test_what_only_slows_or_hides(harm: Harm, through: Any, bucket: str, stored: Stored, toxic: t.Toxic) -> None:
    proxy = harm(Rule(toxic, operation="PutObject"))
    client = through(proxy)
    for key in ("1", "2"):
        answer = client.put_object(Bucket=bucket, Key=key, Body=BODY, ChecksumCRC32=crc32(BODY))
        assert ("ChecksumCRC32" not in answer) == isinstance(toxic, s.DropHeaders)
    assert stored() == {"1": BODY, "2": BODY}
    assert proxy.count(toxic) == 2


def crc32(data: bytes) -> str:
    import base64
    import zlib

    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def test_a_changed_byte(harm: Harm, through: Any, bucket: str, stored: Stored) -> None:
    proxy = harm(Rule(s.CorruptBody()))
    client = through(proxy)
    client.put_object(Bucket=bucket, Key="unguarded", Body=BODY)
    client.put_object(Bucket=bucket, Key="empty", Body=b"")
    with pytest.raises(b.ClientError, match=r"BadDigest|checksum"):
        client.put_object(Bucket=bucket, Key="guarded", Body=BODY, ChecksumCRC32=crc32(BODY))
    assert sum(x != y for x, y in zip(stored()["unguarded"], BODY, strict=True)) == 1
    assert [hit.request.key for hit in proxy.hits] == ["unguarded", "guarded"], "an empty body has no byte to change"


def test_a_changed_byte_of_an_answer(harm: Harm, through: Any, bucket: str) -> None:
    client = through(harm(Rule(s.CorruptBody("downstream"), operation="GetObject")))
    client.put_object(Bucket=bucket, Key="k", Body=BODY)
    received = client.get_object(Bucket=bucket, Key="k", ChecksumMode="DISABLED")["Body"]._raw_stream.read()
    assert sum(x != y for x, y in zip(received, BODY, strict=True)) == 1


@pytest.mark.parametrize("committed", [False, True])
def test_an_error_in_a_200(harm: Harm, through: Any, bucket: str, stored: Stored, committed: bool) -> None:
    proxy = harm(Rule(s.ErrorIn200(committed=committed), operation="CompleteMultipartUpload", times=1))
    client = through(proxy)
    complete = begin(client, bucket)
    with pytest.raises(b.ClientError, match="InternalError"):
        complete()
    assert stored() == ({"k": BODY} if committed else {})
    if not committed:
        complete()
        assert stored() == {"k": BODY}
    assert proxy.count(s.ErrorIn200) == 1


def test_spaces_before_an_answer(harm: Harm, through: Any, bucket: str) -> None:
    proxy = harm(Rule(s.Whitespace(5, 0.001), operation="CompleteMultipartUpload"))
    answer = begin(through(proxy), bucket)()
    assert answer["Key"] == "k"
    assert proxy.count(s.Whitespace) == 1


def begin(client: Any, bucket: str) -> Callable[[], Any]:
    upload = client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=BODY)["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    return lambda: client.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload=parts)


def test_a_slow_close(harm: Harm, through: Any, bucket: str, stored: Stored) -> None:
    proxy = harm(Rule(t.SlowClose(0.01), operation="PutObject"))
    through(proxy).put_object(Bucket=bucket, Key="k", Body=BODY)
    proxy.wait_for_hits()
    assert stored() == {"k": BODY}


def test_the_servers_own_refusal_passes_in_mid_body(harm: Harm, bucket: str) -> None:
    """A server that does not wait for the body: its answer comes at once, and the connection is not used again."""
    server = harm(Rule(s.Status(403, "AccessDenied", early=True)))
    with (
        FaultProxy(server.endpoint_url) as proxy,
        socket.create_connection(("127.0.0.1", int(proxy.endpoint_url.rsplit(":", 1)[1]))) as client,
    ):
        client.sendall(f"PUT /{bucket}/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 1000)
        assert client.recv(12) == b"HTTP/1.1 403"
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert server.count(s.Status) == 1


def put(key: str, number: int = 0) -> Head:
    query = f"?partNumber={number}&uploadId=u" if number else ""
    return Head(b"", f"PUT /bucket/{key}{query} HTTP/1.1", {})


def chosen(rule: Rule, *heads: Head) -> list[int]:
    dice = random.Random(0)
    return [place for place, head in enumerate(heads, 1) if rule.choose(request_of(head), dice)]


def test_rules_name_requests() -> None:
    heads = [put("a"), put("sub/b"), put("sub/b", 1), put("sub/c", 2), put("sub/d")]
    assert chosen(Rule(s.SLOW_DOWN), *heads) == [1, 2, 3, 4, 5]
    assert chosen(Rule(s.SLOW_DOWN, operation="UploadPart"), *heads) == [3, 4]
    assert chosen(Rule(s.SLOW_DOWN, operation=("UploadPart", "PutObject"), nth=4), *heads) == [4]
    assert chosen(Rule(s.SLOW_DOWN, key="sub/*", nth=2), *heads) == [3]
    assert chosen(Rule(s.SLOW_DOWN, key="sub/*", times=2), *heads) == [2, 3]
    assert chosen(Rule(s.SLOW_DOWN, part_number=2), *heads) == [4]
    assert chosen(Rule(s.SLOW_DOWN, probability=0.0), *heads) == []
    assert 5 < len(chosen(Rule(s.SLOW_DOWN, probability=0.1), *([put("a")] * 100))) < 20
    for wrong in (Rule, lambda: Rule(s.SLOW_DOWN, probability=1.1)):
        with pytest.raises(ValueError, match="needs a toxic and a probability"):
            wrong()


def test_the_first_rule_that_fits_decides(harm: Harm, through: Any, bucket: str) -> None:
    proxy = harm(Rule(s.SLOW_DOWN, times=1), Rule(s.INTERNAL_ERROR, times=1))
    client = through(proxy)
    for status in (503, 500):
        with pytest.raises(b.ClientError, match=str(status)):
            client.head_bucket(Bucket=bucket)
    client.head_bucket(Bucket=bucket)
    proxy.rules = (Rule(s.TOO_MANY_REQUESTS),)
    with pytest.raises(b.ClientError, match="429"):
        client.head_bucket(Bucket=bucket)


def test_the_same_seed_harms_the_same_requests_in_any_order(harm: Harm, through: Any, bucket: str) -> None:
    def hits(seed: int, keys: list[str]) -> set[tuple[str, int, str]]:
        proxy = harm(Rule(s.SLOW_DOWN, s.INTERNAL_ERROR, s.TOO_MANY_REQUESTS, probability=0.3), seed=seed)
        client = through(proxy)
        for key in keys:
            try:
                client.head_object(Bucket=bucket, Key=key)
            except b.ClientError:
                continue  # harmed, or not found: what counts is what the proxy remembers
        return {(hit.request.key, hit.request.repeat, hit.what) for hit in proxy.hits}

    keys = [str(number) for number in range(30)] * 2
    first = hits(1, keys)
    assert 8 < len(first) < 30
    assert hits(1, keys[::-1]) == first
    assert hits(2, keys) != first


def test_waiting_for_a_fault(harm: Harm, through: Any, bucket: str) -> None:
    proxy = harm(Rule(s.SLOW_DOWN))
    with pytest.raises(TimeoutError, match="0 of 1 faults"):
        proxy.wait_for_hits(seconds=0.0)
    with pytest.raises(b.ClientError):
        through(proxy).head_bucket(Bucket=bucket)
    proxy.wait_for_hits()


def test_a_fault_of_the_proxys_own_is_told(seaweed: DevServer) -> None:
    class Broken(t.Toxic):
        async def play(self, passage: Passage) -> None:
            raise KeyError("broken")

    def use() -> None:
        with FaultProxy(seaweed.endpoint_url, Rule(Broken())) as proxy:
            with socket.create_connection(("127.0.0.1", int(proxy.endpoint_url.rsplit(":", 1)[1]))) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert client.recv(1) == b""

    with pytest.raises(KeyError, match="broken"):
        use()


def test_a_server_that_is_gone_ends_the_connection(harm: Harm) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with FaultProxy(f"http://127.0.0.1:{port}") as proxy:
        with socket.create_connection(("127.0.0.1", int(proxy.endpoint_url.rsplit(":", 1)[1]))) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1) == b""
