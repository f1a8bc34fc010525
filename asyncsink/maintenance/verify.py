"""Verification of manifests: reading them, and proving each of their objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from asyncsink.engine.recording.events import Events, Progress
from asyncsink.engine.resources import Resources, open_resources
from asyncsink.errors import AsyncSinkError, ConfigError, ObjectMissing
from asyncsink.event_loops import batches, surface
from asyncsink.maintenance.manifests import SEVERAL_BUCKETS, ManifestInput, ManifestPaths, bucket_of, gathered
from asyncsink.maintenance.prover import Promise, Prover
from asyncsink.maintenance.superseded import Doubts
from asyncsink.maintenance.verify_report import VerifyReport
from asyncsink.model import Event, GaveUp, Paused, Resumed, promise_of
from asyncsink.options.parse import parse_options, parse_target
from asyncsink.options.schema import LocalTarget, S3Target, Settings
from asyncsink.os_errors import words_shortages
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, read_manifest
from asyncsink.s3.errors_map import one_line
from asyncsink.value import dataclass

BUCKETS_MAX = 1000
"""Buckets of one merged manifest, which is read once for each of them."""


@words_shortages
async def verify_manifest(
    path: ManifestPaths,
    *,
    read_back: bool = False,
    options: Mapping[str, Any] | None = None,
    observe: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    manifest_endpoint: bool = False,
    tell: Callable[[Event], None] | None = None,
) -> VerifyReport:
    """Check every object that a manifest lists, receipts and "already there" alike.

    Args:
        path: a manifest that `export` or `merge` wrote, a directory with receipts-*.jsonl, or a list of them.
        read_back: download every object and compute its checksum again.
        options: how to reach the bucket (endpoint_url, region, profile, creds_path, sse for a customer key, …); the
            bucket, and where nothing else is said its region and addressing style, are the manifest's.
        observe: called with the number of records checked so far.
        tell: called with events about a server that is gone, on the event loop.
        progress: for a display to poll: proven records count as done, and bytes only with `read_back`.
        manifest_endpoint: send requests to the server that the manifest names. Without it, that server is used only
            where `options`, the environment or the profile name it too: the author of a manifest could choose a server
            of their own, which would get signatures, a session token, and a customer key.

    Raises:
        ConfigError: a manifest is missing or malformed, the options are wrong, or the endpoint that a manifest names is
            to be confirmed; nothing was sent, or nothing about the manifests of that endpoint.
        TransferError: the bucket cannot be reached at all.

    Cancelled, it stops; nothing is written anywhere.
    """
    inputs = await anyio.to_thread.run_sync(gathered, path)
    checks = await anyio.to_thread.run_sync(lambda: list(_by_place(inputs.manifests)))
    settings = [_settings(checked[0].header, options or {}, manifest_endpoint=manifest_endpoint) for checked in checks]

    def observe_server(event: Event) -> None:
        if tell is not None and isinstance(event, (Paused, Resumed, GaveUp)):
            tell(event)

    events = Events(watch=observe_server)
    progress = progress or Progress()
    report = VerifyReport(inputs.name, notices=events.notices)
    report.incomplete = "\n".join(sentence for _, sentence in inputs.missing)
    uncounted = inputs.manifests
    for of_place, its_settings in zip(checks, settings, strict=True):
        async with open_resources(its_settings, events=events, progress=progress) as resources:
            async with _open_prover(of_place[0].header, resources, read_back=read_back) as prover:
                await prover.check_reachable()
                try:
                    with resources.halt.bounds():
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(_count_promises, uncounted, prover)
                            uncounted = []
                            for check in of_place:
                                await _check_all(check, report, prover, resources, observe=observe)
                except BaseExceptionGroup as group:
                    raise surface(group) from None
            if resources.halt.reason:
                reason = resources.halt.reason.rstrip(".")
                report.incomplete = f"Stopped: {reason}. Not all objects were looked at; run it again."
                return report
    if inputs.several:
        report.manifests = {each.path: each.incomplete() for each in inputs.manifests}
        wrong = [f"{path}: {sentence}" for path, sentence in report.manifests.items() if sentence]
        report.incomplete = "\n".join([*report.incomplete.splitlines(), *wrong])
    else:
        report.incomplete = inputs.manifests[0].incomplete()
    return report


@dataclass(slots=True)
class _Check:
    """The verification of one manifest in one place: of all its objects, or of those in one of its buckets."""

    manifest: ManifestInput
    header: ManifestHeader
    bucket: str = ""

    def promises(self) -> Iterator[Promise | None]:
        """The promises; None for each of the other records. Blocking."""
        for record in self.manifest.read():
            promise = None if isinstance(record, ManifestEnd) else promise_of(record)
            yield None if promise is None or (self.bucket and bucket_of(promise) != self.bucket) else promise


def _by_place(manifests: Iterable[ManifestInput]) -> Iterator[list[_Check]]:
    """The verifications, grouped by server and bucket, or by directory. Blocking."""
    places: dict[tuple[str, ...], list[_Check]] = {}
    for manifest in manifests:
        header = manifest.header
        buckets = [""]
        if header.destination == SEVERAL_BUCKETS:
            buckets = _buckets(manifest)
        for bucket in buckets:
            own = replace(header, destination=f"{SEVERAL_BUCKETS}{bucket}") if bucket else header
            target = parse_target(own.destination, {})
            where = target.bucket if isinstance(target, S3Target) else target.directory
            place = (own.endpoint_url, where, own.region, own.addressing_style)
            places.setdefault(place, []).append(_Check(manifest, own, bucket))
    yield from places.values()


def _buckets(manifest: ManifestInput) -> list[str]:
    """The buckets of a merged manifest's objects.

    Raises:
        ConfigError: there are too many.
    """
    found: set[str] = set()
    for record in manifest.read():
        if (promise := promise_of(record)) is not None:
            found.add(bucket_of(promise))
        if len(found) > BUCKETS_MAX:
            raise ConfigError(
                f"The manifest {manifest.path!r} has objects in more than {BUCKETS_MAX:,} buckets; verify those "
                "that it was merged from."
            )
    return sorted(found)


async def _count_promises(manifests: Sequence[ManifestInput], prover: Prover) -> None:
    """Count the promises for the progress, while they are being proven."""
    if not manifests:
        return

    def count() -> Counter[str]:
        counted = Counter[str]()
        for manifest in manifests:
            for record in read_manifest(manifest.path):
                if (promise := promise_of(record)) is not None:
                    counted.update(objects=1, bytes=promise.size_bytes if prover.reads_back else 0)
        return counted

    counted = await anyio.to_thread.run_sync(count, abandon_on_cancel=True)
    prover.progress.objects_total, prover.progress.bytes_total = counted["objects"], counted["bytes"]


async def _check_all(
    check: _Check,
    report: VerifyReport,
    prover: Prover,
    resources: Resources,
    *,
    observe: Callable[[int], None] | None,
) -> None:
    share, limits = resources.share, resources.limits
    send, receive = anyio.create_memory_object_stream[tuple[int, Promise]](limits.queue_transfers)
    doubts = Doubts()

    def wrong(promise: Promise, problem: str) -> None:
        report.problem(promise, problem)
        prover.count(promise, proven=False)

    async def work() -> None:
        async for number, promise in receive:
            problem = ""
            await share.turn()
            try:
                report.confirmed_by[await prover.prove(promise)] += 1
            except ObjectMissing:
                problem = "it is not there"
            except AsyncSinkError as error:
                problem = str(error)
            finally:
                share.over()
            if not problem:
                prover.count(promise, proven=True)
            elif not doubts.add(number, promise, problem):
                wrong(promise, problem)
            report.checked += 1
            if observe is not None:
                observe(report.checked)

    prover.progress.started = True
    with send, receive:
        async with anyio.create_task_group() as group:
            for _ in range(limits.concurrency_start):
                group.start_soon(work)
            async for batch in batches(enumerate(check.promises()), limiter=resources.threads):
                for number, promise in batch:
                    if promise is not None:
                        await send.send((number, promise))
            send.close()
    find = partial(doubts.wrong, check.promises())
    for promise, problem in await anyio.to_thread.run_sync(find, limiter=resources.threads):
        wrong(promise, problem)
    report.superseded += doubts.superseded


def _settings(header: ManifestHeader, options: Mapping[str, Any], *, manifest_endpoint: bool) -> Settings:
    known = {"region": header.region or None, "addressing_style": header.addressing_style or None}
    given = {name: value for name, value in options.items() if value is not None}
    if manifest_endpoint and header.endpoint_url:
        known["endpoint_url"] = header.endpoint_url
        if "endpoint_url" in given and not _same(str(given["endpoint_url"]), header.endpoint_url):
            raise ConfigError(
                f"manifest_endpoint=True asks for the manifest's endpoint, {one_line(header.endpoint_url)!r}, and "
                "endpoint_url for another one; give one of them."
            )
    return parse_options(header.destination, {**known, **given})


def _check_endpoint(header: ManifestHeader, endpoint_url: str, notice: Callable[[str], None]) -> None:
    """Refuse a server that only the manifest names. `endpoint_url` is the one in use."""
    if not header.endpoint_url or _same(header.endpoint_url, endpoint_url):
        return
    named = one_line(header.endpoint_url)
    if not endpoint_url:
        raise ConfigError(
            f"The manifest names the endpoint {named!r}, and neither an option, the environment nor the profile does; "
            f"give manifest_endpoint=True to ask it, if you trust who wrote the manifest, or endpoint_url={named!r}."
        )
    notice(
        f"The manifest names the endpoint {named!r}; {one_line(endpoint_url)!r}, which an option, the environment or "
        "the profile names, was asked instead."
    )


def _same(one: str, other: str) -> bool:
    return one.lower().rstrip("/") == other.lower().rstrip("/")


@asynccontextmanager
async def _open_prover(header: ManifestHeader, resources: Resources, *, read_back: bool) -> AsyncIterator[Prover]:
    target, progress = resources.settings.target, resources.progress
    if isinstance(target, LocalTarget):
        yield Prover(None, None, progress, read_back=True, directory=target.directory)
        return
    assert isinstance(target, S3Target)  # a manifest names a bucket or a directory
    async with resources.open_bucket(target) as stack:
        _check_endpoint(header, stack.endpoint_url, resources.events.notice)
        secret = resources.settings.objects.sse_customer_key
        yield Prover(stack.transport, secret, progress, read_back=read_back)
