"""Ranges that are not what was asked for are asked for again, on both lanes, until what comes is the object."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import RetryPolicy
from tests.support.quirky_s3 import Answer, Request, StoredObject, error, quirky_s3

pytestmark = pytest.mark.anyio
SIZE = 21 << 20
CONTENT = random.Random(1).randbytes(SIZE)
QUICK = RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.001)


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: Any, bend: Callable[[Answer], Answer]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
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
async def test_a_range_beside_the_checksum_of_the_whole_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: Any
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
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
async def test_bytes_that_are_not_those_of_the_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: Any, size: int
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    other = {"x-amz-checksum-crc32": checksum_of(b"other", "CRC32").value, "x-amz-checksum-type": "FULL_OBJECT"}
    with quirky_s3() as s3:
        s3.objects["tryout"]["p/large"] = StoredObject(CONTENT[:size], other)
        given = {"endpoint_url": s3.url, "region": "us-east-1", "transport": transport, "retry": QUICK}
        report = await asyncsink.grab("s3://tryout/p", tmp_path, **given)
    assert [each.error for each in report.failures] == ["IntegrityError"]
    assert list(tmp_path.iterdir()) == []
