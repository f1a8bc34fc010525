"""Objects become files: compared with existing files, received whole or in ranges, proven, and put in place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import field, replace
from functools import partial
from typing import Literal

import anyio.to_thread

from asyncsink.download.placement import Body, FileWriter, FileWriterBatcher, StagingDirectory, pieces_of
from asyncsink.download.plan import DownloadItem, existing_by_answer, existing_by_listing, look_closer
from asyncsink.download.range_download import Served, fetch_in_ranges
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.destination_state import CHEAP_MD5_BYTES_MAX
from asyncsink.engine.transfer.outcomes import failure_of
from asyncsink.errors import AsyncSinkError, ConfigError, IntegrityError, PreconditionFailed
from asyncsink.integrity.sameness import (
    CompareWith,
    Existing,
    LookCloser,
    Proof,
    SamenessDigester,
    SkipIt,
    Upload,
    conclude,
    decide,
)
from asyncsink.model import ConfirmedBy, Failure, FailureStage, FirstAttempt, Outcome, Receipt, Skip
from asyncsink.options.settings import Secret
from asyncsink.s3.get_object import GetObject, GetObjects, GetResult, ObjectData, ObjectToGet
from asyncsink.s3.operations import ListedObject
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadContext:
    """The context that all workers of one grab share.

    Attributes:
        resources: of the grab. Its budget bounds the bytes that are received and not yet written, over all workers.
        secret: the customer's own key of the objects (SSE-C), or None.
        threads_receive: whether the lane's own threads receive ranges, and the lane takes `GetObjects`; else objects
            are received into memory, within the budget.
        served: what the server's answers have shown.
    """

    resources: Resources
    transport: Transport
    bucket: str
    secret: Secret | None
    staging: StagingDirectory
    file_writer: FileWriter
    batcher: FileWriterBatcher
    threads_receive: bool
    served: Served = field(default_factory=Served)

    @property
    def range_bytes(self) -> int:
        """Objects larger than this are received in ranges of this size."""
        return self.resources.limits.part_size_bytes

    def url(self, key: str) -> str:
        """The object's URL."""
        return f"s3://{self.bucket}/{key}"

    async def grab(self, batch: Sequence[DownloadItem]) -> list[Outcome]:
        """Grab small objects, received together where the lane can and written together, or one large object; returns
        the outcomes.

        Cancelled, it waits for the thread at work; each file is then either whole, or as it was before. A large object
        leaves a partial file that a later run continues.
        """
        started = self.resources.clock()
        outcomes: list[Outcome] = []
        missing: list[DownloadItem] = []
        for wanted, there in zip(batch, await self._sizes_here(batch), strict=True):
            try:
                skip = await self._compared(wanted, there)
            except AsyncSinkError as error:
                outcomes.append(self._failure(wanted, error))
            else:
                outcomes += [skip] if skip is not None else []
                missing += [] if skip is not None else [wanted]
        if len(missing) == 1 and missing[0].listed.size_bytes > self.range_bytes:
            outcomes.append(await self._grab_large(missing[0], started))
        elif missing:
            outcomes += await self._grab_small(missing, started)
        return outcomes

    async def _sizes_here(self, batch: Sequence[DownloadItem]) -> Sequence[int | AsyncSinkError | None]:
        if self.staging.fresh:
            return [None] * len(batch)

        def look() -> list[int | AsyncSinkError | None]:
            found: list[int | AsyncSinkError | None] = []
            for wanted in batch:
                try:
                    found.append(self.file_writer.size(wanted.relative))
                except AsyncSinkError as error:
                    found.append(error)
            return found

        return await anyio.to_thread.run_sync(look, limiter=self.resources.threads)

    async def _compared(self, wanted: DownloadItem, there: int | AsyncSinkError | None) -> Skip | None:
        """A Skip where the existing file has the object's content, else None."""
        if isinstance(there, AsyncSinkError):
            raise there
        listed, url = wanted.listed, self.url(wanted.listed.key)
        existing = wanted.described(existing_by_listing(listed, self.secret), url)
        if there != listed.size_bytes:
            return None
        path = self.file_writer.path(wanted.relative)
        for closely in (False, True):
            if closely:
                existing = wanted.described(await look_closer(self.transport, listed.key, self.secret), url)
            decision = decide(
                existing,
                policy="checksum",
                size_bytes=there,
                mtime_ns=0,
                wanted=None,
                cheap_md5_bytes_max=CHEAP_MD5_BYTES_MAX,
                part_sizes=(self.range_bytes,),
            )
            if isinstance(decision, CompareWith):
                compare = partial(_compare, self.file_writer, wanted.relative, decision, existing)
                decision = await anyio.to_thread.run_sync(compare, limiter=self.resources.threads)
            if isinstance(decision, SkipIt):
                proof: ConfirmedBy | Literal[""] = "receipt" if existing.described_by == "receipt" else ""
                return Skip(url, listed.key, path, there, decision.reason, etag=existing.etag, confirmed_by=proof)
            if not isinstance(decision, LookCloser):
                return None
        return None

    async def _grab_small(self, batch: Sequence[DownloadItem], started: float) -> list[Outcome]:
        again: list[tuple[DownloadItem, str]] = []
        outcomes = await self._received_and_landed(batch, started, again)
        # One at a time: each may have grown to a whole range meanwhile, and together they could exceed the budget.
        for wanted, received_before in again:
            if wanted.listed.size_bytes > self.range_bytes:
                outcomes.append(await self._grab_large(wanted, started))
            else:
                outcomes += await self._received_and_landed([wanted], started, None, received_before)
        return outcomes

    async def _received_and_landed(
        self,
        batch: Sequence[DownloadItem],
        started: float,
        again: list[tuple[DownloadItem, str]] | None,
        received_before: str = "",
    ) -> list[Outcome]:
        """Receive a batch into memory, and put it in place.

        Args:
            batch: of small objects.
            started: when the work on it began.
            again: is given objects for a second attempt, as they are now, with the checksum of what was received; None
                where this is the second.
            received_before: that checksum, in the second attempt.
        """
        outcomes: list[Outcome] = []
        async with self.resources.budget.reserve(sum(wanted.listed.size_bytes for wanted in batch)):
            received: list[tuple[DownloadItem, Body, _Answered]] = []
            for wanted, result in zip(batch, await self._receive_together(batch), strict=True):
                try:
                    body, answered = await self._receive(wanted, result, batch[0].listed.key)
                    body.received_before = received_before
                    received.append((wanted, body, answered))
                except AsyncSinkError as error:
                    outcomes += await self._replaced(wanted, error, again)
            landed = await self.batcher.land([body for _, body, _ in received]) if received else []
        for (wanted, _, answered), proof in zip(received, landed, strict=True):
            if isinstance(proof, IntegrityError) and again is not None:
                again.append((wanted, proof.actual))
            elif isinstance(proof, AsyncSinkError):
                outcomes.append(self._failure(wanted, proof))
            else:
                outcomes.append(self._receipt(wanted, answered, proof, started))
                self.resources.progress.bytes_moved += wanted.listed.size_bytes
        return outcomes

    async def _receive_together(self, batch: Sequence[DownloadItem]) -> Sequence[GetResult]:
        results: list[GetResult] = [None] * len(batch)
        if self.threads_receive and len(batch) > 1:
            listed = [wanted.listed for wanted in batch]
            objects = [ObjectToGet(each.key, each.size_bytes, each.etag) for each in listed]
            # Where nothing was begun, each object is tried by itself, and may fail there.
            with contextlib.suppress(AsyncSinkError):
                await self.transport.send(GetObjects(objects=objects, results=results, sse_customer_key=self.secret))
        return results

    async def _receive(self, wanted: DownloadItem, result: GetResult, batch: str) -> tuple[Body, _Answered]:
        """The object; `result` is its result in a request for many, the `batch`, if there was one."""
        listed, answer = wanted.listed, result
        if not isinstance(answer, ObjectData):
            answer = await self.transport.send(
                GetObject(
                    key=listed.key,
                    length=listed.size_bytes,
                    whole=True,
                    if_match=listed.etag,
                    sse_customer_key=self.secret,
                    first=FirstAttempt(answer, batch) if answer is not None else None,
                )
            )
        url = self.url(listed.key)
        existing = wanted.described(existing_by_answer(answer, listed), url)
        body = Body(wanted.relative, answer.data, existing, url)
        return body, _Answered(answer.etag or listed.etag, answer.version_id, answer.attempts)

    async def _replaced(
        self, wanted: DownloadItem, error: AsyncSinkError, again: list[tuple[DownloadItem, str]] | None
    ) -> list[Outcome]:
        """The failure of an object that was not received. A replaced one has none at the first attempt: `again` is
        given the key's present object."""
        try:
            if again is None or not isinstance(error, PreconditionFailed):
                raise error
            again.append((await self._as_it_is_now(wanted), ""))
        except AsyncSinkError as failed:
            return [self._failure(wanted, failed)]
        return []

    async def _as_it_is_now(self, wanted: DownloadItem) -> DownloadItem:
        now = await look_closer(self.transport, wanted.listed.key, self.secret)
        modified = now.modified or wanted.listed.last_modified
        return replace(wanted, listed=ListedObject(wanted.listed.key, now.size_bytes, now.etag, modified))

    async def _grab_large(self, wanted: DownloadItem, started: float) -> Outcome:
        received_before = ""
        for attempt in (1, 2):
            try:
                fetched = await fetch_in_ranges(self, wanted, received_before=received_before)
            except (IntegrityError, PreconditionFailed) as error:
                if attempt > 1:
                    return self._failure(wanted, error)
                received_before = error.actual if isinstance(error, IntegrityError) else ""
            except AsyncSinkError as error:
                return self._failure(wanted, error)
            else:
                answered = _Answered(fetched.existing.etag, fetched.version_id, fetched.attempts)
                return self._receipt(wanted, answered, fetched.proof, started, fetched.existing.size_bytes)
        raise AssertionError("the second attempt returns")

    def _receipt(
        self, wanted: DownloadItem, answered: _Answered, proof: Proof, started: float, size_bytes: int | None = None
    ) -> Receipt:
        checksum, confirmed_by = proof
        return Receipt(
            source=self.url(wanted.listed.key),
            key=wanted.listed.key,
            url=self.file_writer.path(wanted.relative),
            size_bytes=wanted.listed.size_bytes if size_bytes is None else size_bytes,
            checksum=checksum,
            etag=answered.etag,
            version_id=answered.version_id,
            attempts=answered.attempts,
            seconds=self.resources.clock() - started,
            local_copy="",
            confirmed_by=confirmed_by,
        )

    def _failure(self, wanted: DownloadItem, error: AsyncSinkError) -> Failure:
        return download_failure(self.bucket, wanted.listed.key, self.file_writer.path(wanted.relative), error)


def download_failure(bucket: str, key: str, path: str, error: AsyncSinkError) -> Failure:
    """The Failure of an object that cannot be grabbed."""
    stage: FailureStage = "routing" if isinstance(error, ConfigError) else "download"
    return failure_of(f"s3://{bucket}/{key}", key, path, error, stage=stage)


@dataclass(frozen=True, slots=True)
class _Answered:
    """The values of an answer that the receipt needs."""

    etag: str
    version_id: str
    attempts: int


def _compare(
    file_writer: FileWriter, relative: str, compare: CompareWith, existing: Existing
) -> Upload | SkipIt | LookCloser:
    digester = SamenessDigester(compare)
    try:
        descriptor = file_writer.open_file(relative)
        try:
            for piece in pieces_of(descriptor):
                digester.update(piece)
        finally:
            os.close(descriptor)
    except OSError:
        return Upload("cannot be read")  # it is replaced, or its failure is reported
    return conclude(compare, existing, digester.digests())
