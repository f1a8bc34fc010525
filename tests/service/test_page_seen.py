"""The sections of the guide's page about services that say how errors, events and figures are seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import INTERNAL_ERROR, SLOW_DOWN, Status
from tests.support.guide import example

pytestmark = pytest.mark.anyio


async def test_errors_become_answers(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    publish = example("service.md", "Errors").publish
    retry = asyncsink.RetryPolicy(attempts=2, backoff_seconds_base=0.001, throttled_seconds=0)
    with FaultProxy(options["endpoint_url"]) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url, "retry": retry}
        async with asyncsink.AsyncSink(f"s3://{bucket}", **given) as sink:
            proxy.rules = (Rule(SLOW_DOWN, operation="PutObject"),)
            assert await publish(sink, "m", tree / "a.txt") == (503, "try again later")
            proxy.rules = (Rule(Status(403, "AccessDenied", "No."), operation="PutObject"),)
            status, text = await publish(sink, "m", tree / "a.txt")
            assert status == 502
            assert text.startswith("PutObject failed in 1 attempts: ")
            proxy.rules = ()
            assert await publish(sink, "m", tree / "a.txt") == (201, "m/a.txt")
            assert await publish(sink, "m", tree / "a.txt") == (200, "m/a.txt")
            assert await publish(sink, "m", tree / "nowhere") == (404, "nowhere is gone")


async def test_events_are_counted(tree: Path, bucket: str, options: dict[str, Any], caplog: Any) -> None:
    caplog.set_level("INFO")
    page = example("service.md", "The log, and events")
    retry = asyncsink.RetryPolicy(attempts=4, backoff_seconds_base=0.001)
    once = Rule(INTERNAL_ERROR, operation="PutObject", key="m/a.txt", nth=1)
    with FaultProxy(options["endpoint_url"], once) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url, "retry": retry}
        report = await page.publish(f"s3://{bucket}", {"m": [str(tree / "a.txt"), str(tree / "empty")]}, **given)
    assert report.objects_uploaded == 2
    assert page.retries == {"PutObject ServerFault": 1} == {"PutObject ServerFault": report.retries}
    assert "m/a.txt needed 2 attempts" in caplog.messages


async def test_figures_answer_a_health_check(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    page = example("service.md", "Figures")
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.put("m", tree / "a.txt")
        assert page.health(sink) == (200, {"waiting": 0, "published": 1, "retries": 0})
