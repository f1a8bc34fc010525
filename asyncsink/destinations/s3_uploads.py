"""The multipart uploads of one run: begun, resumed and ended, each step written down before or after it is taken.

Whatever happens between two lines here, the journal knows enough for the next run to go on, or to clean up (wall 7).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import anyio

from asyncsink.config import RetryPolicy, Secret
from asyncsink.destinations.base import UploadLog
from asyncsink.errors import AccessDenied, PermanentError, Stalled, UploadMissing
from asyncsink.model import (
    ChecksumAlgorithm,
    ConfirmedBy,
    OpenUpload,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadStep,
)
from asyncsink.s3.multipart import MultipartUpload, create_upload
from asyncsink.s3.operations import CompletedPart, ObjectAttributes, ObjectHead
from asyncsink.s3.own_writes import OwnWrites
from asyncsink.s3.part_plan import PartPlan
from asyncsink.s3.resuming import can_go_on, empty_uploads_between, end_upload, find_own_object, parts_to_keep
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

KEPT_MAX = 128
"""Uploads left open whose parts are remembered; this run begins others anew, and a later one goes on with all."""


@dataclass(frozen=True, slots=True)
class AlreadyComplete:
    """An upload of an earlier run, which was complete when that run was killed; and the object that it became."""

    upload: MultipartUpload
    head: ObjectHead


@dataclass(frozen=True, slots=True)
class _Unheard:
    """When requests to begin an upload, whose answers were lost, were on their way: by our clock, since the epoch."""

    begun_seconds: float
    ended_seconds: float


class S3Uploads:
    """Begins and ends uploads; the caller sees to it that there is one at a time for each key.

    Args:
        transport, retry, own: of the run.
        log: remembers every step, or None.
        abort_on_interrupt: also what a log remembers is aborted where it cannot be completed now.
        notice: told of what may stay open.
    """

    def __init__(
        self,
        transport: Transport,
        retry: RetryPolicy,
        own: OwnWrites,
        log: UploadLog | None,
        notice: Callable[[str], None],
        *,
        abort_on_interrupt: bool = False,
    ) -> None:
        self._transport = transport
        self._retry = retry
        self._own = own
        self._log = log
        self._notice = notice
        self._keeps = log is not None and not abort_on_interrupt
        self._kept: dict[str, tuple[SourceFile, MultipartUpload]] = {}
        self._left_open: dict[str, str] = {}
        self._unheard: dict[str, _Unheard] = {}

    async def step(self, step: UploadStep) -> None:
        """Write one step down, where anybody remembers.

        Raises:
            JournalError: it cannot be written; the run stops.
        """
        if self._log is not None:
            await self._log.step(step)

    async def begin(
        self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None, attributes: ObjectAttributes
    ) -> MultipartUpload | AlreadyComplete:
        """A new upload, or the one that an earlier run left, with those of its parts that count.

        Raises:
            TransferError, JournalError: there is none.
        """
        key = transfer.key
        if key in self._kept:
            source, upload = self._kept.pop(key)
            if source == transfer.source and upload.goes_on(plan, algorithm):
                return upload
            await self.abort(upload)
        if key in self._left_open:
            await self._end(key, self._left_open[key])
            del self._left_open[key]
        if key in self._unheard:
            await self._end_unheard(key, self._unheard[key])
            del self._unheard[key]
        if transfer.known is not None and transfer.known.upload is not None:
            found = await self._resume(key, transfer.known.upload, plan, algorithm, attributes)
            if found is not None:
                return found
        return await self._create(transfer, plan, algorithm, attributes)

    def leave(self, transfer: Transfer, upload: MultipartUpload) -> bool:
        """Leave an upload open for a later run, or for this one where the same file comes once more. False where no
        journal has it, or that is not wanted: then it is to be aborted."""
        if not self._keeps:
            return False
        self._kept[upload.key] = transfer.source, upload
        if len(self._kept) > KEPT_MAX:
            key = next(iter(self._kept))
            self._left_open[key] = self._kept.pop(key)[1].upload_id
        return True

    async def abort(self, upload: MultipartUpload) -> None:
        """Abort; what may have stayed open becomes a notice, and stays in the journal. Shielded, bounded in time."""
        with anyio.CancelScope(shield=True):
            if problem := await upload.abort():
                self._left_open[upload.key] = upload.upload_id
                self._notice(problem)
            else:
                await self.step(UploadGone(upload.key))

    async def discard(self, key: str, upload: OpenUpload, secret: Secret | None) -> None:
        """As `Resuming.discard`.

        Raises:
            TransferError: it may still be open.
        """
        if await find_own_object(self._transport, key, upload, sse_customer_key=secret) is not None:
            # On some servers an abort would take the parts away from the object.
            await self.step(UploadGone(key))
            return
        if upload.upload_id:
            await self._end(key, upload.upload_id)
        elif not await self._end_unheard(key, self._killed_in(upload)):
            return  # it stays in the journal, so that a run which may look ends it
        await self.step(UploadGone(key))

    async def _create(
        self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None, attributes: ObjectAttributes
    ) -> MultipartUpload:
        key, token, begun_seconds = transfer.key, self._own.token(transfer.key), time.time()
        await self.step(UploadCreating(key, transfer.source, plan.part_size_bytes, algorithm, token))
        try:
            upload = await create_upload(
                self._transport,
                key=key,
                plan=plan,
                algorithm=algorithm,
                attributes=attributes,
                retry=self._retry,
                write_token=token,
                own=self._own,
            )
        except PermanentError:
            await self.step(UploadGone(key))
            raise
        except BaseException:
            # The server did not refuse: there may be an upload that nobody heard of. A journal has that already.
            if self._log is None:
                self._unheard[key] = _Unheard(begun_seconds, time.time())
            raise
        try:
            await self.step(UploadOpened(key, upload.upload_id))
            if upload.attempts > 1:
                # An attempt whose answer was lost may have begun an upload too.
                await self._end_unheard(key, _Unheard(begun_seconds, time.time()), except_for=upload.upload_id)
        except BaseException:
            await self.abort(upload)
            raise
        return upload

    def _killed_in(self, upload: OpenUpload) -> _Unheard:
        """When a run that was killed before it heard the id may have begun `upload`."""
        retry = self._retry
        attempt = retry.connect_seconds + 2 * retry.stall_seconds
        pause = max(retry.backoff_seconds_max, retry.retry_after_seconds_max)
        longest = retry.attempts * (attempt + pause) + retry.throttled_seconds
        return _Unheard(upload.begun_seconds, upload.begun_seconds + longest)

    async def _end_unheard(self, key: str, unheard: _Unheard, except_for: str = "") -> bool:
        """Abort what requests whose answers were lost may have begun. Uploads with parts are somebody's, and so are
        those of another time: they are left alone. False, and a notice, where the server refuses to list them.

        Raises:
            RetryableError: nobody can say now.
        """
        try:
            found = await empty_uploads_between(
                self._transport, key, unheard.begun_seconds, unheard.ended_seconds, now_seconds=time.time()
            )
        except PermanentError as denied:
            self._notice(
                f"An upload of {key!r} whose begin was not answered may stay open, because it could not be looked for "
                f"({denied}); a lifecycle rule for incomplete uploads, or `asyncsink abort-uploads`, removes it."
            )
            return False
        for upload_id in found:
            if upload_id != except_for and await self._end(key, upload_id):
                self._notice(
                    f"The multipart upload {upload_id} of {key!r} was aborted: it had no part, and was begun while a "
                    "request of asyncsink to begin one went unanswered."
                )
        return True

    async def _resume(
        self,
        key: str,
        known: OpenUpload,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,
        attributes: ObjectAttributes,
    ) -> MultipartUpload | AlreadyComplete | None:
        secret = attributes.sse_customer_key
        if can_go_on(known, plan, algorithm):
            upload = MultipartUpload(
                self._transport,
                key=key,
                upload_id=known.upload_id,
                plan=plan,
                algorithm=algorithm,
                attributes=attributes,
                retry=self._retry,
                write_token=known.token,
                own=self._own,
            )
            try:
                found = await parts_to_keep(
                    self._transport, key, known, plan, etag_is_md5=upload.etag_is_md5, sse_customer_key=secret
                )
            except UploadMissing:
                head = await find_own_object(self._transport, key, known, sse_customer_key=secret)
                if head is not None:
                    _take_over(upload, {part.part_number: (part, "nothing") for part in known.parts})
                    return AlreadyComplete(upload, head)
                await self.step(UploadGone(key))
                return None
            except AccessDenied:
                found = None  # these credentials may not look: nothing of the upload can be trusted
            if found is not None:
                _take_over(upload, found.kept)
                upload.offer(found.unproven)
                return upload
        await self.discard(key, known, secret)
        return None

    async def _end(self, key: str, upload_id: str) -> bool:
        """False, and a notice, where these credentials may not."""
        try:
            problem = await end_upload(self._transport, key, upload_id, seconds=self._retry.abort_seconds)
        except TimeoutError as error:
            raise Stalled(
                f"The multipart upload {upload_id} of {key!r}, which was left open, could not be aborted within "
                f"{self._retry.abort_seconds:g} s; export the file again."
            ) from error
        if problem:
            self._notice(problem)
        return not problem


def _take_over(upload: MultipartUpload, kept: Mapping[int, tuple[StoredPart, ConfirmedBy]]) -> None:
    for part, proof in kept.values():
        upload.take_over(CompletedPart(part_number=part.part_number, etag=part.etag, checksum=part.checksum), proof)
