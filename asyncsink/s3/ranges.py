"""Pure: whether the answer to a GetObject holds the bytes that were asked for.

Sources: Amazon S3 API Reference, GetObject; RFC 9110, 14.4 (Content-Range).
"""

from __future__ import annotations

import re
from typing import Final

from asyncsink.errors import PermanentError, PreconditionFailed, ServerFault
from asyncsink.s3.error_map import one_line
from asyncsink.s3.get_object import GetObject


class RangesUnknown(PermanentError):
    """The server sends the whole object where a range of it was asked for, as RFC 9110, 14.2, lets it."""


def ranges_unknown(operation: GetObject, bucket: str) -> RangesUnknown:
    """The error that an answer with the whole object is to a request for a range. Pure."""
    return RangesUnknown(
        f"{_where(operation, bucket)}: the server sent the whole object instead of the range that was asked for; read "
        "it in one piece.",
        operation=operation.name,
    )


_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/(?:[0-9]{1,19}|\*)")


def check_range(operation: GetObject, bucket: str, content_range: str, length: int | None) -> None:
    """Refuse an answer with other bytes than the operation's, before they are taken for those.

    Args:
        operation: what was sent.
        bucket: for the message.
        content_range: the answer's Content-Range header, or "".
        length: the answer's Content-Length, or None where it has none.

    Raises:
        PreconditionFailed: a whole object is not as long as it was said to be: it was replaced.
        RangesUnknown: the server does not know ranges.
        ServerFault: the answer is about another range.
    """
    if operation.whole:
        if length is not None and length != operation.length:
            raise PreconditionFailed(
                f"{_where(operation, bucket)}: the object has {length:,} bytes; {operation.length:,} were expected. It "
                "was replaced; look at it again.",
                operation=operation.name,
            )
        return
    if not content_range:
        if operation.offset or (length is not None and length > operation.length):
            raise ranges_unknown(operation, bucket)
        return
    found = _CONTENT_RANGE.fullmatch(content_range.strip())
    first, last = (int(found[1]), int(found[2])) if found else (-1, -1)
    if first != operation.offset or not first <= last < first + operation.length:
        raise ServerFault(
            f"{_where(operation, bucket)}: the range from {operation.offset:,} was asked for, and "
            f"{one_line(content_range)!r} was answered; check that the endpoint is S3.",
            operation=operation.name,
        )


def _where(operation: GetObject, bucket: str) -> str:
    return f"{operation.name} of s3://{bucket}/{one_line(operation.key, 1200)} failed"
