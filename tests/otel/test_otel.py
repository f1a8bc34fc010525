"""Traces and metrics, read from OpenTelemetry's own exporters in memory; a real server with faults before it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import asyncsink
from asyncsink.adapters import otel
from asyncsink.adapters.otel import instrument
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN
from tests.support.guide import example

pytestmark = pytest.mark.anyio
QUICK = asyncsink.RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.01, throttled_seconds=0)


class Telemetry:
    """Providers whose spans and metrics are kept."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else ()
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return [
            point
            for scope in scopes
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def telemetry() -> Any:
    kept = Telemetry()
    yield kept
    kept.close()


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_puts_are_traced_with_their_requests_below_the_callers_span(
    lane: Any, tree: Path, bucket: str, options: dict[str, Any], telemetry: Telemetry
) -> None:
    once = Rule(SLOW_DOWN, operation="PutObject", key="m/a.txt", nth=1)
    never = Rule(SLOW_DOWN, operation="PutObject", key="m/empty")
    observe = instrument(telemetry.tracers, telemetry.meters)
    tracer = telemetry.tracers.get_tracer("service")
    with FaultProxy(options["endpoint_url"], once, never) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url, "retry": QUICK, "transport": lane}

        async def handle(sink: asyncsink.AsyncSink, name: str) -> None:
            with tracer.start_as_current_span(f"upload {name}"):
                await sink.put("m", tree / name)

        async with asyncsink.AsyncSink(f"s3://{bucket}", observe=observe, **given) as sink:
            names = ["a.txt", "sub/large.nii.gz", "empty"]
            ended = await asyncio.gather(*(handle(sink, name) for name in names), return_exceptions=True)
            assert [type(each) for each in ended] == [type(None), type(None), asyncsink.PutFailed]
        answers = Counter((request.operation, request.key) for request in proxy.requests)
    publishes = {
        span.attributes["aws.s3.key"]: span for span in telemetry.spans("asyncsink.publish") if span.attributes
    }
    assert set(publishes) == {"m/a.txt", "m/large.nii.gz", "m/empty"}
    port = int(proxy.endpoint_url.rpartition(":")[2])
    for name in names:
        key = f"m/{Path(name).name}"
        publish, (upload,) = publishes[key], telemetry.spans(f"upload {name}")
        assert publish.kind is SpanKind.INTERNAL
        assert publish.parent is not None
        assert publish.parent.span_id == upload.context.span_id
        assert publish.attributes is not None
        assert publish.attributes["aws.s3.bucket"] == bucket
        children = [
            span
            for operation in {operation for operation, each in answers if each == key}
            for span in telemetry.spans(f"S3.{operation}")
            if span.parent is not None and span.parent.span_id == publish.context.span_id
        ]
        assert len(children) == sum(number for (_, each), number in answers.items() if each == key)
        for span in children:
            assert span.kind is SpanKind.CLIENT
            assert span.attributes is not None
            assert span.attributes["rpc.system"] == "aws-api"
            assert span.attributes["aws.s3.key"] == key
            assert (span.attributes["server.address"], span.attributes["server.port"]) == ("127.0.0.1", port)
            assert publish.start_time <= span.start_time <= span.end_time <= publish.end_time  # type: ignore[operator]
    retried = publishes["m/a.txt"]
    assert [event.name for event in retried.events] == ["retry"]
    assert retried.events[0].attributes == {
        **retried.events[0].attributes,  # type: ignore[dict-item]
        "rpc.method": "PutObject",
        "asyncsink.attempt": 1,
        "error.type": "Throttled",
    }
    assert retried.status.status_code is StatusCode.UNSET
    failed = publishes["m/empty"]
    assert failed.attributes is not None
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "Throttled"
    statuses = Counter(span.attributes["http.response.status_code"] for span in telemetry.spans("S3.PutObject"))  # type: ignore[index]
    assert statuses == {503: 4, 200: 1}


