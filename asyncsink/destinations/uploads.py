"""The multipart uploads of one run: begun, resumed and ended; each step is recorded before or after it is taken.

After a kill between any two lines, the journal suffices for the next run to resume or to clean up (wall 7).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractAsyncContextManager

import anyio

from asyncsink.destinations.base import PartWriter, Stored, UploadLog
from asyncsink.errors import AccessDenied, PermanentError, RetryableError, Stalled, UploadMissing
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import (
    Checksum,
    ConfirmedBy,
    PendingUpload,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadPartStored,
    UploadStep,
)
from asyncsink.options.settings import ChecksumAlgorithm, RetryPolicy, Secret
from asyncsink.s3.multipart.parts import Part, PartPlan
from asyncsink.s3.multipart.resume import can_go_on, empty_uploads_between, end_upload, find_own_object, parts_to_keep
from asyncsink.s3.multipart.upload import MultipartUpload, create_upload
from asyncsink.s3.multipart.write_tokens import WriteTokens, fresh_token
from asyncsink.s3.operations import (
    CompletedPart,
    CreateMultipartUpload,
    ObjectAttributes,
    ObjectHead,
    ObjectStored,
    PartSource,
)
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

KEPT_MAX = 128
"""Open uploads whose parts this run remembers; it begins others anew, and a later run resumes all."""


@dataclass(frozen=True, slots=True)
class AlreadyComplete:
    """An upload of an earlier run that was complete when that run was killed, and its object."""

    upload: MultipartUpload
    head: ObjectHead


@dataclass(frozen=True, slots=True)
class _Unheard:
    """The time in which unanswered requests to begin an upload were under way: local clock, seconds since the epoch."""

    begun_seconds: float
    ended_seconds: float


class S3Uploads:
    """Begins and ends uploads; the caller permits only one at a time for each key.

    Args:
        transport, retry: of the run.
        own: the writes that must not replace anything.
        log: records every step, or None.
        abort_on_interrupt: also abort recorded uploads that cannot be completed now.
        notice: called with a sentence about uploads that may stay open.
    """

    def __init__(
        self,
        transport: Transport,
        retry: RetryPolicy,
        own: WriteTokens,
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
        self._aborts = abort_on_interrupt
        self._kept: dict[str, tuple[SourceFile, MultipartUpload]] = {}
        self._left_open: dict[str, str] = {}
        self._unheard: dict[str, _Unheard] = {}

    @property
    def _recorded(self) -> bool:
        return self._log is not None and self._log.lasting

    async def step(self, step: UploadStep) -> None:
        """Record one step, where there is a log.

        Raises:
            JournalError: the step cannot be recorded; the run stops.
        """
        if self._log is not None:
            await self._log.step(step)

    async def begin(
        self,
        transfer: Transfer,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,
        attributes: ObjectAttributes,
        *,
        only_new: bool,
    ) -> MultipartUpload | AlreadyComplete:
        """A new upload, or that of an earlier run, with those of its parts that are valid. With `only_new` it must not
        replace anything.

        Raises:
            TransferError, JournalError: no upload could be begun.
        """
        key, own = transfer.key, self._own if only_new else None
        if key in self._kept:
            source, upload = self._kept.pop(key)
            if source == transfer.source and upload.goes_on(plan, algorithm, attributes, own):
                return upload
            await self.abort(upload)
        if key in self._left_open:
            await self._end(key, self._left_open[key])
            del self._left_open[key]
        if key in self._unheard:
            await self._end_unheard(key, self._unheard[key])
            del self._unheard[key]
        if transfer.known is not None and transfer.known.upload is not None:
            found = await self._resume(key, transfer.known.upload, plan, algorithm, attributes, own=own)
            if found is not None:
                return found
        return await self._create(transfer, plan, algorithm, attributes, own=own)

    def leave(self, transfer: Transfer, upload: MultipartUpload) -> bool:
        """Leave an upload open for a later run, or for this one if the same file is submitted again. False where no
        journal has it, or abort_on_interrupt is set: then the caller aborts it."""
        if self._aborts or not self._recorded:
            return False
        self._kept[upload.key] = transfer.source, upload
        if len(self._kept) > KEPT_MAX:
            key = next(iter(self._kept))
            self._left_open[key] = self._kept.pop(key)[1].upload_id
        return True

    async def abort(self, upload: MultipartUpload) -> None:
        """Abort; an upload that may stay open becomes a notice, and stays recorded. Shielded, bounded in time."""
        with anyio.CancelScope(shield=True):
            if problem := await upload.abort():
                self._left_open[upload.key] = upload.upload_id
                self._notice(problem)
            else:
                await self.step(UploadGone(upload.key))

    async def discard(self, key: str, upload: PendingUpload, secret: Secret | None) -> None:
        """As `Destination.discard`.

        Raises:
            TransferError: the upload may still be open.
        """
        if await find_own_object(self._transport, key, upload, sse_customer_key=secret) is not None:
            # On some servers an abort would remove the parts from the object.
            await self.step(UploadGone(key))
            return
        if upload.upload_id:
            await self._end(key, upload.upload_id)
        elif not await self._end_unheard(key, self._killed_in(upload)):
            return  # it stays in the journal, for a run with the right to look
        await self.step(UploadGone(key))

    async def _create(
        self,
        transfer: Transfer,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,
        attributes: ObjectAttributes,
        *,
        own: WriteTokens | None,
    ) -> MultipartUpload:
        key, begun_seconds = transfer.key, time.time()
        token = fresh_token() if own is None else own.token(key)
        creating = UploadCreating(key, transfer.source, plan.part_size_bytes, algorithm, token, transfer.objects)
        await self.step(creating)
        try:
            begun = CreateMultipartUpload(key=key, algorithm=algorithm, attributes=attributes, write_token=token)
            upload = await create_upload(self._transport, begun, plan=plan, retry=self._retry, own=own)
        except PermanentError:
            await self.step(UploadGone(key))
            raise
        except BaseException as error:
            # Without a refusal, an upload may exist whose id was never received. A journal has that already.
            unheard = _Unheard(begun_seconds, time.time())
            if not self._recorded:
                self._unheard[key] = unheard
            if isinstance(error, Exception) and not transfer.source.is_file:
                await self._end_lost(key, unheard)
            raise
        try:
            await self.step(UploadOpened(key, upload.upload_id))
            if upload.attempts > 1:
                # An attempt without an answer may have begun an upload too.
                await self._end_unheard(key, _Unheard(begun_seconds, time.time()), except_for=upload.upload_id)
        except BaseException:
            await self.abort(upload)
            raise
        return upload

    async def _end_lost(self, key: str, unheard: _Unheard) -> None:
        """End at once what a request without an answer may have begun, because its content does not come again; what
        cannot be ended now is told. Shielded from cancellation, bounded in time."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(self._retry.abort_seconds):
            try:
                if await self._end_unheard(key, unheard):
                    self._unheard.pop(key, None)
                    await self.step(UploadGone(key))
                return
            except RetryableError:
                pass  # told below
        self._notice(
            f"An upload of {key!r} whose begin was not answered may stay open, because the server did not list it; a "
            "lifecycle rule for incomplete uploads, or `asyncsink abort-uploads`, removes it."
        )

    def _killed_in(self, upload: PendingUpload) -> _Unheard:
        """The time in which a run that was killed before it received the id may have begun `upload`."""
        retry = self._retry
        attempt = retry.connect_seconds + 2 * retry.stall_seconds
        pause = max(retry.backoff_seconds_max, retry.retry_after_seconds_max)
        longest = retry.attempts * (attempt + pause) + retry.throttled_seconds
        return _Unheard(upload.begun_seconds, upload.begun_seconds + longest)

    async def _end_unheard(self, key: str, unheard: _Unheard, except_for: str = "") -> bool:
        """Abort uploads that unanswered requests may have begun. Uploads with parts, and those of another time, may
        belong to others and stay. False, and a notice, where the server refuses to list them.

        Raises:
            RetryableError: the uploads cannot be listed now.
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
        known: PendingUpload,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,
        attributes: ObjectAttributes,
        *,
        own: WriteTokens | None,
    ) -> MultipartUpload | AlreadyComplete | None:
        secret = attributes.sse_customer_key
        if can_go_on(known, plan, algorithm):
            begun = CreateMultipartUpload(key=key, algorithm=algorithm, attributes=attributes, write_token=known.token)
            upload = MultipartUpload(self._transport, begun, known.upload_id, plan=plan, retry=self._retry, own=own)
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
                found = None  # without the right to look, no part of the upload can be trusted
            if found is not None:
                _take_over(upload, found.kept)
                upload.offer(found.unproven)
                return upload
        await self.discard(key, known, secret)
        return None

    async def _end(self, key: str, upload_id: str) -> bool:
        """False, and a notice, where the credentials do not allow it."""
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


# -- Writers of one S3 object in parts: from the caller's buffers, or read and sent in lane threads --------------------
# Each answer of the server is recorded at once, so that the next run resumes from there.

Word = Callable[[ObjectStored, ConfirmedBy, Checksum | None], Stored]
WhileWriting = Callable[[], AbstractAsyncContextManager[None]]
"""Surrounds the write of an object; see `Spellings.writing`."""


class S3PartWriter(PartWriter):
    """One multipart upload.

    Args:
        uploads: of the run, which began `upload`.
        upload: new, or with the parts of an earlier run.
        word: makes the destination's proof from S3's answer.
        writing: surrounds the completion.
        threads: most lane threads over all uploads; 0 where the transport has none.
    """

    def __init__(
        self, uploads: S3Uploads, upload: MultipartUpload, word: Word, writing: WhileWriting, threads: int
    ) -> None:
        self._uploads = uploads
        self._upload = upload
        self._word = word
        self._writing = writing
        self._threads = threads

    @property
    def threads(self) -> int:
        """How many parts are sent at once, at most."""
        return self._threads

    @property
    def stored(self) -> Mapping[int, Checksum | None]:
        """The parts that the server has, and their checksums."""
        return {number: part.checksum for number, part in self._upload.parts.items()}

    @property
    def unproven(self) -> Set[int]:
        """Parts that the server has and the journal lacks."""
        return self._upload.unproven

    @property
    def bytes_resumed(self) -> int:
        """Bytes of parts that an earlier run sent."""
        return self._upload.bytes_taken_over

    @property
    def bytes_stored(self) -> int:
        """Bytes of the parts that the server has."""
        return self._upload.bytes_stored

    def leave(self, transfer: Transfer) -> bool:
        """As `S3Uploads.leave`."""
        return self._uploads.leave(transfer, self._upload)

    async def write_part(
        self,
        part_number: int,
        offset: int,  # noqa: ARG002 - S3 orders parts by their numbers alone
        body: ByteBody,
        checksum: Checksum | None,
    ) -> None:
        """UploadPart, with its answer compared; a part that the server has already is not sent."""
        await self._upload.write_part(part_number, body, checksum)
        await self._remember(part_number)

    async def send_part(
        self, part: Part, source: PartSource, local: Callable[[memoryview], None] | None
    ) -> Checksum | None:
        """UploadPart in one call to a thread, with its answer compared."""
        sent = await self._upload.send_part(part, source, local)
        await self._remember(part.part_number)
        return sent

    async def complete(self, checksum: Checksum | None) -> Stored:
        """CompleteMultipartUpload, with its answer compared."""
        async with self._writing():
            await self._uploads.step(UploadCompleting(self._upload.key))
            stored, confirmed = await self._upload.complete(checksum)
            return self._word(stored, confirmed, checksum)

    async def abort(self) -> None:
        """AbortMultipartUpload; an upload that may have stayed open becomes a notice, and stays in the journal."""
        await self._uploads.abort(self._upload)

    async def _remember(self, part_number: int) -> None:
        part = self._upload.parts[part_number]
        await self._uploads.step(UploadPartStored(self._upload.key, StoredPart(part_number, part.etag, part.checksum)))


class S3CompleteObject(PartWriter):
    """An object that is there: an earlier run was killed before it had the answer. Nothing is sent."""

    def __init__(self, found: AlreadyComplete, word: Word) -> None:
        """Take over `found` of S3Uploads; `word` as above."""
        self._found = found
        self._word = word

    @property
    def stored(self) -> Mapping[int, Checksum | None]:
        """All parts."""
        return {number: part.checksum for number, part in self._found.upload.parts.items()}

    @property
    def bytes_resumed(self) -> int:
        """Bytes of all parts, sent by an earlier run."""
        return self._found.upload.bytes_taken_over

    @property
    def bytes_stored(self) -> int:
        """Bytes of all parts."""
        return self._found.upload.bytes_stored

    def leave(self, transfer: Transfer) -> bool:  # noqa: ARG002 - it needs no reminder
        """True: no upload is open, and the journal has the state "completing"."""
        return True

    async def write_part(self, part_number: int, offset: int, body: ByteBody, checksum: Checksum | None) -> None:
        """Do nothing: the part is there."""

    async def complete(self, checksum: Checksum | None) -> Stored:
        """The proof that the object has the bytes that were sent.

        Raises:
            IntegrityError: it has others.
        """
        stored, confirmed = self._found.upload.prove(self._found.head, checksum)
        return self._word(stored, confirmed, checksum)

    async def abort(self) -> None:
        """Do nothing: no upload is open; an object with other bytes stays until it is replaced."""
