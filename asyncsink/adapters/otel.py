"""Traces and metrics by OpenTelemetry's conventions (extra `[otel]`), from the events of a sink or a run.

    observe = instrument()
    async with asyncsink.AsyncSink("s3://bucket/prefix", observe=observe) as sink:
        observe.gauges(sink)

    asyncsink.publish                 INTERNAL; of a file, a child of the span in which `put` was called
    ├ S3.PutObject                    CLIENT; each request, its errors and repetitions included
    └ S3.PutObject

Spans are made when their events come, with the times that the events have, so that a sink without an observer pays for
nothing. The spans of a file's requests wait for its outcome. Sources: OpenTelemetry semantic conventions, "AWS S3
client spans", "AWS SDK client spans", "HTTP client metrics" and "Recording errors".
"""

from __future__ import annotations

import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import field
from typing import Final

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

from asyncsink.model import Event, Failure, Finished, Outcome, Receipt, Requested, Retried, Skip
from asyncsink.options.settings import VERSION
from asyncsink.report.report import SinkStats
from asyncsink.sink import AsyncSink
from asyncsink.value import dataclass

Attributes = dict[str, str | int | bool | float]
DURATION_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The buckets of `http.client.request.duration` by the conventions."""
EVENTS_MAX: Final = 20_000
"""Most requests and retries that wait for an outcome: one object has up to 10,000 parts. A reader asks for one key as
often as it likes, and no outcome ever comes."""
WAITING_SECONDS: Final = 60.0
"""Seconds without a further event after which the requests of a key wait no longer: they belong to no file of the run,
as a HEAD of a reader."""
_METHODS: Final = {
    "PutObject": "PUT",
    "UploadPart": "PUT",
    "CreateMultipartUpload": "POST",
    "CompleteMultipartUpload": "POST",
    "AbortMultipartUpload": "DELETE",
    "DeleteObject": "DELETE",
    "HeadObject": "HEAD",
}
"""HTTP methods of S3's operations; GET of all others."""


