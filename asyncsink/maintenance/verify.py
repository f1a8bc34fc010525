"""Verification of manifests: reading them, proving each of their objects, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field, replace
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
from asyncsink.model import Event, Notice
from asyncsink.options.parse import parse_options, parse_target
from asyncsink.options.schema import LocalTarget, S3Target, Settings
from asyncsink.os_errors import words_shortages
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, promise_of, read_manifest
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import Cause, all_of, are, count, grouped_failures, inert
from asyncsink.s3.errors_map import one_line
from asyncsink.value import dataclass

_PROOFS = {"checksum": "checksum", "etag": "ETag", "read-back": "reading back"}
PROBLEMS_KEPT = 1000
"""Most problems that are kept with their sentences; all are counted."""

BUCKETS_MAX = 1000
"""Buckets of one merged manifest, which is read once for each of them."""
SENTENCES_SHOWN = 10
"""Most sentences about manifests in the summary."""


@dataclass(slots=True)
class VerifyReport(BaseReport):
    """The result of a verification.

    Attributes:
        manifest: path of the manifest, or how many there are.
        checked: number of records that were looked at.
        confirmed_by: how many were proven by "checksum", "etag" or "read-back".
        superseded: how many do not hold, and are followed by another record of the same object in their manifest: a
            service writes a key again. They are no problem.
        problems_total: how many of the others were not proven.
        problems: (source, url, sentence), the first thousand of them.
        incomplete: "" or sentences, one a line: the manifest's own run did not end in order, or did not publish
            everything, or parts of a split have no receipts.
        notices: sentences for people about what is no failure.
        manifests: of several manifests, the path of each, with a sentence as in `incomplete` or "".
    """

    manifest: str
    checked: int = 0
    confirmed_by: Counter[str] = field(default_factory=Counter)
    superseded: int = 0
    problems_total: int = 0
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    incomplete: str = ""
    notices: list[str] = field(default_factory=list)
    manifests: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every promise holds and the run had ended in order."""
        return not self.problems_total and not self.incomplete

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints."""
        return {
            "manifest": self.manifest,
            "ok": self.ok,
            "objects_total": self.checked,
            "objects_failed": self.problems_total,
            "objects_superseded": self.superseded,
            "confirmed_by": dict(self.confirmed_by),
            "incomplete": self.incomplete,
            "notices": list(self.notices),
            "failures": [{"source": s, "url": u, "message": m} for s, u, m in self.problems],
            **({"manifests": self.manifests} if self.manifests else {}),
        }

    def summary(self) -> str:
        """A few lines for people; the first one has the verdict."""
        name, checked, wrong = inert(self.manifest), self.checked, self.problems_total
        several = len(self.manifests) > 1
        says, lists = ("say", "list") if several else ("says", "lists")
        if wrong:
            lines = [f"{wrong:,} of {count(checked, 'object')} {are(wrong)} not as {name} {says}."]
        elif not checked:
            lines = [f"{name} {lists} no objects: there is nothing to verify."]
        elif self.incomplete:
            lines = [
                f"{name} {'do' if several else 'does'} not list everything; {all_of(checked, 'object').lower()} in "
                f"{'them' if several else 'it'} {are(checked)} as {'they say' if several else 'it says'}."
            ]
        else:
            lines = [f"{all_of(checked, 'object')} {are(checked)} as {name} {says}."]
        sentences = self.incomplete.splitlines()
        lines += map(inert, sentences[:SENTENCES_SHOWN])
        if len(sentences) > SENTENCES_SHOWN:
            lines.append(f"… and {len(sentences) - SENTENCES_SHOWN:,} more of such manifests.")
        if self.superseded:
            again = "an object that was" if self.superseded == 1 else "objects that were"
            lines.append(
                f"{count(self.superseded, 'earlier record')} of {again} written again: only the last one counts."
            )
        if len(self.confirmed_by) == 1:
            ((how, proven),) = self.confirmed_by.items()
            number = f"{proven:,} proven" if wrong else "Proven"
            lines.append(f"{number} by {_PROOFS[how]}.")
        elif self.confirmed_by:
            proofs = ", ".join(f"{_PROOFS[how]}: {number:,}" for how, number in self.confirmed_by.most_common())
            lines.append(f"Proven by {proofs}.")
        return "\n".join(lines)

    def causes(self) -> list[Cause]:
        """The kept problems, grouped by cause."""
        return grouped_failures((message, f"{url}: {message}", url) for _, url, message in self.problems)

    def problem(self, promise: Promise, message: str) -> None:
        """Count a promise that does not hold."""
        self.problems_total += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append((promise.source, promise.url, message))


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
        if tell is not None and not isinstance(event, Notice):  # notices are in the report
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
            for record in read_manifest(manifest.path)[1]:
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
