"""What happens inside of a sink is in the log, in events, and told to an observer; nothing is lost before a reader is
there."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink import Event, Finished, Notice, Receipt, Requested, Retried
from asyncsink.s3.retry import THROTTLED_LOG_SECONDS
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import INTERNAL_ERROR, SLOW_DOWN, Status
from asyncsink.testing.toxics import Latency, ResetPeer
from tests.support.holding_proxy import HoldingProxy
from tests.support.processes import run

pytestmark = pytest.mark.anyio
QUICK = asyncsink.RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.01, throttled_seconds=0)
LANES = pytest.mark.parametrize("lane", ["wire", "aioboto3"])


def of(caplog: pytest.LogCaptureFixture, level: int, name: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if (record.levelno, record.name) == (level, name)]


@LANES
async def test_retries_and_failures_are_logged_and_each_retry_is_an_event(
    lane: Any, many: Path, bucket: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "asyncsink")
    seen: list[Event] = []
    storm = Rule(SLOW_DOWN, INTERNAL_ERROR, operation="PutObject", probability=0.15)
    never = Rule(SLOW_DOWN, operation="PutObject", key="m/many/sub-07/*")
    with FaultProxy(options["endpoint_url"], never, storm, seed=5) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url, "retry": QUICK, "transport": lane}
        async with asyncsink.AsyncSink(f"s3://{bucket}", observe=seen.append, **given) as sink:
            await sink.submit("m", many)
    report = sink.report
    retried = [event for event in seen if isinstance(event, Retried)]
    assert report.objects_failed >= 15
    assert len(retried) == report.retries > 30
    assert {event.operation for event in retried} == {"PutObject"}
    assert {type(event.error) for event in retried} == {asyncsink.Throttled, asyncsink.ServerFault}
    assert {event.attempt for event in retried} >= {1, 2}
    assert all(event.key.startswith("m/") and event.pause_seconds >= 0 for event in retried)
    assert all(event.error.__traceback__ is None for event in retried), "frames hold the buffers of bodies"
    levels = (logging.DEBUG, logging.INFO)
    logged = [record for level in levels for record in of(caplog, level, "asyncsink.s3") if hasattr(record, "event")]
    assert sorted(map(repr, retried)) == sorted(repr(record.event) for record in logged)  # type: ignore[attr-defined]
    throttled = [record for record in logged if record.levelno == logging.INFO]
    assert 1 <= len(throttled) <= 1 + report.elapsed_seconds / THROTTLED_LOG_SECONDS, "one is logged for many"
    assert all("SlowDown" in record.getMessage() for record in throttled)
    failures = of(caplog, logging.WARNING, "asyncsink.engine")
    assert [record.event for record in failures] == [Finished(each) for each in report.failures]  # type: ignore[attr-defined]
    assert sum("m/many/sub-07/" in record.getMessage() for record in failures) == 15
    assert all("tried 3 times" in record.getMessage() for record in failures)


async def test_notices_of_the_opening_reach_log_observer_and_the_first_reader(
    tree: Path, bucket: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Event] = []
    first: list[Event] = []
    second: list[Event] = []

    async def read(subscription: Any, into: list[Event]) -> None:
        into.extend([event async for event in subscription])

    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as other, asyncio.TaskGroup() as group:
        await other.put("o", tree / "a.txt")
        async with asyncsink.AsyncSink(f"s3://{bucket}", observe=seen.append, **options) as sink:
            group.create_task(read(sink.events(), first))
            group.create_task(read(sink.events(), second))
            await sink.put("m", tree / "a.txt")
    (notice,) = sink.report.notices
    assert "journal" in notice
    for events, times in ((seen, 1), (first, 1), (second, 0)):
        assert [event.message for event in events if isinstance(event, Notice)] == [notice] * times
        assert [type(event.outcome) for event in events if isinstance(event, Finished)] == [Receipt]
    assert [record.getMessage() for record in of(caplog, logging.WARNING, "asyncsink.engine")] == [notice]


async def test_an_observer_that_raises_hurts_nobody(
    tree: Path, bucket: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Event] = []

    def observe(event: Event) -> None:
        calls.append(event)
        raise ZeroDivisionError

    async with asyncsink.AsyncSink(f"s3://{bucket}", observe=observe, **options) as sink:
        assert isinstance(await sink.put("m", tree / "a.txt"), Receipt)
    assert len(calls) == 1
    (notice,) = sink.report.notices
    assert "observe raised ZeroDivisionError for Requested" in notice
    (logged,) = of(caplog, logging.ERROR, "asyncsink.engine")
    assert logged.exc_info is not None


async def test_exports_and_grabs_are_observed(tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    async def wrong(event: Event) -> None:
        raise AssertionError(event)

    seen: list[Event] = []
    report = await asyncsink.export({"m": [tree]}, f"s3://{bucket}/one", observe=seen.append, **options)
    assert sum(isinstance(event, Finished) for event in seen) == report.objects_uploaded == 5
    seen.clear()
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/two", observe=seen.append, **options)
    assert sum(isinstance(event, Finished) for event in seen) == report.objects_uploaded == 5
    seen.clear()
    there = tmp_path / "there"
    grabbed = await asyncsink.grab(f"s3://{bucket}/two", there, observe=seen.append, **options)
    assert sum(isinstance(event, Finished) for event in seen) == grabbed.objects_fetched == 5
    for value in (wrong, "print"):
        refused: Any = value
        with pytest.raises(asyncsink.ConfigError, match=r"observe is .*; expected a"):
            await asyncsink.export({"m": tree}, f"s3://{bucket}", observe=refused, **options)


PROGRAM = """
import asyncio, sys, asyncsink
async def main():
    retry = asyncsink.RetryPolicy(attempts=1)
    async with asyncsink.AsyncSink(sys.argv[1], endpoint_url=sys.argv[2], retry=retry) as sink:
        try:
            await sink.put("m", sys.argv[3])
        except asyncsink.PutFailed as error:
            print(type(error.cause).__name__)
