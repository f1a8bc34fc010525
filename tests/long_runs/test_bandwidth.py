"""The limit on what is sent in a second: the policy by a clock set by hand, the lanes as the server sees them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given

import asyncsink
from asyncsink.errors import ConfigError
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import BANDWIDTH_BYTES_PER_SECOND_MIN, KIB, MIB, RetryPolicy
from asyncsink.s3.codec import SMALL_BODY_BYTES
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.operations import AbortMultipartUpload, PutObject
from asyncsink.s3.pacing import BURST_SECONDS, SLICE_BYTES_MAX, SLICE_BYTES_MIN, Bandwidth, Pacer
from asyncsink.s3.sdk.transport import Aioboto3Transport
from asyncsink.testing.peers import Asked, CannedPeer, canned

pytestmark = pytest.mark.anyio

RATE = 12_000_000
HEAD_BYTES_MAX = 2 * KIB


async def everything(_: Asked) -> None:
    """Admits every request."""


# -- the policy ----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 10 * MIB)), min_size=1, max_size=60),
    st.integers(BANDWIDTH_BYTES_PER_SECOND_MIN, 10**10),
)
def test_never_more_than_the_rate_since_the_start(key_turns: list[tuple[float, int]], rate: int) -> None:
    now = sent = 0.0
    bandwidth = Bandwidth(rate, clock=lambda: now)
    for pause, size in key_turns:
        now += pause
        leaves_at = now + bandwidth.reserve(size)
        sent += size
        assert sent <= rate * (leaves_at + BURST_SECONDS) * (1 + 1e-9)


@given(
    st.lists(st.tuples(st.integers(1, MIB), st.floats(0, BURST_SECONDS)), min_size=1, max_size=60),
    st.integers(BANDWIDTH_BYTES_PER_SECOND_MIN, 10**9),
)
def test_never_less_where_sleeps_end_late(key_turns: list[tuple[int, float]], rate: int) -> None:
    """Turns are points in time, not lengths of sleep: who was woken late waits less the next time."""
    now = late = 0.0
    bandwidth = Bandwidth(rate, clock=lambda: now)
    for size, lateness in key_turns:
        seconds = bandwidth.reserve(size)
        late = lateness if seconds else 0.0
        now += seconds + late
    ideal = sum(size for size, _ in key_turns) / rate - BURST_SECONDS
    assert now <= max(0.0, ideal) + BURST_SECONDS + 1e-6
    if late:
        assert now == pytest.approx(ideal + late, abs=1e-6)


def test_threads_share_it() -> None:
    bandwidth = Bandwidth(MIB, clock=lambda: 0.0)
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        for _ in range(500):
            bandwidth.reserve(KIB)

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(ask) for _ in range(8)]:
            done.result()
    assert bandwidth.reserve(0) == pytest.approx(8 * 500 * KIB / MIB - BURST_SECONDS)


def test_slices_are_worth_a_moment() -> None:
    assert Bandwidth(20 * MIB).slice_bytes == MIB
    assert Bandwidth(BANDWIDTH_BYTES_PER_SECOND_MIN).slice_bytes == SLICE_BYTES_MIN
    assert Bandwidth(10**12).slice_bytes == SLICE_BYTES_MAX


# -- the option ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "rate"), [(None, None), ("50MB", 50_000_000), ("1MiB", MIB), (70_000, 70_000)])
def test_the_option(given: Any, rate: int | None) -> None:
    limits = parse_options("s3://bucket", {"bandwidth_bytes_per_second": given}).limits
    assert limits.bandwidth_bytes_per_second == rate


@pytest.mark.parametrize("given", ["fast", 0, -1, "1KB", True, "50MB/s"])
def test_what_is_no_rate_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="bandwidth_bytes_per_second"):
        parse_options("s3://bucket", {"bandwidth_bytes_per_second": given})


def test_a_low_rate_has_few_requests_in_flight() -> None:
    """A small body waits for all that wait before it, and the server for the next bytes of a large one."""
    low = {"bandwidth_bytes_per_second": "64KiB"}
    limits = parse_options("s3://bucket", low).limits
    assert (limits.concurrency_start, limits.concurrency_max) == (10, 10)
    assert parse_options("s3://bucket", {**low, "concurrency": 64}).limits.concurrency == 10
    assert parse_options("s3://bucket", {"bandwidth_bytes_per_second": "50MB"}).limits.concurrency_max == 1024


# -- the lanes -----------------------------------------------------------------------------------------------------


@pytest.fixture
def key_turns(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """When who asked for how many bytes; asked of the real thing all the same."""
    seen: list[tuple[float, int]] = []
    real = Bandwidth.reserve

    def reserve(self: Bandwidth, size_bytes: int) -> float:
        seen.append((monotonic(), size_bytes))
        return real(self, size_bytes)

    monkeypatch.setattr(Bandwidth, "reserve", reserve)
    return seen


@pytest.mark.usefixtures("plain_keys")
@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_the_server_never_gets_more(
    lane: str, proxy: Any, all_there: Callable[[], bool], key_turns: list[tuple[float, int]], export: Any
) -> None:
    """Small bodies, whole ones and parts; from the loop, from aioboto3, and from lane threads."""
    async with proxy(everything) as way:
        report = await export(way, transport=lane, bandwidth_bytes_per_second=RATE)
    assert (report.failures, report.retries, report.transport) == ([], 0, lane)
    first = key_turns[0][0]
    for moment, received in way.arrivals:
        assert received <= RATE * (moment - first + BURST_SECONDS) * 1.01
    # Nothing is sent that was not asked for. (What aiohttp adds to a head by itself is not known.)
    assert sum(size for _, size in key_turns) == pytest.approx(way.received_bytes, rel=0.001)
    # No part is one burst.
    assert max(size for _, size in key_turns) <= max(Bandwidth(RATE).slice_bytes, SMALL_BODY_BYTES + HEAD_BYTES_MAX)
    assert await asyncio.to_thread(all_there)


async def test_an_abort_does_not_wait_for_its_turn() -> None:
    """A cancelled run has seconds to abort its uploads, whatever was still to be sent."""
    bandwidth = Bandwidth(BANDWIDTH_BYTES_PER_SECOND_MIN)
    assert bandwidth.reserve(100 * MIB) > 3600
    async with CannedPeer(canned(204, b""), hang_up=False) as peer:
        target = S3Target(bucket="bkt", endpoint_url=peer.endpoint_url, anonymous=True)
        for lane in (
            await HttpTransport.open(
                target, RetryPolicy(), region="x", credentials=None, pacer=Pacer(4), bandwidth=bandwidth
            ),
            await Aioboto3Transport.open(target, RetryPolicy(), Limits(), bandwidth=bandwidth),
        ):
            with anyio.fail_after(60):
                await lane.send(AbortMultipartUpload(key="k", upload_id="u"))
            with anyio.move_on_after(0.2) as given_up:
                await lane.send(PutObject(key="k", body=b"x"))
            assert given_up.cancelled_caught
            await lane.aclose()
    assert [head.split()[0] for head in peer.heads] == [b"DELETE", b"DELETE"]


@pytest.mark.usefixtures("plain_keys")
@pytest.mark.parametrize(
    ("lane", "size_bytes", "rate"),
    [("wire", 70 * KIB, MIB), ("aioboto3", 70 * KIB, MIB), ("wire", MIB, 16 * MIB)],
    ids=["wire", "aioboto3", "threads"],
)
async def test_waiting_for_our_own_turn_is_no_stall(
    lane: str, size_bytes: int, rate: int, proxy: Any, tmp_path: Path, bucket: str
) -> None:
    """48 bodies take turns of 50 ms: each waits for 2.4 s between two slices."""
    for number in range(48):
        (tmp_path / f"{number}").write_bytes(bytes(size_bytes))
    async with proxy(everything) as way:
        report = await asyncsink.export_directory(
            tmp_path,
            f"s3://{bucket}",
            endpoint_url=way.endpoint_url,
            transport=lane,
            concurrency=48,
            memory_bytes=48 * 8 * MIB,
            bandwidth_bytes_per_second=rate,
            retry=RetryPolicy(stall_seconds=1.5, complete_seconds=1.5),
        )
    assert (report.failures, report.retries, len(report.receipts)) == ([], 0, 48)
