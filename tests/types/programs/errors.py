"""Every error by its name, as programs catch and compare them."""

from __future__ import annotations

import asyncsink
from asyncsink import AccessDenied, BucketMissing, ClockSkew, ConnectionLost, CredentialsError, DestinationFull
from asyncsink import EntityTooLarge, ExpiredCredentials, IntegrityError, InvalidKey, JournalError, KeyCollision
from asyncsink import PermanentError, PreconditionFailed, RequestTimeout, RetryableError, RoutingError, ServerFault
from asyncsink import SourceChanged, SourceError, SourceUnreadable, Stalled, Throttled, TransferError

KINDS: dict[type[asyncsink.AsyncSinkError], int] = {
    AccessDenied: 403,
    BucketMissing: 404,
    ClockSkew: 500,
    ConnectionLost: 503,
    CredentialsError: 500,
    DestinationFull: 507,
    EntityTooLarge: 413,
    ExpiredCredentials: 500,
    InvalidKey: 400,
    JournalError: 500,
    KeyCollision: 409,
    PermanentError: 500,
    PreconditionFailed: 412,
    RequestTimeout: 503,
    RetryableError: 503,
    RoutingError: 400,
    ServerFault: 503,
    SourceChanged: 409,
    SourceError: 400,
    SourceUnreadable: 400,
    Stalled: 503,
    Throttled: 503,
}


def status(error: asyncsink.PutFailed) -> int:
    cause = error.cause
    if isinstance(cause, IntegrityError):
        print(cause.expected, cause.actual)
    if isinstance(cause, TransferError):
        transfer = cause.transfer
        print(cause.operation, cause.attempts, cause.elapsed_seconds, cause.status, transfer.key if transfer else "")
    return next((number for kind, number in KINDS.items() if isinstance(cause, kind)), 500)


async def waiting(sink: asyncsink.AsyncSink, path: str) -> asyncsink.Outcome | None:
    try:
        return await sink.put("raw", path)
    except asyncsink.PutFailed as error:
        if isinstance(error.__cause__, asyncsink.Throttled):
            return None
        raise


def shown(event: asyncsink.Event) -> str:
    match event:
        case asyncsink.LimitChanged(before=before, after=after):
            return f"{before} {after}"
        case asyncsink.Paused() | asyncsink.Resumed() | asyncsink.GaveUp():
            return str(event)
        case asyncsink.Started(objects_total=total):
            return f"{total} objects"
        case _:
            return ""