asyncio.run(main())
"""


def test_a_program_that_has_set_up_no_logging_gets_no_lines(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    with FaultProxy(options["endpoint_url"], Rule(INTERNAL_ERROR, operation="PutObject")) as proxy:
        words = [sys.executable, "-c", PROGRAM, f"s3://{bucket}", proxy.endpoint_url, tree / "a.txt"]
        done = run(words)
    assert (done.stdout, done.stderr) == ("ServerFault\n", "")


@pytest.mark.parametrize("verbose", [False, True])
def test_the_command_says_everything_once(verbose: bool, tree: Path, bucket: str, options: dict[str, Any]) -> None:
    refused = Rule(Status(403, "AccessDenied"), operation="PutObject", key="a.txt")
    once = Rule(INTERNAL_ERROR, operation="PutObject", key="sub/b*", nth=1)
    with FaultProxy(options["endpoint_url"], refused, once) as proxy:
        words = [sys.executable, "-m", "asyncsink.cli.main", "export", tree, f"s3://{bucket}"]
        words += ["--endpoint-url", proxy.endpoint_url, *(["-vv"] if verbose else [])]
        done = run(words)
    lines = done.stderr.splitlines()
    assert done.returncode == 1, done.stderr
    assert sum("failed " in line and "a.txt -> s3://" in line for line in lines) == verbose
    assert sum("attempt 1 failed" in line for line in lines) == verbose
    assert sum("sending by wire" in line for line in lines) == verbose
    assert "WARNING" not in done.stderr


def requests_of(events: list[Event]) -> list[Requested]:
    return [event for event in events if isinstance(event, Requested)]


@LANES
async def test_each_request_is_an_event_with_its_times(
    lane: Any, many: Path, tree: Path, bucket: str, options: dict[str, Any]
) -> None:
    seen: list[Event] = []
    faults = (
        Rule(SLOW_DOWN, operation="PutObject", probability=0.05),
        Rule(ResetPeer(10), operation="UploadPart", nth=2),
    )
    slow = Rule(Latency(0.1), operation="CompleteMultipartUpload")
    with FaultProxy(options["endpoint_url"], *faults, slow, seed=3) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url, "transport": lane, "part_size_bytes": "5MiB"}
        async with asyncsink.AsyncSink(f"s3://{bucket}", observe=seen.append, **given) as sink:
            await sink.submit("m", [many, tree])
        report = sink.report
        grabbed = await asyncsink.grab(f"s3://{bucket}", tree.parent / "there", observe=seen.append, **given)
    requested = requests_of(seen)
    assert len(requested) == report.requests + grabbed.requests == len(proxy.requests)
    told = Counter((event.operation, event.key) for event in requested)
    assert told == Counter((each.operation, each.key) for each in proxy.requests)
    statuses = Counter(event.status for event in requested)
    assert statuses[503] == proxy.count(SLOW_DOWN) > 0
    assert statuses[0] == 1, "the connection was reset"
    assert set(statuses) <= {0, 200, 204, 206, 404, 503}
    for event in requested:
        assert event.seconds > 0
        assert (event.first_byte_seconds is None) == (event.status == 0)
        assert 0 <= (event.first_byte_seconds or 0) <= event.seconds
    (completed,) = [event for event in requested if event.operation == "CompleteMultipartUpload"]
    assert completed.first_byte_seconds is not None
    assert completed.first_byte_seconds >= 0.1
    sent = [event for event in requested if event.operation in ("PutObject", "UploadPart")]
    received = [event for event in requested if event.operation == "GetObject"]
    assert sum(event.bytes for event in sent) == report.bytes_uploaded
    assert sum(event.bytes for event in received) == grabbed.bytes_fetched


async def test_a_reader_gets_requests_where_it_asks_for_them_and_never_loses_an_outcome_to_them(
    many: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncsink.engine.recording.events.QUEUE_EVENTS", 20)
    asked: list[Event] = []
    plain: list[Event] = []

    async def read(subscription: Any, into: list[Event]) -> None:
        async for event in subscription:
            into.append(event)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            group.create_task(read(sink.events(requests=True), asked))
            group.create_task(read(sink.events(), plain))
            await sink.submit("m", many)
    for events in (asked, plain):
        assert sum(isinstance(event, Finished) for event in events) == 300
    assert not requests_of(plain)
    assert 0 < len(requests_of(asked)) <= sink.report.requests


async def test_no_event_of_a_request_is_made_where_nobody_listens(
    many: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: object) -> None:
        raise AssertionError("an event was made")

    monkeypatch.setattr("asyncsink.s3.http.connection.Requested", made)
    monkeypatch.setattr("asyncsink.s3.transport.Requested", made)
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        events = sink.events()
        await sink.submit("m", many)
        await events.aclose()
    assert sink.report.objects_uploaded == 300


async def test_the_figures_of_a_sink_are_those_of_its_moment(
    many: Path, tree: Path, bucket: str, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    proxy.hold = lambda name: "request" if name == "Put" else ""
    retry = asyncsink.RetryPolicy(stall_seconds=2)
    given = {**options, "endpoint_url": proxy.endpoint_url, "concurrency": 2, "retry": retry}
    sink = asyncsink.AsyncSink(f"s3://{bucket}", **given)
    assert sink.stats() == asyncsink.SinkStats()
    async with sink:
        opened = sink.stats()
        assert (opened.queued, opened.in_flight, opened.published, opened.concurrency_limit) == (0, 0, 0, 2)
        waiting = asyncio.create_task(sink.put("one", tree / "a.txt"))
        await proxy.held.wait()
        first = sink.stats()
        assert (first.queued, first.in_flight, first.published, first.failed) == (0, 1, 0, 0)
        assert first.requests_in_flight == 1
        assert first.oldest_seconds > 0
        submitted = await sink.submit("m", many)
        second = await asyncio.to_thread(sink.stats)
        assert second.queued + second.in_flight == submitted + 1
        assert second.oldest_seconds > first.oldest_seconds
        proxy.hold = lambda _: ""  # what is held is given up after a stall, and sent again
        await waiting
        await sink.flush()
        flushed = sink.stats()
        assert (flushed.queued, flushed.in_flight, flushed.published, flushed.skipped) == (0, 0, 301, 0)
        assert flushed.oldest_seconds == 0
        assert flushed.bytes_sent == sum(path.stat().st_size for path in many.glob("*/*")) + 5
    closed = sink.stats()
    assert (closed.published, closed.requests) == (sink.report.objects_uploaded, sink.report.requests)
    assert (closed.requests_in_flight, closed.memory_bytes) == (0, 0)


async def test_outcomes_have_the_attribute_of_their_call(
    many: Path, tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    seen: list[Event] = []
    refused = Rule(Status(403, "AccessDenied"), operation="PutObject", key="failing/*")
    with FaultProxy(options["endpoint_url"], refused) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url, "on_missing": "skip"}
        async with asyncsink.AsyncSink(f"s3://{bucket}", observe=seen.append, **given) as sink:
            await sink.submit("job-1.@files", many)
            await sink.submit("job-2", [tree, tmp_path / "nowhere"])
            await sink.submit("failing", tree / "a.txt")
            await sink.flush()
            skipped = await sink.put("job-2", tree / "a.txt", key="job-2/a.txt")
            assert skipped.attribute == "job-2"
    told = Counter((type(e.outcome).__name__, e.outcome.attribute) for e in seen if isinstance(e, Finished))
    assert told["Receipt", "job-1.@files"] == 300
    assert told["Failure", "failing"] == 1
    report = sink.report
    for outcomes in (report.receipts, report.skips, report.failures):
        assert Counter(each.attribute for each in outcomes) == Counter(
            e.outcome.attribute for e in seen if isinstance(e, Finished) and isinstance(e.outcome, type(outcomes[0]))
        )
