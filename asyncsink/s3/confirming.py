"""What the server's answer to a body, or the object under its key, proves, without holding up the event loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio.to_thread

from asyncsink.integrity.checksums import checksum_of, etag_md5
from asyncsink.integrity.sameness import checksum_by, compare_told, confirm, contradiction
from asyncsink.model import Checksum, ChecksumAlgorithm, ConfirmedBy
from asyncsink.s3.operations import ByteBody, ObjectHead, ObjectStored

COMPUTED_INLINE_BYTES_MAX = 256 * 1024
"""A checksum of a larger body takes the event loop's time; it is computed in a thread."""

Compute = Callable[[ChecksumAlgorithm], Checksum | None]
"""The body's checksum by any algorithm, or None where it is not known."""


async def confirm_body(
    sent: Checksum | None, stored: ObjectStored, body: ByteBody, *, etag_is_md5: bool, where: str
) -> ConfirmedBy:
    """Compare the answer to a PutObject or UploadPart with what was sent; see `integrity.sameness.confirm`.

    Args:
        etag_is_md5: what the request's encryption allows; the answer's own encryption is looked at here.

    Raises:
        IntegrityError: the answer contradicts what was sent.
    """
    told = stored.checksum
    repeated = sent is not None and told is not None and told.algorithm == sent.algorithm
    computed = told is not None or (etag_md5(stored.etag) is not None and _etag_is_md5(stored, etag_is_md5))
    confirm_now = partial(confirm_body_now, sent, stored, body, etag_is_md5=etag_is_md5, where=where)
    in_thread = computed and not repeated and len(body) > COMPUTED_INLINE_BYTES_MAX
    return await anyio.to_thread.run_sync(confirm_now) if in_thread else confirm_now()


def confirm_without_body(
    sent: Checksum | None, stored: ObjectStored, *, etag_is_md5: bool, where: str = "the object"
) -> ConfirmedBy:
    """`confirm_body` where the bytes are no longer at hand; raises the same."""
    plain = _etag_is_md5(stored, etag_is_md5)
    return confirm(sent=sent, answered=stored.checksum, etag=stored.etag, compute=None, etag_is_md5=plain, where=where)


def confirm_body_now(
    sent: Checksum | None, stored: ObjectStored, body: ByteBody, *, etag_is_md5: bool, where: str
) -> ConfirmedBy:
    """`confirm_body` for a thread that has the bytes at hand; raises the same."""
    return confirm(
        sent=sent,
        answered=stored.checksum,
        etag=stored.etag,
        compute=partial(checksum_of, body),
        etag_is_md5=_etag_is_md5(stored, etag_is_md5),
        where=where,
    )


async def confirm_object(
    sent: Checksum | None,
    stored: ObjectStored,
    head: ObjectHead,
    size_bytes: int,
    compute: Compute,
    *,
    etag_is_md5: bool,
    where: str,
) -> ConfirmedBy:
    """Compare the object under the key with what was sent, and with what was answered to that.

    Args:
        sent: the checksum that went with the body, or None.
        stored: the answer; it proved nothing by itself.
        head: the object.
        size_bytes: of the body.
        compute: the body's checksum by any algorithm, or None where it is not known.
        etag_is_md5: what the request's encryption allows; the object's own is looked at here.

    Raises:
        IntegrityError: they contradict each other.
    """
    check_same_object(stored, head, where)
    if head.size_bytes != size_bytes:
        raise contradiction(where, f"{size_bytes:,} bytes", f"{head.size_bytes:,} bytes")
    compare = partial(
        compare_told,
        {} if head.composite else head.checksums,
        head.etag,
        partial(checksum_by, sent, compute),
        etag_is_md5=_etag_is_md5(head, etag_is_md5),
        where=where,
        otherwise="size",
    )
    return await anyio.to_thread.run_sync(compare) if size_bytes > COMPUTED_INLINE_BYTES_MAX else compare()


def check_same_object(stored: ObjectStored, head: ObjectHead, where: str) -> None:
    """Refuse an object that is not the one that was answered.

    Raises:
        IntegrityError: its ETag or version is another.
    """
    for name, answered, found in (
        ("ETag", stored.etag, head.etag),
        ("version", stored.version_id, head.version_id),
    ):
        if answered and found and answered != found:
            raise contradiction(where, f"what has the {name} {answered}", f"an object with the {name} {found}")


def _etag_is_md5(told: ObjectStored | ObjectHead, allowed: bool) -> bool:
    return allowed and told.sse in ("", "AES256")
