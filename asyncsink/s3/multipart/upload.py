"""One multipart upload, from CreateMultipartUpload to its one end: complete, or abort.

The steps:
 1. create, shielded: an upload whose id is lost could never be aborted;
 2. parts, in any order and several at once; each answer is compared with what was sent;
 3. complete, with MpuObjectSize and, for the CRC family, the checksum of the whole object; where the answer is lost, or
    is NoSuchUpload or 412, the write token of the object under the key shows whether this upload stored it;
 4. or abort, shielded and bounded in time.

Source: S3 API Reference, the pages of the operations; S3 User Guide, "Uploading and copying objects using multipart
upload".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set

import anyio

from asyncsink.errors import (
    AsyncSinkError,
    IntegrityError,
    ObjectMissing,
    PartsRefused,
    PreconditionFailed,
    RetryableError,
    TransferError,
    UploadConflict,
    UploadMissing,
)
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, ByteBody
from asyncsink.integrity.sameness import contradiction
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.options.settings import ChecksumAlgorithm, RetryPolicy
from asyncsink.s3.checksum_headers import check_same_object, confirm_body, confirm_body_now
from asyncsink.s3.listing import part_pages
from asyncsink.s3.multipart.parts import Part, PartPlan, UploadProof
from asyncsink.s3.multipart.resume import abort_upload
from asyncsink.s3.multipart.write_tokens import WriteTokens, already_there, whose
from asyncsink.s3.operations import (
    MD5_ETAG_SSE,
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    ListedPart,
    ObjectAttributes,
    ObjectHead,
    ObjectStored,
    PartSource,
    UploadPart,
    UploadPartFrom,
)
from asyncsink.s3.transport import Transport


class MultipartUpload:
    """An open upload. Made by `create_upload`; parts may be written concurrently.

    `etag_is_md5`: of its parts. `attempts`: of the request that needed the most.
    """

    def __init__(
        self,
        transport: Transport,
        begun: CreateMultipartUpload,
        upload_id: str,
        *,
        plan: PartPlan,
        retry: RetryPolicy,
        own: WriteTokens | None = None,
    ) -> None:
        """`own` is of the destination, where the upload must not replace anything; else None."""
        self.key = key = begun.key
        self.upload_id = upload_id
        self.write_token = begun.write_token
        self._transport = transport
        self._plan = plan
        self._algorithm = algorithm = begun.algorithm
        self._attributes = attributes = begun.attributes
        self._retry = retry
        self._own = own
        self.etag_is_md5 = attributes.sse in MD5_ETAG_SSE and attributes.sse_customer_key is None
        self._parts: dict[int, CompletedPart] = {}
        self._unproven: dict[int, ListedPart] = {}
        self._confirmed: set[ConfirmedBy] = set()
        self._proof = UploadProof(key, plan, algorithm, self.etag_is_md5, parts=self._parts, confirmed=self._confirmed)
        self.attempts = 1
        self.bytes_taken_over = 0
        """Bytes of the parts that an earlier run sent."""

    def __repr__(self) -> str:
        return f"<MultipartUpload of {self.key!r}: {len(self._parts)} of {self._plan.count} parts>"

    @property
    def parts(self) -> Mapping[int, CompletedPart]:
        """The parts that the server confirmed, by number."""
        return self._parts

    @property
    def bytes_stored(self) -> int:
        """Bytes of these parts."""
        return sum(self._plan.part(number).length for number in self._parts)

    def goes_on(
        self,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,
        attributes: ObjectAttributes,
        own: WriteTokens | None,
    ) -> bool:
        """Whether its parts are parts of what is to be sent by `plan`, and it ends as that is to end; from then on they
        count as this run's own."""
        self.bytes_taken_over = 0
        begun = self._plan, self._algorithm, self._attributes, self._own
        return begun == (plan, algorithm, attributes, own)

    def take_over(self, part: CompletedPart, confirmed: ConfirmedBy) -> None:
        """Count a part of an earlier run that the server still has; `confirmed` is its current proof."""
        self._parts[part.part_number] = part
        self._confirmed.add(confirmed)
        self.bytes_taken_over += self._plan.part(part.part_number).length

    @property
    def unproven(self) -> Set[int]:
        """Numbers of parts on the server whose bytes have not been compared yet; see `write_part`."""
        return self._unproven.keys()

    def offer(self, unproven: Mapping[int, ListedPart]) -> None:
        """Have `write_part` compare these parts, which an earlier run sent, before it sends them again."""
        self._unproven.update(unproven)

    async def write_part(self, part_number: int, body: ByteBody, checksum: Checksum | None) -> None:
        """Send one part and compare the answer; a part in `unproven` is sent only where the server's is another one.

        Raises:
            TransferError, IntegrityError: the part is not stored.
        """
        listed = self._unproven.pop(part_number, None)
        if listed is not None and await self._adopt(listed, body, checksum):
            return
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
        self.attempts = max(self.attempts, stored.attempts)
        self._confirmed.add(
            await confirm_body(
                checksum, stored, body, etag_is_md5=self.etag_is_md5, where=f"part {part_number} of {self.key!r}"
            )
        )
        self._parts[part_number] = CompletedPart(part_number=part_number, etag=stored.etag, checksum=checksum)

    async def _adopt(self, listed: ListedPart, body: ByteBody, checksum: Checksum | None) -> bool:
        """Whether the listed part is proven to be `body`, and counts from now on."""
        told = ObjectStored(etag=listed.etag, checksum=listed.checksum)
        number, where = listed.part_number, f"part {listed.part_number} of {self.key!r}"
        try:
            confirmed = await confirm_body(checksum, told, body, etag_is_md5=self.etag_is_md5, where=where)
        except IntegrityError:
            return False
        if confirmed in ("server-checksum", "etag"):
            self.take_over(CompletedPart(part_number=number, etag=listed.etag, checksum=checksum), confirmed)
        return number in self._parts

    async def send_part(
        self, part: Part, source: PartSource, local: Callable[[memoryview], None] | None
    ) -> Checksum | None:
        """Read, checksum and send one part, and compare its answer, in one thread; returns the checksum that was sent.

        Only for a transport with lane threads. `local` gets the bytes of each attempt before they are sent.

        Raises:
            SourceError: it cannot be read.
            TransferError, IntegrityError: the part is not stored.
        """
        number, confirmed = part.part_number, set[ConfirmedBy]()

        def compare(stored: ObjectStored, body: memoryview, sent: Checksum | None) -> None:
            where = f"part {number} of {self.key!r}"
            confirmed.add(confirm_body_now(sent, stored, body, etag_is_md5=self.etag_is_md5, where=where))

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
        self.attempts = max(self.attempts, stored.attempts)
        self._confirmed |= confirmed
        self._parts[number] = CompletedPart(part_number=number, etag=stored.etag, checksum=stored.sent)
        return stored.sent

    async def complete(self, checksum: Checksum | None) -> tuple[ObjectStored, ConfirmedBy]:
        """Join the parts and compare the answer with `checksum`, the whole object's (None where there is none).

        Raises:
            PartsRefused: the server lacks parts, or has others; it may be called again when they were sent again.
            UploadMissing, UploadConflict: only a new upload can help.
            AlreadyThere: another writer's object is under the key, and was not to be replaced.
            TransferError, IntegrityError: the object is not published, or is not what was sent.
        After any of these, `abort` must still be called.
        """
        full = checksum if checksum is not None and checksum.algorithm in FULL_OBJECT_ALGORITHMS else None
        try:
            stored = await self._join(full)
            if isinstance(stored, ObjectHead):
                return self.prove(stored, full)
            stored.attempts = max(stored.attempts, self.attempts)
            return stored, await self._confirm(stored, full)
        except IntegrityError:
            if self._own is not None:
                self._own.doubt(self.key, self.write_token)
            raise

    def prove(self, head: ObjectHead, checksum: Checksum | None) -> tuple[ObjectStored, ConfirmedBy]:
        """As `complete`, for the object that this upload became. Raises IntegrityError where it is another's."""
        full = checksum if checksum is not None and checksum.algorithm in FULL_OBJECT_ALGORITHMS else None
        return self._as_stored(head, full), self._proof.of_object(head, full)

    async def _join(self, full: Checksum | None) -> ObjectStored | ObjectHead:
        """The answer to CompleteMultipartUpload; or the object, where it exists although that answer is missing."""
        operation = CompleteMultipartUpload(
            key=self.key,
            upload_id=self.upload_id,
            parts=tuple(self._parts[number] for number in sorted(self._parts)),
            size_bytes=self._plan.size_bytes,
            checksum=full,
            sse_customer_key=self._attributes.sse_customer_key,
        )
        try:
            try:
                if self._own is None:
                    return await self._transport.send(operation)
                return await self._own.send(self._transport, operation)
            except PartsRefused as refused:
                raise await self._refused(refused) from refused
        except (UploadMissing, RetryableError, PreconditionFailed) as error:
            return await self._own_object(error)

    async def _own_object(self, error: TransferError) -> ObjectHead:
        """Our own object under the key; `error`, or its meaning, is raised where there is none.

        Only the token proves it: an older object may be equal. An upload whose object is there is not aborted: on some
        servers that would take the parts away from the object.
        """
        try:
            head, ours = await whose(self._transport, self.key, self.write_token, self._attributes.sse_customer_key)
        except ObjectMissing:
            if isinstance(error, PreconditionFailed):
                raise UploadConflict(
                    f"{self.key!r} was there when its upload was to be completed, and is gone now; run again.",
                    operation=error.operation,
                ) from error
            raise error from None
        if head is not None and ours:
            return head
        if isinstance(error, PreconditionFailed):
            raise already_there(error, head) from error
        raise error

    async def _refused(self, refused: PartsRefused) -> PartsRefused | UploadConflict:
        """The refusal with the numbers of the parts that the server lacks or has otherwise.

        Raises:
            TransferError: they cannot be listed; UploadMissing where the upload is gone.
        """
        listed = await self._list_parts()
        wrong = [number for number in self._parts if listed.get(number) != {self._as_listed(number)}]
        if not wrong and refused.code != "EntityTooSmall":
            return UploadConflict(str(refused), operation=refused.operation, code=refused.code, status=refused.status)
        refused.part_numbers = sorted(wrong)
        return refused

    async def _list_parts(self) -> dict[int, set[tuple[str, int]]]:
        """ETag and size of the server's parts, by part number; SeaweedFS lists a part that was replaced beside the new
        one."""
        listed: dict[int, set[tuple[str, int]]] = {}
        secret = self._attributes.sse_customer_key
        async for page in part_pages(self._transport, self.key, self.upload_id, secret):
            for part in page.parts:
                listed.setdefault(part.part_number, set()).add((part.etag, part.size_bytes))
        return listed

    def _as_listed(self, number: int) -> tuple[str, int]:
        return self._parts[number].etag, self._plan.part(number).length

    async def abort(self) -> str:
        """Remove the upload and its parts. Returns "" or, where it may still be open, a sentence with the reason.

        Shielded from cancellation, and bounded by `RetryPolicy.abort_seconds`.
        """
        _, problem = await abort_upload(self._transport, self.key, self.upload_id, seconds=self._retry.abort_seconds)
        if not problem:
            return ""
        return (
            f"The multipart upload {self.upload_id} of {self.key!r} may still be open ({problem}); a lifecycle rule "
            "for incomplete uploads, or asyncsink abort-uploads, removes it."
        )

    async def _confirm(self, stored: ObjectStored, full: Checksum | None) -> ConfirmedBy:
        if (confirmed := self._proof.of_answer(stored, full)) is not None:
            return confirmed
        try:
            head, ours = await whose(self._transport, self.key, self.write_token, self._attributes.sse_customer_key)
        except ObjectMissing:
            raise IntegrityError(
                f"{self.key!r} is not there, although the server confirmed its upload; export it again.",
                expected=str(full or self._plan.size_bytes),
                actual="nothing",
            ) from None
        if head is None:
            # The credentials may only write: S3 confirmed the object, and no further check is possible.
            return "nothing"
        check_same_object(stored, head, repr(self.key))
        confirmed = self._proof.of_object(head, full)
        if confirmed == "size" and not ours:
            raise contradiction(
                repr(self.key), "an object with a write token of this run", "an object of the same size without it"
            )
        stored.version_id, stored.sse = stored.version_id or head.version_id, stored.sse or head.sse
        return confirmed

    def _as_stored(self, head: ObjectHead, full: Checksum | None) -> ObjectStored:
        return ObjectStored(
            etag=head.etag, version_id=head.version_id, attempts=self.attempts, checksum=full, sse=head.sse
        )


async def create_upload(
    transport: Transport,
    operation: CreateMultipartUpload,
    *,
    plan: PartPlan,
    retry: RetryPolicy,
    own: WriteTokens | None = None,
) -> MultipartUpload:
    """Request an upload id. The operation's `write_token` distinguishes the object from all others: a fresh one per
    upload. `own` is as in MultipartUpload.

    Cancelled while the request is under way, it waits (at most `retry.abort_seconds`) for the id, aborts the upload,
    and lets the cancellation go on.
    """
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
                upload = MultipartUpload(transport, operation, created.upload_id, plan=plan, retry=retry, own=own)
                upload.attempts = created.attempts
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
