"""How often lanes are woken: each waking costs the event loop the interpreter's lock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.http.lane import Lane
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.stack import open_lanes
from tests.support.object_peer import ObjectPeer


@pytest.mark.anyio
@pytest.mark.usefixtures("dummy_keys")
async def test_requests_of_one_iteration_wake_a_lane_once(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[str] = []
    wake = Lane.wake

    def counted(lane: Lane) -> None:
        if asyncio._get_running_loop() is not None:  # lanes are woken by other lanes' threads too, for tokens
            woken.append(lane.thread.name)
        wake(lane)

    monkeypatch.setattr(Lane, "wake", counted)
    async with ObjectPeer({"k": b"x" * 1000}) as peer:
        target = S3Target(bucket="b", endpoint_url=peer.endpoint_url, region="x")
        lanes = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="wire")
        try:
            asked: Any = [lanes.transport.send(GetObject(key="k", length=1000, whole=True)) for _ in range(16)]
            await asyncio.gather(*asked)
            assert woken == ["asyncsink-small-0"]
        finally:
            await lanes.transport.aclose()
