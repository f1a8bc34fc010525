"""The null server answers as S3 does, as far as the contenders look."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.servers.compiling import null_server
from benchmarks.servers.running import RunningServer, running_server

MIB = 1024 * 1024


def connected(server: RunningServer) -> socket.socket:
    """A connection for requests written by hand."""
    parts = urlsplit(server.url)
    plain = socket.create_connection((str(parts.hostname), int(parts.port or 0)), 10)
    if not server.ca_bundle:
        return plain
    return ssl.create_default_context(cafile=server.ca_bundle).wrap_socket(plain, server_hostname="127.0.0.1")


def read_head(connection: socket.socket) -> bytes:
    """The head of an answer, byte by byte: the body stays in the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    return head


@pytest.fixture(scope="module", params=["null", "null-tls"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server per kind for the module."""
    with running_server(request.param, tmp_path_factory.mktemp("null")) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[Any]:
    """boto3, against a server that has forgotten what came before."""
    server.reset()
    made = boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
        region_name="us-east-1",
        verify=server.ca_bundle or None,
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    yield made
    made.close()


def test_put_is_counted_and_its_checksum_comes_back(client: Any, server: RunningServer) -> None:
    digest = base64.b64encode(hashlib.sha256(b"hello").digest()).decode()
    answer = client.put_object(Bucket="bench", Key="a b/ü.txt", Body=b"hello", ChecksumSHA256=digest)
    assert answer["ChecksumSHA256"] == digest
    head = client.head_object(Bucket="bench", Key="a b/ü.txt", ChecksumMode="ENABLED")
    assert (head["ContentLength"], head["ETag"], head["ChecksumSHA256"]) == (5, answer["ETag"], digest)
    stats = server.stats()
    assert (stats["puts"], stats["objects"], stats["bytes_received"]) == (1, 1, 5)
    assert stats["checks"]["x-amz-checksum-sha256"] == 1


def test_zeros_can_be_read_whole_and_in_ranges(client: Any, server: RunningServer) -> None:
    """Those that it is told of when it is reset; boto3 compares the checksum of what is whole."""
    size = 9 * MIB + 5
    server.reset({"/bench/data/ü 1": size, "/bench/data/empty": 0})
    listed = client.list_objects_v2(Bucket="bench", Prefix="data/")["Contents"]
    assert {each["Key"]: each["Size"] for each in listed} == {"data/ü 1": size, "data/empty": 0}
    whole = client.get_object(Bucket="bench", Key="data/ü 1", ChecksumMode="ENABLED")
    assert whole["Body"].read() == bytes(size)
    assert whole["ETag"] == f'"{hashlib.md5(bytes(size), usedforsecurity=False).hexdigest()}"'
    assert (whole["ChecksumType"], len(base64.b64decode(whole["ChecksumCRC64NVME"]))) == ("FULL_OBJECT", 8)
    assert client.get_object(Bucket="bench", Key="data/empty")["Body"].read() == b""
    for wanted, length in (("bytes=0-0", 1), (f"bytes={size - 3}-{size + 9}", 3), (f"bytes={MIB}-", size - MIB)):
        part = client.get_object(Bucket="bench", Key="data/ü 1", Range=wanted)
        assert part["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert part["ContentRange"].endswith(f"/{size}")
        assert part["Body"].read() == bytes(length)
    assert server.stats()["gets"] == 5
    server.reset()
    with pytest.raises(ClientError, match="NoSuchKey"):
        client.get_object(Bucket="bench", Key="data/empty")


def test_an_etag_is_the_md5_only_where_the_client_sent_it(client: Any) -> None:
    digest = hashlib.md5(b"hello", usedforsecurity=False)
    told = client.put_object(
        Bucket="bench", Key="k", Body=b"hello", ContentMD5=base64.b64encode(digest.digest()).decode()
    )
    assert told["ETag"].strip('"') == digest.hexdigest()
    assert "-" in client.put_object(Bucket="bench", Key="k", Body=b"hello")["ETag"]


def test_what_is_not_there_is_404_and_what_is_there_has_no_bytes(client: Any) -> None:
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket="bench", Key="nothing")
    client.put_object(Bucket="bench", Key="k", Body=b"x")
    with pytest.raises(ClientError, match="NotImplemented"):
        client.get_object(Bucket="bench", Key="k")
    client.delete_object(Bucket="bench", Key="k")
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket="bench", Key="k")


def test_multipart_by_the_transfer_manager(client: Any, server: RunningServer, tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(20 * MIB + 1))
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)
    client.upload_file(str(path), "bench", "large.bin", Config=config)
    assert client.head_object(Bucket="bench", Key="large.bin")["ContentLength"] == 20 * MIB + 1
    stats = server.stats()
    assert (stats["parts"], stats["puts"], stats["open_uploads"]) == (3, 0, 0)
    # Over TLS, botocore sends its checksum in a trailer, in HTTP's chunked coding.
    assert any(name.endswith("x-amz-checksum-crc32") for name in stats["checks"])


def test_a_part_without_an_upload_is_refused(client: Any) -> None:
    with pytest.raises(ClientError, match="NoSuchUpload"):
        client.upload_part(Bucket="bench", Key="k", UploadId="no", PartNumber=1, Body=b"x")


def test_parts_are_listed_completed_with_their_checksum_or_aborted(client: Any, server: RunningServer) -> None:
    upload = client.create_multipart_upload(
        Bucket="bench", Key="k", ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
    )["UploadId"]
    etag = client.upload_part(Bucket="bench", Key="k", UploadId=upload, PartNumber=1, Body=b"x" * 10)["ETag"]
    assert [part["Size"] for part in client.list_parts(Bucket="bench", Key="k", UploadId=upload)["Parts"]] == [10]
    done = client.complete_multipart_upload(
        Bucket="bench", Key="k", UploadId=upload, ChecksumCRC64NVME="AAAAAAAAAAA=", ChecksumType="FULL_OBJECT",
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
    )  # fmt: skip
    assert (done["ChecksumCRC64NVME"], done["ChecksumType"]) == ("AAAAAAAAAAA=", "FULL_OBJECT")
    other = client.create_multipart_upload(Bucket="bench", Key="k")["UploadId"]
    client.abort_multipart_upload(Bucket="bench", Key="k", UploadId=other)
    assert server.stats()["open_uploads"] == 0


def test_listing_pages_prefixes_and_delimiters(client: Any) -> None:
    keys = [f"data/{folder}/{n}" for folder in ("a", "b&c") for n in range(5)]
    for key in [*keys, "elsewhere"]:
        client.put_object(Bucket="bench", Key=key, Body=b"x")
    pages = client.get_paginator("list_objects_v2").paginate(
        Bucket="bench", Prefix="data/", PaginationConfig={"PageSize": 3}
    )
    assert [entry["Key"] for page in pages for entry in page["Contents"]] == keys
    old = client.get_paginator("list_objects").paginate(Bucket="bench", PaginationConfig={"PageSize": 4})
    assert [entry["Key"] for page in old for entry in page["Contents"]] == [*keys, "elsewhere"]
    grouped = client.list_objects_v2(Bucket="bench", Prefix="data/", Delimiter="/")
    assert [group["Prefix"] for group in grouped["CommonPrefixes"]] == ["data/a/", "data/b&c/"]
    paged = client.get_paginator("list_objects_v2").paginate(
        Bucket="bench", Prefix="data/", Delimiter="/", PaginationConfig={"PageSize": 1}
    )
    assert [group["Prefix"] for page in paged for group in page["CommonPrefixes"]] == ["data/a/", "data/b&c/"]
    assert client.list_objects_v2(Bucket="other")["KeyCount"] == 0


def test_buckets_are_always_there(client: Any) -> None:
    client.create_bucket(Bucket="bench")
    client.head_bucket(Bucket="bench")
    client.delete_bucket(Bucket="bench")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A plain server for requests written by hand, whose answers come a little late."""
    with running_server("null", tmp_path_factory.mktemp("plain"), delay_ms=1) as running:
        yield running


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_requests_may_arrive_in_pieces_of_any_size_and_several_per_connection(plain: RunningServer, piece: int) -> None:
    plain.reset()
    put = b"PUT /bench/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    chunked = (
        b"PUT /bench/c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nX-Amz-Decoded-Content-Length: 7\r\n"
        b"Connection: close\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nx-amz-checksum-crc32: AAAAAA==\r\n\r\n"
    )
    text = put % 1 + put % 2 + chunked
    with connected(plain) as connection:
        for start in range(0, len(text), piece):
            connection.sendall(text[start : start + piece])
        answer = b""
        while data := connection.recv(65536):
            answer += data
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    stats = plain.stats()
    assert (stats["objects"], stats["bytes_received"]) == (3, 17)


def test_a_client_that_waits_for_100_continue_gets_it(plain: RunningServer) -> None:
    head = b"PUT /bench/k HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with connected(plain) as connection:
        connection.sendall(head)
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_it_ends_with_its_block(tmp_path: Path) -> None:
    with running_server("null", tmp_path) as running:
        url = running.url
        assert "null" not in repr(running.secret_access_key)
        assert running.secret_access_key not in repr(running)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/-/stats", timeout=10)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 30))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_end_of_a_chunked_body_is_found_whatever_the_pieces(
    plain: RunningServer, pieces: list[bytes], step: int
) -> None:
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nx-amz-trailer: 1\r\n\r\n"
    text = b"PUT /bench/c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + b"HEAD /bench/c HTTP/1.1\r\n\r\n"
    with connected(plain) as connection:
        for start in range(0, len(text), step):
            connection.sendall(text[start : start + step])
        assert [read_head(connection)[:15] for _ in range(2)] == [b"HTTP/1.1 200 OK"] * 2