def instrument(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Instrumentation:
    """An observer that makes spans and metrics of events: for `observe=` of one sink, export or grab.

    Args:
        tracer_provider, meter_provider: None is the global one.
    """
    name, number = "asyncsink", VERSION
    tracer = trace.get_tracer(name, number, tracer_provider)
    return Instrumentation(tracer, metrics.get_meter(name, number, meter_provider))


@dataclass(slots=True)
class _Waiting:
    """What happened under one key, and has no outcome yet; each event with the time of its end."""

    touched: float
    began_ns: int
    requests: list[tuple[Requested, int]] = field(default_factory=list)
    retries: list[tuple[Retried, int]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of events."""
        return len(self.requests) + len(self.retries)


class Instrumentation:
    """See `instrument`. Called with each event, on the event loop."""

    def __init__(self, tracer: trace.Tracer, meter: Meter) -> None:
        self._tracer = tracer
        self._meter = meter
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()
        self._events = 0
        self._durations = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=DURATION_SECONDS,
        )
        self._first_bytes = meter.create_histogram(
            "asyncsink.client.time_to_first_byte",
            unit="s",
            description="Time from the first byte of a request to the first byte of its answer.",
            explicit_bucket_boundaries_advisory=DURATION_SECONDS,
        )
        self._bytes = meter.create_counter(
            "asyncsink.client.body.size", unit="By", description="Bytes of the bodies of requests that succeeded."
        )
        self._retries = meter.create_counter(
            "asyncsink.client.retries", unit="{request}", description="Requests that were sent again."
        )
        self._objects = meter.create_counter(
            "asyncsink.objects", unit="{object}", description="Objects by their outcome."
        )

    def __repr__(self) -> str:
        return f"<Instrumentation, {len(self._waiting)} keys without an outcome>"

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, Requested):
            self._requested(event)
        elif isinstance(event, Retried):
            self._retried(event)
        elif isinstance(event, Finished):
            self._finished(event.outcome)

    def gauges(self, sink: AsyncSink) -> None:
        """Show the figures of a sink (`AsyncSink.stats`) as gauges, as long as the sink exists."""
        held = weakref.ref(sink)

        def gauge(name: str, unit: str, description: str, figure: Callable[[SinkStats], float]) -> None:
            def observed(_: CallbackOptions) -> Iterator[Observation]:
                sink = held()
                if sink is not None:
                    yield Observation(figure(sink.stats()))

            self._meter.create_observable_gauge(name, [observed], unit, description)

        gauge("asyncsink.queued", "{object}", "Objects that no worker has begun with.", lambda stats: stats.queued)
        gauge("asyncsink.in_flight", "{object}", "Objects that workers publish.", lambda stats: stats.in_flight)
        gauge("asyncsink.oldest", "s", "Age of the oldest object without outcome.", lambda stats: stats.oldest_seconds)
        gauge("asyncsink.memory", "By", "Content that is held in memory.", lambda stats: stats.memory_bytes)
        gauge("asyncsink.client.requests", "{request}", "Requests in flight.", lambda stats: stats.requests_in_flight)
        gauge("asyncsink.client.limit", "{request}", "Most requests in flight.", lambda stats: stats.concurrency_limit)

    # -- Events --------------------------------------------------------------------------------------------------------

    def _requested(self, event: Requested) -> None:
        attributes = _http(event)
        self._durations.record(event.seconds, attributes)
        if event.first_byte_seconds is not None:
            self._first_bytes.record(event.first_byte_seconds, attributes)
        if event.bytes:
            self._bytes.add(event.bytes, {"rpc.method": event.operation})
        if event.key and event.operation != "GetObject":
            now_ns = time.time_ns()
            self._of(event.key, now_ns - _ns(event.seconds)).requests.append((event, now_ns))
            self._count()
        else:
            self._span(event, time.time_ns(), "", None)

    def _retried(self, event: Retried) -> None:
        self._retries.add(1, {"rpc.method": event.operation, "error.type": type(event.error).__name__})
        if event.key:
            now_ns = time.time_ns()
            self._of(event.key, now_ns).retries.append((event, now_ns))
            self._count()

    def _finished(self, outcome: Outcome) -> None:
        kind = "published" if isinstance(outcome, Receipt) else "skipped" if isinstance(outcome, Skip) else "failed"
        error: Attributes = {"error.type": outcome.error} if isinstance(outcome, Failure) else {}
        self._objects.add(1, {"asyncsink.outcome": kind, **error})
        end_ns = time.time_ns()
        waiting = self._waiting.pop(outcome.key, None)
        self._events -= waiting.count if waiting is not None else 0
        seconds = outcome.seconds if isinstance(outcome, Receipt) else 0.0
        start_ns = min(end_ns - _ns(seconds), waiting.began_ns if waiting is not None else end_ns)
        bucket = outcome.url[5:].partition("/")[0] if outcome.url.startswith("s3://") else ""
        attributes: Attributes = {"asyncsink.outcome": kind, **_object(bucket, outcome.key), **error}
        if isinstance(outcome, Receipt):
            attributes |= {"asyncsink.size": outcome.size_bytes, "asyncsink.confirmed_by": outcome.confirmed_by}
        elif isinstance(outcome, Skip):
            attributes["asyncsink.reason"] = outcome.reason
        span = self._tracer.start_span("asyncsink.publish", attributes=attributes, start_time=start_ns)
        for retried, at_ns in waiting.retries if waiting is not None else ():
            told: Attributes = {
                "rpc.method": retried.operation,
                "asyncsink.attempt": retried.attempt,
                "asyncsink.pause": retried.pause_seconds,
                "error.type": type(retried.error).__name__,
            }
            span.add_event("retry", told, at_ns)
        if isinstance(outcome, Failure):
            span.set_status(Status(StatusCode.ERROR, outcome.message))
        parent = trace.set_span_in_context(span)
        for requested, ended_ns in waiting.requests if waiting is not None else ():
            self._span(requested, ended_ns, bucket, parent)
        span.end(end_ns)

    # -- Spans ---------------------------------------------------------------------------------------------------------

    def _of(self, key: str, began_ns: int) -> _Waiting:
        """What waits under a key, which was touched last now."""
        now = time.monotonic()
        waiting = self._waiting.pop(key, None) or _Waiting(now, began_ns)
        waiting.touched, waiting.began_ns = now, min(waiting.began_ns, began_ns)
        self._waiting[key] = waiting
        return waiting

    def _count(self) -> None:
        """Count an event that waits. What has waited too long, or is too much, goes on without a parent."""
        self._events += 1
        now = time.monotonic()
        while self._waiting:
            oldest = next(iter(self._waiting.values()))
            if self._events <= EVENTS_MAX and now - oldest.touched < WAITING_SECONDS:
                return
            self._waiting.popitem(last=False)
            self._events -= oldest.count
            for requested, ended_ns in oldest.requests:
                self._span(requested, ended_ns, "", None)

    def _span(self, event: Requested, end_ns: int, bucket: str, parent: context.Context | None) -> None:
        attributes: Attributes = {
            "rpc.system": "aws-api",
            "rpc.service": "S3",
            "asyncsink.body.size": event.bytes,
            **_http(event),
            **_object(bucket, event.key),
        }
        span = self._tracer.start_span(
            f"S3.{event.operation}",
            context=parent,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            start_time=end_ns - _ns(event.seconds),
        )
        if "error.type" in attributes:
            span.set_status(StatusCode.ERROR)
        span.end(end_ns)


def _http(event: Requested) -> Attributes:
    """The attributes of an HTTP client, of spans and metrics alike; few different values."""
    host, _, port = event.server.rpartition(":")
    attributes: Attributes = {
        "http.request.method": _METHODS.get(event.operation, "GET"),
        "rpc.method": event.operation,
    }
    if host:
        attributes |= {"server.address": host, "server.port": int(port)}
    if event.status:
        attributes["http.response.status_code"] = event.status
    if not 200 <= event.status < 300:
        attributes["error.type"] = str(event.status) if event.status else "no answer"
    return attributes


def _object(bucket: str, key: str) -> Attributes:
    """The attributes of an object."""
    named = {"aws.s3.bucket": bucket, "aws.s3.key": key}
    return {name: value for name, value in named.items() if value}


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
