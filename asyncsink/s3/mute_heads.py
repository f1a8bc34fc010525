"""Why a HEAD was refused: its answer has no body, and 400 can mean credentials that have ended (RFC 9110, 9.3.2).

S3 answers ExpiredToken with 400, and so it does a HEAD without an object's customer key; a HEAD shows neither code.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from asyncsink.errors import AsyncSinkError, ExpiredCredentials, PermanentError, RetryableError
from asyncsink.s3.operations import HeadObject, ListObjects

log = logging.getLogger("asyncsink.s3")


def is_mute(operation: object, error: BaseException) -> bool:
    """Whether `error` is a HEAD's bare 400. Pure."""
    return (
        isinstance(operation, HeadObject)
        and type(error) is PermanentError
        and error.status == 400
        and error.code in ("", "400")
    )


async def reason_of(
    operation: Any, refused: AsyncSinkError, send: Callable[[ListObjects], Awaitable[Any]], renewed: Callable[[], bool]
) -> AsyncSinkError:
    """`refused`, or the retryable error that a request with a body in its answer is told in its stead.

    Args:
        operation: the HeadObject.
        send: sends a request with the credentials of this moment; no right to list is needed, since S3 looks at the
            credentials first.
        renewed: whether the credentials are others by now than those of the HEAD.
    """
    try:
        await send(ListObjects(prefix=operation.key, max_keys=1))
    except RetryableError as told:
        return told
    except AsyncSinkError as told:
        log.debug("a listing after a mute HEAD was refused too: %s", told)
    if renewed():
        return ExpiredCredentials(str(refused), operation=HeadObject.name, status=400)
    return refused
