"""How many lanes there are: no more than the bound of the run, and one at most where nothing is sent."""

from __future__ import annotations

import asyncio
import threading

import pytest

from asyncsink.s3.http import lane_pool
from asyncsink.s3.http.client import HttpTransport
from asyncsink.testing.peers import ActingPeer, CannedPeer
from tests.support.requests import STORED, Bodies, Open, read_request, until

pytestmark = pytest.mark.anyio


async def many(transport: HttpTransport, bodies: Bodies) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(transport.send(bodies(1000)))


async def test_lanes_end_when_nothing_is_sent_and_come_back(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_pool, "IDLE_SECONDS", 0.02)
    async with CannedPeer(STORED, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        pool = transport._lanes
        for _ in range(2):
            await many(transport, bodies)
            used = [*pool.small, *pool.large]
            await until(lambda: not pool.large and len(pool.small) <= 1)
            ended = [lane for lane in used if lane not in pool.small]
            await until(lambda ended=ended: not any(lane.thread.is_alive() for lane in ended))  # type: ignore[misc]
        await transport.send(bodies(1000))


async def test_a_lane_that_waits_for_an_answer_does_not_end(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_pool, "IDLE_SECONDS", 0.0)
    monkeypatch.setattr(lane_pool, "STUCK_SECONDS", 0.01)
    looks = threading.Semaphore(0)
    watch = lane_pool.LanePool._watch

    def watched(pool: lane_pool.LanePool) -> None:
        watch(pool)
        looks.release()

    monkeypatch.setattr(lane_pool.LanePool, "_watch", watched)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for _ in range(5):
                await asyncio.to_thread(looks.acquire)
            writer.write(STORED)

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(bodies(1000))


async def test_no_more_lanes_than_the_bound(wire: Open, bodies: Bodies) -> None:
    """Each lane takes descriptors of its own, connections or not."""
    async with CannedPeer(STORED, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        pool = transport._lanes
        await many(transport, bodies)
        transport.bound(1)
        assert len(pool.large) <= 1
        await many(transport, bodies)
        assert len(pool.large) <= 1
