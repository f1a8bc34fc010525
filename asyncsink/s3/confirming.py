"""What the server's answer to a body proves, without holding up the event loop."""

from __future__ import annotations

import hashlib
from functools import partial

import anyio.to_thread

from asyncsink.integrity.checksums import etag_md5
from asyncsink.integrity.sameness import confirm
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.s3.operations import ByteBody, ObjectStored

MD5_INLINE_BYTES_MAX = 256 * 1024
"""The MD5 of a larger body takes the event loop's time; it is computed in a thread."""


def _md5(body: ByteBody) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


async def confirm_body(
    sent: Checksum | None, stored: ObjectStored, body: ByteBody, *, etag_is_md5: bool, where: str
) -> ConfirmedBy:
    """Compare the answer to a PutObject or UploadPart with what was sent; see `integrity.sameness.confirm`.

    Args:
        etag_is_md5: what the request's encryption allows; the answer's own encryption is looked at here.

    Raises:
        IntegrityError: the answer contradicts what was sent.
    """
    plain = etag_is_md5 and stored.sse in ("", "AES256")
    repeated = sent is not None and stored.checksum is not None
    in_thread = plain and not repeated and len(body) > MD5_INLINE_BYTES_MAX and etag_md5(stored.etag) is not None
    confirm_now = partial(confirm_body_now, sent, stored, body, etag_is_md5=etag_is_md5, where=where)
    return await anyio.to_thread.run_sync(confirm_now) if in_thread else confirm_now()


def confirm_without_body(
    sent: Checksum | None, stored: ObjectStored, *, etag_is_md5: bool, where: str = "the object"
) -> ConfirmedBy:
    """`confirm_body` where the bytes are no longer at hand; raises the same."""
    plain = etag_is_md5 and stored.sse in ("", "AES256")
    return confirm(
        sent=sent, answered=stored.checksum, etag=stored.etag, md5_of_body=None, etag_is_md5=plain, where=where
    )


def confirm_body_now(
    sent: Checksum | None, stored: ObjectStored, body: ByteBody, *, etag_is_md5: bool, where: str
) -> ConfirmedBy:
    """`confirm_body` for a thread that has the bytes at hand; raises the same."""
    return confirm(
        sent=sent,
        answered=stored.checksum,
        etag=stored.etag,
        md5_of_body=lambda: _md5(body),
        etag_is_md5=etag_is_md5 and stored.sse in ("", "AES256"),
        where=where,
    )
