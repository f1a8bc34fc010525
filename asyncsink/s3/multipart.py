"""One multipart upload, from CreateMultipartUpload to its one end: complete, or abort.

The steps:
 1. create, shielded: an upload id that nobody heard of could never be aborted;
 2. parts, in any order and several at once; each answer is compared with what was sent;
 3. complete, with MpuObjectSize and, for the CRC family, the checksum of the whole object; where the answer is lost
    or the server says NoSuchUpload, look whether the object is there before deciding;
 4. or abort, shielded and bounded in time.

Source: S3 API Reference, the pages of the operations; S3 User Guide, "Uploading and copying objects using multipart
upload".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
import anyio.lowlevel

from asyncsink.config import RetryPolicy
from asyncsink.errors import AccessDenied, AsyncSinkError, IntegrityError, ObjectMissing, RetryableError, UploadMissing
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, etag_md5, multipart_etag
from asyncsink.integrity.sameness import confirm
from asyncsink.model import Checksum, ChecksumAlgorithm, ConfirmedBy
from asyncsink.s3.confirming import confirm_body, confirm_body_now
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    ByteBody,
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    HeadObject,
    ListParts,
    ObjectAttributes,
    ObjectStored,
    PartSource,
    UploadPart,
    UploadPartFrom,
)
from asyncsink.s3.part_plan import Part, PartPlan
from asyncsink.s3.transport import Transport

ABORTS_MAX = 3
"""A part that was in flight may land after an abort (S3 API, AbortMultipartUpload): look, and abort again."""


class MultipartUpload:
    """An upload that the server knows. Made by `create_upload`; parts may be written concurrently."""

    def __init__(
        self,
        transport: Transport,
        *,
        key: str,
        upload_id: str,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,
        attributes: ObjectAttributes,
        write_token: str,
        retry: RetryPolicy,
    ) -> None:
        self.key = key
        self.upload_id = upload_id
        self.write_token = write_token
        self._transport = transport
        self._plan = plan
        self._algorithm = algorithm
        self._attributes = attributes
        self._retry = retry
        self._etag_is_md5 = attributes.sse in ("", "AES256") and attributes.sse_customer_key is None
        self._parts: dict[int, CompletedPart] = {}
        self._confirmed: set[ConfirmedBy] = set()
        self._attempts = 1

    def __repr__(self) -> str:
        return f"<MultipartUpload of {self.key!r}: {len(self._parts)} of {self._plan.count} parts>"

    @property
    def etag_is_md5(self) -> bool:
        """Whether a part's ETag is its MD5 (no SSE-KMS, no SSE-C)."""
        return self._etag_is_md5

    @property
    def parts(self) -> Mapping[int, CompletedPart]:
        """The parts that the server confirmed, by number."""
        return self._parts

    def take_over(self, part: CompletedPart, confirmed: ConfirmedBy) -> None:
        """Count a part that an earlier run sent, and that the server still has; `confirmed` is what proves it now."""
        self._parts[part.part_number] = part
        self._confirmed.add(confirmed)

    async def write_part(self, part_number: int, body: ByteBody, checksum: Checksum | None) -> None:
        """Send one part and compare the answer.

        Raises:
            TransferError, IntegrityError: the part is not stored.
        """
        stored = await self._transport.send(
            UploadPart(
                key=self.key,
                upload_id=self.upload_id,
                part_number=part_number,
                body=body,
                checksum=checksum,
                sse_customer_key=self._attributes.sse_customer_key,
            )
        )
        self._attempts = max(self._attempts, stored.attempts)
        self._confirmed.add(
            await confirm_body(
                checksum, stored, body, etag_is_md5=self._etag_is_md5, where=f"part {part_number} of {self.key!r}"
            )
        )
        self._parts[part_number] = CompletedPart(part_number=part_number, etag=stored.etag, checksum=checksum)

    async def send_part(
        self, part: Part, source: PartSource, local: Callable[[memoryview], None] | None
    ) -> Checksum | None:
        """Have one part read, checksummed, sent and its answer compared in one thread; the checksum that was sent.

        Only for a transport with sender threads. `local` gets the bytes of each attempt before they are sent.

        Raises:
            SourceError: it cannot be read.
            TransferError, IntegrityError: the part is not stored.
        """
        number, confirmed = part.part_number, set[ConfirmedBy]()

        def compare(stored: ObjectStored, body: memoryview, sent: Checksum | None) -> None:
            where = f"part {number} of {self.key!r}"
            confirmed.add(confirm_body_now(sent, stored, body, etag_is_md5=self._etag_is_md5, where=where))

        stored = await self._transport.send(
            UploadPartFrom(
                key=self.key,
                upload_id=self.upload_id,
                part_number=number,
                source=source,
                offset=part.offset,
                length=part.length,
                algorithm=self._algorithm,
                sse_customer_key=self._attributes.sse_customer_key,
                local=local,
                confirm=compare,
            )
        )
        self._attempts = max(self._attempts, stored.attempts)
        self._confirmed |= confirmed
        self._parts[number] = CompletedPart(part_number=number, etag=stored.etag, checksum=stored.sent)
        return stored.sent

    async def complete(self, checksum: Checksum | None) -> tuple[ObjectStored, ConfirmedBy]:
        """Join the parts and compare the answer with `checksum`, the whole object's (None where there is none).

        Raises:
            TransferError, IntegrityError: the object is not published, or is not what was sent; `abort` is still owed.
        """
        parts = tuple(self._parts[number] for number in sorted(self._parts))
        full = checksum if checksum is not None and checksum.algorithm in FULL_OBJECT_ALGORITHMS else None
        try:
            stored = await self._transport.send(
                CompleteMultipartUpload(
                    key=self.key,
                    upload_id=self.upload_id,
                    parts=parts,
                    size_bytes=self._plan.size_bytes,
                    checksum=full,
                    sse_customer_key=self._attributes.sse_customer_key,
                )
            )
        except (UploadMissing, RetryableError):
            # The answer may have been lost after the object was published. Only its checksum or its ETag proves that:
            # an older object of the same size says nothing.
            found = await self._look(full)
            if found is None or found[1] == "size":
                raise
            # The object may also be an equal one from before; then the upload is still open.
            await self.abort()
            return found
        stored.attempts = max(stored.attempts, self._attempts)
        return stored, await self._confirm(stored, full)

    async def abort(self) -> str:
        """Forget the upload and its parts. Returns "" or, where the server would not, a sentence saying so.

        Shielded from cancellation, and bounded by `RetryPolicy.abort_seconds`.
        """
        problem = ""
        with anyio.move_on_after(self._retry.abort_seconds, shield=True) as scope:
            try:
                for _ in range(ABORTS_MAX):
                    await self._transport.send(AbortMultipartUpload(key=self.key, upload_id=self.upload_id))
                    await self._transport.send(ListParts(key=self.key, upload_id=self.upload_id))
                problem = "the server still lists it after the abort"
            except UploadMissing:
                return ""
            except AsyncSinkError as error:
                problem = str(error)
        if scope.cancelled_caught:
            problem = f"the server did not answer within {self._retry.abort_seconds:g} s"
        return (
            f"The multipart upload {self.upload_id} of {self.key!r} may still be open ({problem}); a lifecycle rule "
            "for incomplete uploads, or AbortMultipartUpload, removes it."
        )

    async def _confirm(self, stored: ObjectStored, full: Checksum | None) -> ConfirmedBy:
        if full is not None and stored.checksum is not None and stored.checksum.algorithm == full.algorithm:
            return confirm(sent=full, answered=stored.checksum, etag="", md5_of_body=None, etag_is_md5=False)
        expected = self._expected_etag()
        if expected is not None and stored.etag == expected:
            # Every part's MD5 was compared or sent, and the ETag binds them together in order.
            return "etag"
        if self._confirmed == {"server-checksum"} and full is None and self._algorithm is not None:
            return "server-checksum"
        try:
            found = await self._look(full)
        except AccessDenied:
            # Credentials that may only write: S3 said that it is complete, and nobody can say more.
            return "nothing"
        if found is None:
            raise IntegrityError(
                f"{self.key!r} is not there, or has another size or checksum, although the server confirmed its "
                "upload; export it again.",
                expected=str(full or self._plan.size_bytes),
                actual=stored.etag or "nothing",
            )
        return found[1]

    def _expected_etag(self) -> str | None:
        """The ETag that S3's rule gives (MD5 of the parts' MD5s), or None where a part's ETag is no compared MD5."""
        if not self._etag_is_md5 or not self._confirmed <= {"etag", "server-checksum"}:
            return None
        if "server-checksum" in self._confirmed and self._algorithm != "MD5":
            return None
        digests = [etag_md5(self._parts[number].etag) for number in sorted(self._parts)]
        known = [digest for digest in digests if digest is not None]
        return multipart_etag(known) if len(known) == len(digests) else None

    async def _look(self, full: Checksum | None) -> tuple[ObjectStored, ConfirmedBy] | None:
        """The object as it is now, if it is what was sent; None if it is not there or is another."""
        try:
            head = await self._transport.send(
                HeadObject(key=self.key, sse_customer_key=self._attributes.sse_customer_key)
            )
        except ObjectMissing:
            return None
        if head.size_bytes != self._plan.size_bytes:
            return None
        confirmed: ConfirmedBy = "size"
        if full is not None and not head.composite and full.algorithm in head.checksums:
            if head.checksums[full.algorithm] != full.value:
                return None
            confirmed = "server-checksum"
        elif (expected := self._expected_etag()) is not None:
            if head.etag != expected:
                return None
            confirmed = "etag"
        stored = ObjectStored(etag=head.etag, version_id=head.version_id, attempts=self._attempts, checksum=full)
        return stored, confirmed


