"""Large objects whose ranges are cut, stall, or are wrong once: received again, and right in the end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.download import range_download
from asyncsink.download.range_download import check_same
from asyncsink.errors import PreconditionFailed
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.get_object import ObjectReceived
from tests.support.files import content_of
from tests.support.object_peer import ObjectPeer
from tests.support.quirky_s3 import Answer, Request, StoredObject, error, quirky_s3

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("dummy_keys")]

# The same in every worker: pieces of it name tests.
LARGE = random.Random(1).randbytes(18 * MIB + 7)
RANGE = 8 * MIB
QUICK = RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.001)


# Peer and grab share a process: on a busy machine, ranges that nobody holds back pause for some tenths of a second too.
IMPATIENT = replace(QUICK, stall_seconds=1.5)


async def grab(peer: ObjectPeer, directory: Path, **options: Any) -> asyncsink.GrabReport:
    given: dict[str, Any] = {"retry": QUICK, "region": "us-east-1"} | options
    return await asyncsink.grab("s3://bucket", directory, endpoint_url=peer.endpoint_url, **given)


def answered(peer: ObjectPeer, first: int, body: bytes, sent: int | None = None) -> bytes:
    """The answer to a range with this body, of which only `sent` bytes come."""
    head = (
        f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(body)}\r\n"
        f"Content-Range: bytes {first}-{first + len(body) - 1}/{len(LARGE)}\r\n"
        f'ETag: "{peer.etag("k")}"\r\n\r\n'
    )
    return head.encode() + body[:sent]


@pytest.mark.parametrize("sent", [0, 5, 3 * MIB])
async def test_a_range_that_stalls_in_the_middle_is_received_again(tmp_path: Path, sent: int) -> None:
    async with ObjectPeer({"k": LARGE}) as peer:
        stalled: list[int] = []

        def stall(method: str, _key: str, first: int) -> bytes | None:
            if method != "GET" or first != RANGE or stalled:
                return None
            stalled.append(first)
            return answered(peer, first, b"?" * RANGE, sent)

        peer.fault = stall
        report = await grab(peer, tmp_path, retry=IMPATIENT)
    report.raise_for_failures()
    assert (stalled, report.retries, report.receipts[0].attempts) == ([RANGE], 1, 2)
    assert content_of(tmp_path) == {"k": LARGE}
    assert report.receipts[0].confirmed_by == "server-checksum"


async def test_a_range_with_wrong_bytes_is_noticed_and_all_is_received_again(tmp_path: Path) -> None:
    async with ObjectPeer({"k": LARGE}) as peer:
        lied: list[int] = []

        def lie(method: str, _key: str, first: int) -> bytes | None:
            if method != "GET" or first != RANGE or lied:
                return None
            lied.append(first)
            return answered(peer, first, bytes(RANGE))

        peer.fault = lie
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert lied == [RANGE]
    assert content_of(tmp_path) == {"k": LARGE}


@pytest.mark.parametrize("body", [LARGE[RANGE : 2 * RANGE - 1], LARGE[RANGE : RANGE + 1]])
async def test_a_range_that_is_too_short_is_not_taken_for_whole(tmp_path: Path, body: bytes) -> None:
    async with ObjectPeer({"k": LARGE}) as peer:
        peer.fault = lambda method, _, first: (
            answered(peer, first, body) if method == "GET" and first == RANGE else None
        )
        report = await grab(peer, tmp_path)
    [failure] = report.failures
    assert (failure.error, f"range from {RANGE:,} was asked for" in failure.message) == ("ServerFault", True)
    assert [path for path in content_of(tmp_path) if not path.startswith(".asyncsink-grab/")] == []


async def test_a_disk_that_is_full_fails_that_file_and_ends_its_other_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = range_download.write_all

    def full(descriptor: int, offset: int, data: Any) -> None:
        if offset >= RANGE:
            raise OSError(28, os.strerror(28))
        written(descriptor, offset, data)

    monkeypatch.setattr(range_download, "write_all", full)
    async with ObjectPeer({"k": LARGE, "small": b"fits"}) as peer:
        report = await grab(peer, tmp_path)
        assert [(each.key, each.error) for each in report.failures] == [("k", "DestinationFull")]
        monkeypatch.undo()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody")
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert content_of(tmp_path) == {"k": LARGE, "small": b"fits"}


# -- Ranges that are not what was asked for are asked for again, on both lanes, until what comes is the object ---------


SIZE = 21 << 20
CONTENT = random.Random(1).randbytes(SIZE)


def shorter(answer: Answer) -> Answer:
    status, headers, body = answer
    span, _, total = headers["Content-Range"].removeprefix("bytes ").partition("/")
    first, last = map(int, span.split("-"))
    return status, {**headers, "Content-Range": f"bytes {first}-{last - 10}/{total}"}, body[:-10]


def in_pieces(answer: Answer) -> Answer:
    """Without a length, and with an end that comes too early."""
    status, headers, body = answer
    return status, {**headers, "Transfer-Encoding": "chunked"}, b"3\r\n" + body[:3] + b"\r\n0\r\n\r\n"


BENT: dict[str, Callable[[Answer], Answer]] = {
    "fewer bytes": shorter,
    "a body that ends early": in_pieces,
    "another range": lambda answer: (206, {**answer[1], "Content-Range": f"bytes 0-99/{SIZE}"}, answer[2][:100]),
    "a page": lambda _: (200, {"Content-Type": "text/html"}, b"<html>Please log in.</html>"),
    "another ETag": lambda answer: (206, {**answer[1], "ETag": '"other"'}, answer[2]),
    "a fault": lambda _: error(503, "SlowDown"),
}


@pytest.mark.parametrize("transport", ["wire", "aioboto3"])
@pytest.mark.parametrize("bend", list(BENT.values()), ids=list(BENT))
async def test_answers_to_a_range_that_are_wrong(
    tmp_path: Path, transport: Any, bend: Callable[[Answer], Answer]
) -> None:
    bent: list[int] = []
    # Of an object that was replaced, everything is received anew, and once only.
    times = 1 if bend is BENT["another ETag"] else 2

    def quirk(r: Request) -> Answer | None:
        wanted = r.headers.get("range", "")
        if r.method != "GET" or not wanted.startswith(f"bytes={8 << 20}-") or len(bent) == times:
            return None
        bent.append(r.number)
        return bend(s3.ordinary(r))

    with quirky_s3(quirk) as s3:
        s3.objects["tryout"]["p/large"] = StoredObject(CONTENT)
        report = await asyncsink.grab(
            "s3://tryout/p", tmp_path, endpoint_url=s3.url, region="us-east-1", transport=transport, retry=QUICK
        )
    assert len(bent) == times
    assert [each.message for each in report.failures] == []
    assert (tmp_path / "large").read_bytes() == CONTENT


@pytest.mark.parametrize("transport", ["wire", "aioboto3"])
async def test_a_range_beside_the_checksum_of_the_whole_object(tmp_path: Path, transport: Any) -> None:
    whole = {"x-amz-checksum-crc32": checksum_of(CONTENT, "CRC32").value, "x-amz-checksum-type": "FULL_OBJECT"}
    with quirky_s3() as s3:
        s3.objects["tryout"]["p/large"] = StoredObject(CONTENT, whole)
        given = {"endpoint_url": s3.url, "region": "us-east-1", "transport": transport, "retry": QUICK}
        report = await asyncsink.grab("s3://tryout/p", tmp_path, **given)
        assert len([r for r in s3.log if "range" in r.headers]) > 1
    assert [each.message for each in report.failures] == []
    assert (tmp_path / "large").read_bytes() == CONTENT
    assert [receipt.confirmed_by for receipt in report.receipts] == ["server-checksum"]


@pytest.mark.parametrize("transport", ["wire", "aioboto3"])
@pytest.mark.parametrize("size", [100, SIZE])
async def test_bytes_that_are_not_those_of_the_checksum(tmp_path: Path, transport: Any, size: int) -> None:
    other = {"x-amz-checksum-crc32": checksum_of(b"other", "CRC32").value, "x-amz-checksum-type": "FULL_OBJECT"}
    with quirky_s3() as s3:
        s3.objects["tryout"]["p/large"] = StoredObject(CONTENT[:size], other)
        given = {"endpoint_url": s3.url, "region": "us-east-1", "transport": transport, "retry": QUICK}
        report = await asyncsink.grab("s3://tryout/p", tmp_path, **given)
    assert [each.error for each in report.failures] == ["IntegrityError"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("length", "etag"), [(4, "e"), (6, "e"), (5, "other")])
def test_a_range_of_another_object_is_refused(length: int, etag: str) -> None:
    check_same("s3://b/k", ObjectReceived(length=5, etag="e"), 0, 5, "e")
    with pytest.raises(PreconditionFailed, match="was replaced while it was received"):
        check_same("s3://b/k", ObjectReceived(length=length, etag=etag), 0, 5, "e")