def test_answers_are_late_by_the_delay_and_control_is_not(tmp_path: Path) -> None:
    with running_server("null", tmp_path, delay_ms=300) as slow, connected(slow) as connection:
        slow.reset()
        started = time.monotonic()
        connection.sendall(b"PUT /bench/k HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        assert read_head(connection).startswith(b"HTTP/1.1 100")
        connection.sendall(b"x")
        read_head(connection)
        assert time.monotonic() - started >= 0.6
        stats = slow.stats()
        # The one connection since the reset is that which asks.
        assert (stats["puts"], stats["connections"]) == (1, 1)


@pytest.mark.parametrize("kind", ["null", "null-tls"])
def test_a_connection_carries_no_more_than_its_rate_either_way_and_others_are_not_held_back(
    kind: Any, tmp_path: Path
) -> None:
    """Bounds from below only: how much faster a machine could be is not asserted."""
    size, rate = 4 * MIB, 8 * MIB
    with running_server(kind, tmp_path, bytes_per_second=rate) as limited:
        limited.reset({"/bench/z": size})
        with connected(limited) as connection:
            started = time.monotonic()
            connection.sendall(b"PUT /bench/k HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            read_head(connection)
            put_seconds = time.monotonic() - started
            started = time.monotonic()
            connection.sendall(b"GET /bench/z HTTP/1.1\r\n\r\n")
            read_head(connection)
            left = size
            while left:
                left -= len(connection.recv(min(left, MIB)))
            assert time.monotonic() - started >= 0.9 * size / rate
        assert put_seconds >= 0.9 * size / rate
        assert limited.stats()["bytes_received"] == size


def test_what_is_no_request_ends_its_connection_alone(plain: RunningServer) -> None:
    for text in (b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"x" * 100_000, b"GET relative HTTP/1.1\r\n\r\n"):
        with connected(plain) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(text)
                assert connection.recv(1000) == b""
    assert plain.stats()["objects"] >= 0


def test_a_missing_compiler_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt-get install gcc libc6-dev libssl-dev"):
        null_server(tmp_path)