async def create_upload(
    transport: Transport,
    *,
    key: str,
    plan: PartPlan,
    algorithm: ChecksumAlgorithm | None,
    attributes: ObjectAttributes,
    write_token: str,
    retry: RetryPolicy,
) -> MultipartUpload:
    """Ask the server for an upload id. `write_token` tells the object from everybody else's: a fresh one per upload.

    Cancelled while the request is under way, it waits (at most `retry.abort_seconds`) for the id, aborts the upload,
    and lets the cancellation go on.
    """
    operation = CreateMultipartUpload(key=key, algorithm=algorithm, attributes=attributes, write_token=write_token)
    scope = anyio.CancelScope(shield=True)
    upload: MultipartUpload | None = None
    failure: AsyncSinkError | None = None
    answered = anyio.Event()

    async def create() -> None:
        nonlocal upload, failure
        with scope:
            try:
                created = await transport.send(operation)
            except AsyncSinkError as error:
                failure = error
            else:
                upload = MultipartUpload(
                    transport,
                    key=key,
                    upload_id=created.upload_id,
                    plan=plan,
                    algorithm=algorithm,
                    attributes=attributes,
                    write_token=write_token,
                    retry=retry,
                )
        answered.set()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(create)
            try:
                await answered.wait()
            except BaseException:
                scope.deadline = anyio.current_time() + retry.abort_seconds
                raise
    except BaseException:
        if upload is not None:
            await upload.abort()
        raise
    if failure is not None:
        raise failure
    assert upload is not None  # neither cancelled nor failed
    return upload
