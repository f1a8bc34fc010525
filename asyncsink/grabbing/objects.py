"""What the server tells of an object, as the sameness rules know it."""

from __future__ import annotations

from asyncsink.config import Secret
from asyncsink.errors import PermanentError
from asyncsink.integrity.existing import Existing
from asyncsink.s3.get_object import ObjectData
from asyncsink.s3.operations import HeadObject, ListedObject
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
        etag=answer.etag,
        modified=listed.last_modified,
        checksums={} if answer.composite else answer.checksums,
        looked_closely=True,
        etag_is_md5=answer.sse in _PLAIN_ETAGS,
    )


async def look_closer(transport: Transport, key: str, secret: Secret | None) -> Existing:
    """By a HEAD, and a second one of the first part where only a multipart ETag can prove the bytes.

    Raises:
        ObjectMissing, AccessDenied, TransferError: it cannot be looked at.
    """
    head = await transport.send(HeadObject(key=key, sse_customer_key=secret))
    checksums = {} if head.composite else head.checksums
    part_size = None
    if "-" in head.etag and not checksums:
        try:
            first = await transport.send(HeadObject(key=key, part_number=1, sse_customer_key=secret))
        except PermanentError:
            first = head  # this server does not know parts any more: typical part sizes are tried
        part_size = first.size_bytes if first.size_bytes < head.size_bytes else None
    return Existing(
        size_bytes=head.size_bytes,
        etag=head.etag,
        modified=head.last_modified,
        checksums=checksums,
        looked_closely=True,
        part_size_bytes=part_size,
        etag_is_md5=head.sse in _PLAIN_ETAGS,
    )
