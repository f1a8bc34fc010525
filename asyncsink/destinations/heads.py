"""Existing objects by HEAD, for exports that compare them and grabs that receive them."""

from __future__ import annotations

from asyncsink.errors import PermanentError
from asyncsink.integrity.sameness import Existing, parts_of_etag
from asyncsink.options.settings import Secret
from asyncsink.s3.operations import MD5_ETAG_SSE, HeadObject, ObjectHead
from asyncsink.s3.transport import Transport


def existing_by_head(
    head: ObjectHead, *, part_size_bytes: int | None = None, etag_is_md5: bool = True, outdated: str = ""
) -> Existing:
    """The object for the rules of sameness; arguments as in Existing. Pure."""
    return Existing(
        size_bytes=head.size_bytes,
        etag=head.etag,
        modified=head.last_modified,
        checksums={} if head.composite else dict(head.checksums),
        looked_closely=True,
        part_size_bytes=part_size_bytes,
        etag_is_md5=etag_is_md5 and head.sse in MD5_ETAG_SSE,
        outdated=outdated,
    )


def needs_part_size(head: ObjectHead) -> bool:
    """Whether only a multipart ETag proves the object, which needs the size of its parts. Pure."""
    return "-" in head.etag and not (head.checksums and not head.composite)


async def equal_part_size(transport: Transport, key: str, secret: Secret | None, head: ObjectHead) -> int | None:
    """The size of the parts; None where they were not equal, or the server does not give it: typical sizes are tried
    then.

    Raises:
        RetryableError: a request failed, and may succeed later.
    """

    async def size_of(part_number: int) -> int:
        asked = HeadObject(key=key, part_number=part_number, sse_customer_key=secret)
        return (await transport.send(asked)).size_bytes

    count = parts_of_etag(head.etag) or 0
    try:
        first = await size_of(1)
        if first >= head.size_bytes:
            return None
        # S3 takes parts of any sizes. They were equal only where the last one has the bytes that equal parts leave.
        equal = count <= 2 or await size_of(count) == head.size_bytes - first * (count - 1)
    except PermanentError:
        return None
    return first if equal else None
