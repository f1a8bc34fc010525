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
from asyncsink.download import range_download as unfinished_module
from asyncsink.options.settings import MIB, RetryPolicy
from tests.support.object_peer import ObjectPeer

pytestmark = pytest.mark.anyio
TreeOf = Callable[[Path], dict[str, bytes]]
# The same in every worker: pieces of it name tests.
LARGE = random.Random(1).randbytes(18 * MIB + 7)
RANGE = 8 * MIB
QUICK = RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.001)
# Peer and grab share a process: on a busy machine, ranges that nobody holds back pause for some tenths of a second too.
IMPATIENT = replace(QUICK, stall_seconds=1.5)


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody")


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
async def test_a_range_that_stalls_in_the_middle_is_received_again(tmp_path: Path, tree_of: TreeOf, sent: int) -> None:
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
    assert tree_of(tmp_path) == {"k": LARGE}
    assert report.receipts[0].confirmed_by == "server-checksum"


async def test_a_range_with_wrong_bytes_is_noticed_and_all_is_received_again(tmp_path: Path, tree_of: TreeOf) -> None:
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
    assert tree_of(tmp_path) == {"k": LARGE}


@pytest.mark.parametrize("body", [LARGE[RANGE : 2 * RANGE - 1], LARGE[RANGE : RANGE + 1]])
async def test_a_range_that_is_too_short_is_not_taken_for_whole(tmp_path: Path, tree_of: TreeOf, body: bytes) -> None:
    async with ObjectPeer({"k": LARGE}) as peer:
        peer.fault = lambda method, _, first: (
            answered(peer, first, body) if method == "GET" and first == RANGE else None
        )
        report = await grab(peer, tmp_path)
    [failure] = report.failures
    assert (failure.error, f"range from {RANGE:,} was asked for" in failure.message) == ("ServerFault", True)
    assert [path for path in tree_of(tmp_path) if not path.startswith(".asyncsink-grab/")] == []


async def test_a_disk_that_is_full_fails_that_file_and_ends_its_other_ranges(
    tmp_path: Path, tree_of: TreeOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = unfinished_module.write_all

    def full(descriptor: int, offset: int, data: Any) -> None:
        if offset >= RANGE:
            raise OSError(28, os.strerror(28))
        written(descriptor, offset, data)

    monkeypatch.setattr(unfinished_module, "write_all", full)
    async with ObjectPeer({"k": LARGE, "small": b"fits"}) as peer:
        report = await grab(peer, tmp_path)
        assert [(each.key, each.error) for each in report.failures] == [("k", "DestinationFull")]
        monkeypatch.undo()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody")
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert tree_of(tmp_path) == {"k": LARGE, "small": b"fits"}
