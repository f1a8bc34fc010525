"""The rest of an earlier run's multipart upload: parts to go on with, the object it became, or an upload to abort.

The journal has what was sent; only the server has what is there. A part counts where both agree. A part that the server
has and the journal lacks (the run ended between the answer and its record) is compared with the file's bytes.

Source: S3 API Reference, ListParts, ListMultipartUploads, AbortMultipartUpload, HeadObject; S3 User Guide, "Uploading
and copying objects using multipart upload".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import anyio

from asyncsink.errors import AccessDenied, AsyncSinkError, ObjectMissing, UploadMissing
from asyncsink.integrity.checksums import digest_of, etag_md5
from asyncsink.model import ConfirmedBy, PendingUpload, StoredPart
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.listing import part_pages, upload_pages
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.s3.multipart.write_tokens import whose
from asyncsink.s3.operations import AbortMultipartUpload, ListedPart, ListParts, ObjectHead
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

# -- Aborting uploads --------------------------------------------------------------------------------------------------

ABORTS_MAX = 3
"""Aborts of one upload: a part in flight may be stored after an abort (S3 API, AbortMultipartUpload), so that a look
and another abort follow."""


Ended = Literal["aborted", "gone", "failed"]
"""The outcome of an abort: "gone" did not exist (any more), "failed" may still be open."""


async def _abort_until_gone(transport: Transport, key: str, upload_id: str) -> Ended:
    """Abort, and look whether the upload is still there; "failed" where the server lists it after ABORTS_MAX aborts.

    Raises:
        AccessDenied, TransferError: an abort, or a look (`operation` says which), is refused.
    """
    try:
        for number in range(ABORTS_MAX):
            done = await transport.send(AbortMultipartUpload(key=key, upload_id=upload_id))
            if not done.was_there and not number:
                return "gone"
            await transport.send(ListParts(key=key, upload_id=upload_id))
    except UploadMissing:
        return "aborted"
    return "failed"


async def abort_upload(transport: Transport, key: str, upload_id: str, *, seconds: float) -> tuple[Ended, str]:
    """Remove an upload and its parts. Returns the outcome and, where it may still be open, the reason, else "".

    Shielded from cancellation, and bounded by `seconds`.
    """
    with anyio.move_on_after(seconds, shield=True):
        try:
            ended = await _abort_until_gone(transport, key, upload_id)
        except AsyncSinkError as error:
            return "failed", str(error)
        return ended, "the server still lists it after the abort" if ended == "failed" else ""
    return "failed", f"the server did not answer within {seconds:g} s"


# -- Resuming ----------------------------------------------------------------------------------------------------------

CLOCK_SLACK_SECONDS = 60.0
"""Seconds that the clocks may move against each other between a request and the look for its result."""


@dataclass(frozen=True, slots=True)
class FoundParts:
    """Parts of an upload on the server, by part number.

    Attributes:
        kept: parts that the journal has alike, and the proof of each.
        unproven: parts of the right size that the journal lacks; their bytes decide.
    """

    kept: Mapping[int, tuple[StoredPart, ConfirmedBy]]
    unproven: Mapping[int, ListedPart]


def can_go_on(upload: PendingUpload, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> bool:
    """Whether the parts of `upload` are parts of what is to be sent now."""
    same_parts = (upload.part_size_bytes, upload.algorithm) == (plan.part_size_bytes, algorithm)
    return bool(upload.upload_id) and upload.same_source and same_parts


async def parts_to_keep(
    transport: Transport,
    key: str,
    upload: PendingUpload,
    plan: PartPlan,
    *,
    etag_is_md5: bool,
    sse_customer_key: Any = None,
) -> FoundParts:
    """The parts on the server that are of use.

    Raises:
        UploadMissing: the server no longer has the upload.
        TransferError: the parts cannot be listed.
    """
    journalled = {part.part_number: part for part in upload.parts}
    kept: dict[int, tuple[StoredPart, ConfirmedBy]] = {}
    unproven: dict[int, ListedPart] = {}
    otherwise: set[int] = set()
    async for page in part_pages(transport, key, upload.upload_id, sse_customer_key):
        for listed in page.parts:
            number = listed.part_number
            part = journalled.get(number)
            if not _fits(listed, plan) or number in unproven:
                otherwise.add(number)  # SeaweedFS lists a part that was sent twice twice
            elif part is None:
                unproven[number] = listed
            elif _agree(part, listed):
                kept[number] = part, _proof(part, listed, etag_is_md5)
            else:
                otherwise.add(number)
    return FoundParts(
        {number: part for number, part in kept.items() if number not in otherwise},
        {number: part for number, part in unproven.items() if number not in otherwise},
    )


def _fits(listed: ListedPart, plan: PartPlan) -> bool:
    within = 1 <= listed.part_number <= plan.count
    return within and listed.size_bytes == plan.part(listed.part_number).length


def _agree(part: StoredPart, listed: ListedPart) -> bool:
    if listed.etag != part.etag:
        return False
    told = listed.checksum
    return told is None or part.checksum is None or told.algorithm != part.checksum.algorithm or told == part.checksum


def _proof(part: StoredPart, listed: ListedPart, etag_is_md5: bool) -> ConfirmedBy:
    """The current proof of a part. Its bytes are not at hand, and the journal does not have how it was confirmed."""
    if part.checksum is not None and listed.checksum == part.checksum:
        return "server-checksum"
    md5 = etag_md5(part.etag) if etag_is_md5 else None
    if md5 is None:
        return "nothing"
    if part.checksum is None:
        return "etag"  # without a checksum, an ETag that is an MD5 was compared with the bytes when they were sent
    return "etag" if part.checksum.algorithm == "MD5" and digest_of(part.checksum) == md5 else "nothing"


async def find_own_object(
    transport: Transport, key: str, upload: PendingUpload, *, sse_customer_key: Any = None
) -> ObjectHead | None:
    """The object that the upload became: it has the upload's write token. None where there is none, or another's.

    Raises:
        RetryableError: the server gives no answer now.
    """
    if not upload.completing:
        return None
    try:
        head, ours = await whose(transport, key, upload.token, sse_customer_key)
    except ObjectMissing:
        return None
    return head if ours else None


async def end_upload(transport: Transport, key: str, upload_id: str, *, seconds: float) -> str:
    """Abort an upload of an earlier run. Returns "", or a sentence where it stays open: the credentials may not abort
    it, or the server lists it after every abort.

    Raises:
        TransferError: it may still be open.

    Shielded from cancellation, and bounded by `seconds`.
    """
    said = f"The multipart upload {upload_id} of {key!r}, which an earlier run began,"
    with anyio.CancelScope(shield=True), anyio.fail_after(seconds):
        try:
            if await _abort_until_gone(transport, key, upload_id) != "failed":
                return ""
        except AccessDenied as denied:
            if denied.operation == ListParts.name:
                return ""  # the abort was taken; whether it is gone these credentials may not ask
            return (
                f"{said} stays open ({denied}); a lifecycle rule for incomplete uploads, or AbortMultipartUpload, "
                "removes it."
            )
    return (
        f"{said} may still be open: the server lists it after {ABORTS_MAX} aborts; a lifecycle rule for incomplete "
        "uploads, or asyncsink abort-uploads, removes it."
    )


async def empty_uploads_between(
    transport: Transport, key: str, first_seconds: float, last_seconds: float, *, now_seconds: float
) -> list[str]:
    """The ids of the open uploads of exactly this key that have no part, and were initiated between two moments.

    Moments are since the epoch, by our clock, which reads `now_seconds`; the date of the answer gives the server's.

    Raises:
        TransferError: the uploads cannot be listed.
    """
    found: list[str] = []
    async for page in upload_pages(transport, key):
        ahead_seconds = 0.0 if page.answered is None else page.answered.timestamp() - now_seconds
        first = first_seconds + ahead_seconds - CLOCK_SLACK_SECONDS
        last = last_seconds + ahead_seconds + CLOCK_SLACK_SECONDS
        for upload in page.uploads:
            at = upload.initiated
            within = upload.key == key and at is not None and first <= at.timestamp() <= last
            if within and await _has_no_part(transport, key, upload.upload_id):
                found.append(upload.upload_id)
    return found


async def _has_no_part(transport: Transport, key: str, upload_id: str) -> bool:
    try:
        page = await transport.send(ListParts(key=key, upload_id=upload_id))
    except UploadMissing:
        return False
    return not page.parts
