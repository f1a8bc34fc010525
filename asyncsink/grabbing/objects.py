"""What the server tells of an object, as the sameness rules know it."""

from __future__ import annotations

from asyncsink.config import Secret
from asyncsink.errors import AccessDenied, PermanentError
from asyncsink.integrity.existing import Existing
from asyncsink.integrity.part_sizes import parts_of_etag
from asyncsink.s3.get_object import GetObject, ObjectData
from asyncsink.s3.operations import HeadObject, ListedObject, ObjectHead
from asyncsink.s3.transport import Transport

_PLAIN_ETAGS = ("", "AES256")
"""Encryptions under which the ETag of an object that was sent whole is its MD5 (S3 API, "Object")."""


def existing_by_listing(listed: ListedObject, secret: Secret | None) -> Existing:
    """By its entry in a listing, which tells no checksum and no encryption."""
    return Existing(
        size_bytes=listed.size_bytes, etag=listed.etag, modified=listed.last_modified, etag_is_md5=secret is None
    )


def existing_by_answer(answer: ObjectData, listed: ListedObject) -> Existing:
    """By the answer to a GET of the whole object."""
    return Existing(
        size_bytes=len(answer.data),
        etag=answer.etag or listed.etag,
        modified=listed.last_modified,
        checksums={} if answer.composite else answer.checksums,
        looked_closely=True,
        etag_is_md5=answer.sse in _PLAIN_ETAGS,
    )


async def head_of(transport: Transport, key: str, secret: Secret | None) -> ObjectHead:
    """By a HEAD, or, where that is refused, as far as the answer to a GET of the first byte tells it.

    Raises:
        ObjectMissing, AccessDenied, TransferError: it cannot be looked at.
    """
    try:
        return await transport.send(HeadObject(key=key, sse_customer_key=secret))
    except AccessDenied as denied:
        try:
            first = await transport.send(GetObject(key=key, length=1, sse_customer_key=secret))
        except AccessDenied:
            raise denied from None
        except PermanentError as error:
            if error.status != 416:
                raise
            return ObjectHead(size_bytes=0)  # there is no first byte
    # Checksums beside a range are not of the object for certain.
    size_bytes = len(first.data) if first.object_bytes is None else first.object_bytes
    return ObjectHead(size_bytes=size_bytes, etag=first.etag, version_id=first.version_id, sse=first.sse)


async def look_closer(transport: Transport, key: str, secret: Secret | None) -> Existing:
    """As `head_of`, and where only a multipart ETag can prove the bytes by others of the first and of the last part.

    Raises:
        ObjectMissing, AccessDenied, TransferError: it cannot be looked at.
    """
    head = await head_of(transport, key, secret)
    checksums = {} if head.composite else head.checksums
    part_size = None
    if "-" in head.etag and not checksums:
        try:
            part_size = await _equal_part_size(transport, key, secret, head)
        except PermanentError:
            part_size = None  # this server does not know parts any more: typical part sizes are tried
    return Existing(
        size_bytes=head.size_bytes,
        etag=head.etag,
        modified=head.last_modified,
        checksums=checksums,
        looked_closely=True,
        part_size_bytes=part_size,
        etag_is_md5=head.sse in _PLAIN_ETAGS,
    )


async def _equal_part_size(transport: Transport, key: str, secret: Secret | None, head: ObjectHead) -> int | None:
    """The size of the parts, or None where they were not equal, or where the server does not tell."""

    async def size_of(part_number: int) -> int:
        asked = HeadObject(key=key, part_number=part_number, sse_customer_key=secret)
        return (await transport.send(asked)).size_bytes

    first, count = await size_of(1), parts_of_etag(head.etag) or 0
    if first >= head.size_bytes:
        return None
    # S3 takes parts of any sizes. Only where the last one is what equal parts leave were they equal.
    equal = count <= 2 or await size_of(count) == head.size_bytes - first * (count - 1)
    return first if equal else None