async def test_metrics_have_the_names_and_the_numbers_of_the_run(
    many: Path, bucket: str, options: dict[str, Any], telemetry: Telemetry
) -> None:
    observe = instrument(telemetry.tracers, telemetry.meters)
    with FaultProxy(options["endpoint_url"], Rule(SLOW_DOWN, operation="PutObject", probability=0.1)) as proxy:
        given = {**options, "endpoint_url": proxy.endpoint_url}
        async with asyncsink.AsyncSink(f"s3://{bucket}", observe=observe, **given) as sink:
            observe.gauges(sink)
            await sink.submit("m", many)
            await sink.flush()
            gauges = {
                name: telemetry.points(f"asyncsink.{name}")[0].value for name in ("queued", "in_flight", "oldest")
            }
            (limit,) = telemetry.points("asyncsink.client.limit")
    assert gauges == {"queued": 0, "in_flight": 0, "oldest": 0}
    assert limit.value > 0
    durations = telemetry.points("http.client.request.duration")
    assert sum(point.count for point in durations) == sink.report.requests
    throttled = [point for point in durations if point.attributes.get("http.response.status_code") == 503]
    assert sum(point.count for point in throttled) == proxy.count(SLOW_DOWN) > 0
    assert {point.attributes["error.type"] for point in throttled} == {"503"}
    assert durations[0].explicit_bounds == otel.DURATION_SECONDS
    retries = telemetry.points("asyncsink.client.retries")
    assert sum(point.value for point in retries) == sink.report.retries
    (published,) = telemetry.points("asyncsink.objects")
    assert (published.value, published.attributes) == (300, {"asyncsink.outcome": "published"})
    sent = sum(point.value for point in telemetry.points("asyncsink.client.body.size"))
    assert sent == sink.report.bytes_uploaded


async def test_a_sink_that_is_gone_has_no_gauges(tmp_path: Path, telemetry: Telemetry) -> None:
    observe = instrument(telemetry.tracers, telemetry.meters)
    observe.gauges(asyncsink.AsyncSink(str(tmp_path)))
    assert telemetry.points("asyncsink.queued") == []


async def test_requests_of_no_file_wait_for_no_outcome(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    observe = instrument(telemetry.tracers, telemetry.meters)
    monkeypatch.setattr(otel, "EVENTS_MAX", 3)
    for number in range(5):
        observe(asyncsink.Requested("HeadObject", 200, 0, 0.1, 0.05, f"k{number}", "localhost:80"))
    observe(asyncsink.Requested("GetObject", 200, 4, 0.1, 0.05, "k9", "localhost:80"))
    observe(asyncsink.Requested("ListObjectsV2", 0, 0, 0.1, None))
    heads = telemetry.spans("S3.HeadObject")
    assert [span.attributes["aws.s3.key"] for span in heads if span.attributes] == ["k0", "k1"]
    assert [span.parent for span in heads] == [None, None]
    assert len(telemetry.spans("S3.GetObject")) == 1
    (listed,) = telemetry.spans("S3.ListObjectsV2")
    assert listed.attributes is not None
    assert listed.attributes["error.type"] == "no answer"
    assert listed.status.status_code is StatusCode.ERROR


def test_a_key_that_a_reader_asks_for_again_and_again_takes_no_more_memory(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel, "EVENTS_MAX", 3)
    observe = instrument(telemetry.tracers, telemetry.meters)
    for _ in range(10):
        observe(asyncsink.Requested("HeadObject", 200, 0, 0.1, 0.05, "k", "localhost:80"))
    assert [span.parent for span in telemetry.spans("S3.HeadObject")] == [None] * 8
    outcome = asyncsink.Skip("/k", "k", "s3://b/k", 0, "same checksum")
    observe(asyncsink.Finished(outcome))
    assert len([span for span in telemetry.spans("S3.HeadObject") if span.parent is not None]) == 2


async def test_the_example_of_the_guide(
    tree: Path, bucket: str, options: dict[str, Any], telemetry: Telemetry, stored: Callable[[], dict[str, bytes]]
) -> None:
    page = example("service.md", "OpenTelemetry")
    async with page.opened(f"s3://{bucket}", telemetry.tracers, telemetry.meters, **options) as sink:
        await sink.put("m", tree / "a.txt")
    assert stored() == {"m/a.txt": b"alpha"}
    assert len(telemetry.spans("asyncsink.publish")) == 1
