"""Verification of manifests: each of their objects is proven by one HEAD, or by reading its bytes back.

A record is proven by the strongest value that both the manifest and the server have: the full-object checksum, else the
ETag, else (with `read_back`) the bytes themselves. Size alone proves nothing and counts as a problem, with the advice
to read back.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field, replace
from typing import Any

import anyio
import anyio.to_thread

from asyncsink.engine.open_run import surface
from asyncsink.engine.planning.survey import batches
from asyncsink.engine.recording.events import Events, Progress, UnderWay
from asyncsink.engine.resources import Resources, open_resources
from asyncsink.errors import AccessDenied, AsyncSinkError, ConfigError, ObjectMissing
from asyncsink.integrity.checksums import Digester, is_composite
from asyncsink.maintenance.manifests import SEVERAL_BUCKETS, ManifestInput, ManifestPaths, bucket_of, gathered
from asyncsink.model import Checksum, ChecksumAlgorithm, Event, Notice, Receipt, Skip
from asyncsink.options.parse import parse_options, parse_target
from asyncsink.options.schema import LocalTarget, S3Target, Settings
from asyncsink.options.settings import Secret
from asyncsink.os_errors import words_shortages
from asyncsink.paths import is_below, on_disk
from asyncsink.report.manifest import ManifestEnd, ManifestHeader, promise_of, read_manifest
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import Cause, all_of, are, count, grouped_failures, inert
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectReceived, RangesUnknown
from asyncsink.s3.operations import HeadObject, ListObjects, ObjectHead
from asyncsink.s3.retry import PREPARE_ATTEMPTS_MAX, RetryingTransport
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

_PROOFS = {"checksum": "checksum", "etag": "ETag", "read-back": "reading back"}
PIECE_BYTES = 8 * 1024 * 1024
PROBLEMS_KEPT = 1000
"""Most problems that are kept with their sentences; all are counted."""

BUCKETS_MAX = 1000
"""Buckets of one merged manifest, which is read once for each of them."""
SENTENCES_SHOWN = 10
"""Most sentences about manifests in the summary."""

Promise = Receipt | Skip


class Unproven(AsyncSinkError):
    """A promise of a manifest does not hold, or cannot be proven; the text completes "object X: …"."""


@dataclass(slots=True)
class VerifyReport(BaseReport):
    """The result of a verification.

    Attributes:
        manifest: path of the manifest, or how many there are.
        checked: number of records that were looked at.
        confirmed_by: how many were proven by "checksum", "etag" or "read-back".
        problems_total: how many were not proven.
        problems: (source, url, sentence), the first thousand of them.
        incomplete: "" or sentences, one a line: the manifest's own run did not end in order, or did not publish
            everything, or parts of a split have no receipts.
        notices: sentences for people about what is no failure.
        manifests: of several manifests, the path of each, with a sentence as in `incomplete` or "".
    """

    manifest: str
    checked: int = 0
    confirmed_by: Counter[str] = field(default_factory=Counter)
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

    events = Events(observe_server)
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


class Prover:
    """Proves the promises of a manifest against a bucket, or against local files."""

    def __init__(
        self,
        transport: RetryingTransport | None,
        secret: Secret | None,
        progress: Progress,
        *,
        read_back: bool,
        directory: str = "",
    ) -> None:
        """Without a `transport`, only files below `directory` are read."""
        self._transport = transport
        self._directory = directory
        self.progress = progress
        self._secret = secret
        self.reads_back = read_back
        self._ranges = True

    async def check_reachable(self) -> None:
        """Send one request, so that a wrong secret, bucket or endpoint is reported once, and not for every object.

        Raises:
            TransferError, CredentialsError: the bucket cannot be reached at all.
        """
        if self._transport is None:
            return
        try:
            with self._transport.fewer_attempts(PREPARE_ATTEMPTS_MAX):
                await self._transport.send(ListObjects(max_keys=1))
        except AccessDenied:
            # Objects may be readable where listing is denied.
            return

    async def prove(self, promise: Promise) -> str:
        """Prove a promise; returns how.

        Raises:
            AsyncSinkError: it was not proven; the sentence has the reason.
        """
        if self._transport is None:
            return await anyio.to_thread.run_sync(_prove_file, promise, self._directory)
        if not promise.key:
            raise Unproven("the manifest names no key for it")
        head = await self._transport.send(HeadObject(key=promise.key, sse_customer_key=self._secret))
        if head.size_bytes != promise.size_bytes:
            raise Unproven(f"it has {head.size_bytes:,} bytes; {promise.size_bytes:,} were published")
        if self.reads_back and promise.checksum is not None and not is_composite(promise.checksum.value):
            return await self._read(self._transport, promise, promise.checksum, head)
        return _prove_head(promise, head)

    def count(self, promise: Promise, *, proven: bool) -> None:
        """Count the result for `promise` in the progress."""
        progress, counts = self.progress, self.progress.counts
        size_bytes = promise.size_bytes if self.reads_back else 0
        if proven:
            counts.objects_uploaded += 1
            counts.bytes_uploaded += size_bytes
        else:
            counts.objects_failed += 1
            progress.bytes_failed += size_bytes
        if self._transport is None:
            progress.bytes_moved += size_bytes  # a local file is read at once

    async def _read(self, transport: Transport, promise: Promise, checksum: Checksum, head: ObjectHead) -> str:
        taker = _Digesting(checksum.algorithm, promise.size_bytes)
        try:
            if self._ranges:
                await self._read_ranges(transport, promise, head, taker.digester)
        except RangesUnknown:
            self._ranges = False
        if not self._ranges and promise.size_bytes:
            await transport.send(
                GetObjectTo(
                    key=promise.key,
                    offset=0,
                    length=promise.size_bytes,
                    taker=taker,
                    whole=True,
                    if_match=head.etag,
                    sse_customer_key=self._secret,
                )
            )
            self.progress.bytes_moved += promise.size_bytes
        found = taker.digester.result(checksum.algorithm)
        if found != checksum:
            raise Unproven(f"its bytes have the checksum {found}; {checksum} was published")
        return "read-back"

    async def _read_ranges(self, transport: Transport, promise: Promise, head: ObjectHead, digester: Digester) -> None:
        under_way = UnderWay(self.progress)
        try:
            for offset in range(0, promise.size_bytes, PIECE_BYTES):
                length = min(PIECE_BYTES, promise.size_bytes - offset)
                piece = await transport.send(
                    GetObject(
                        key=promise.key, offset=offset, length=length, if_match=head.etag, sse_customer_key=self._secret
                    )
                )
                if len(piece.data) != length:
                    raise Unproven(f"it ends after {offset + len(piece.data):,} bytes; expected {promise.size_bytes:,}")
                await anyio.to_thread.run_sync(digester.update, piece.data)
                under_way.moved(length)
        finally:
            under_way.take_back()


class _Digesting:
    """Computes the checksum of a whole object while it is received; a RangeTaker."""

    def __init__(self, algorithm: ChecksumAlgorithm, size_bytes: int) -> None:
        self.digester = Digester([algorithm])
        self._algorithm: ChecksumAlgorithm = algorithm
        self._size_bytes = size_bytes

    def take(self, position: int, piece: memoryview) -> None:
        """Add the next bytes to the checksum."""
        if not position:
            self.digester = Digester([self._algorithm])
        self.digester.update(piece)

    def end(self, answer: ObjectReceived) -> None:
        """Raise Unproven where it has another size."""
        if answer.length != self._size_bytes:
            raise Unproven(f"it ends after {answer.length:,} bytes; expected {self._size_bytes:,}")


def _prove_head(promise: Promise, head: ObjectHead) -> str:
    wanted = promise.checksum
    stored = head.checksums.get(wanted.algorithm) if wanted is not None else None
    # A checksum of part checksums cannot be compared with one of the whole object.
    if wanted is not None and stored is not None and is_composite(stored) == is_composite(wanted.value):
        if stored != wanted.value:
            raise Unproven(f"its checksum is {wanted.algorithm}:{stored}; {wanted} was published")
        return "checksum"
    if promise.etag and head.etag:
        if promise.etag != head.etag:
            raise Unproven(f"its ETag is {head.etag}; {promise.etag} was published")
        return "etag"
    raise Unproven("the server tells neither checksum nor ETag; verify with read_back (--read-back)")


def _prove_file(promise: Promise, directory: str) -> str:
    if promise.checksum is None or is_composite(promise.checksum.value):
        raise Unproven("its checksum is not in the manifest")
    if not is_below(os.path.normpath(promise.url), directory):
        # A manifest can name any file of this machine; only files below its destination can be its promises.
        raise Unproven(f"it lies outside of {directory}, where the manifest's run has written, so it is not read")
    digester = Digester([promise.checksum.algorithm])
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        with open(os.open(on_disk(promise.url), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unproven("it is no regular file")
            if found.st_size != promise.size_bytes:
                raise Unproven(f"it has {found.st_size:,} bytes; {promise.size_bytes:,} were published")
            while piece := file.read(PIECE_BYTES):
                digester.update(piece)
    except FileNotFoundError:
        raise Unproven("it is not there") from None
    except OSError as error:
        raise Unproven(f"it cannot be read ({error.strerror})") from None
    except ValueError:
        raise Unproven("its path is none that a file can have") from None
    checksum = digester.result(promise.checksum.algorithm)
    if checksum != promise.checksum:
        raise Unproven(f"its bytes have the checksum {checksum}; {promise.checksum} was published")
    return "read-back"


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
    send, receive = anyio.create_memory_object_stream[Promise](limits.queue_transfers)

    async def work() -> None:
        async for promise in receive:
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
            if problem:
                report.problem(promise, problem)
            report.checked += 1
            prover.count(promise, proven=not problem)
            if observe is not None:
                observe(report.checked)

    prover.progress.started = True
    with send, receive:
        async with anyio.create_task_group() as group:
            for _ in range(limits.concurrency_start):
                group.start_soon(work)
            async for batch in batches(check.promises(), limiter=resources.threads):
                for promise in batch:
                    if promise is not None:
                        await send.send(promise)
            send.close()


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
    async with resources.open_bucket(target) as stack:
        _check_endpoint(header, stack.endpoint_url, resources.events.notice)
        secret = resources.settings.objects.sse_customer_key
        yield Prover(stack.transport, secret, progress, read_back=read_back)
