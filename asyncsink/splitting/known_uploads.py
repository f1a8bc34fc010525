"""The multipart uploads of a part, known outside of the process that has them open.

An upload has no name that a listing of uploads shows, so that whoever goes on with the part of a process that is gone
has to be told which uploads are its own.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import anyio

from asyncsink.destinations.uploads import S3Uploads
from asyncsink.errors import AsyncSinkError
from asyncsink.model import PendingUpload, UploadCompleting, UploadCreating, UploadGone, UploadOpened, UploadStep
from asyncsink.options.settings import RetryPolicy, Secret
from asyncsink.s3.multipart.write_tokens import WriteTokens
from asyncsink.s3.transport import Transport

Pending = Mapping[str, PendingUpload]
"""Uploads that may be open, by key."""


class KnownUploads:
    """The multipart uploads of one part; satisfies UploadLog.

    Args:
        pending: what an earlier attempt at the part has left.
        tell: is told what is known of a key's upload, None where there is none any more. When it returns, what it was
            told survives this process.
    """

    def __init__(self, pending: Pending, tell: Callable[[str, PendingUpload | None], Awaitable[None]]) -> None:
        self.pending = dict(pending)
        self.lasting = True
        self._tell = tell

    async def step(self, step: UploadStep) -> None:
        """Take over a step. Parts are not told: S3 lists them, and each is compared before it counts."""
        key, known = step.key, self.pending.get(step.key)
        if isinstance(step, UploadCreating):
            known = PendingUpload(
                "", step.part_size_bytes, step.algorithm, step.token, time.time(), completing=False, same_source=True
            )
        elif isinstance(step, UploadOpened) and known is not None:
            known = replace(known, upload_id=step.upload_id)
        elif isinstance(step, UploadCompleting) and known is not None:
            known = replace(known, completing=True)
        elif isinstance(step, UploadGone):
            known = None
        else:
            return
        if known is None:
            self.pending.pop(key, None)
        else:
            self.pending[key] = known
        await self._tell(key, known)


async def end_uploads(
    transport: Transport,
    retry: RetryPolicy,
    customer_key: Secret | None,
    left: Pending,
    notice: Callable[[str], None],
    *,
    log: KnownUploads | None = None,
) -> None:
    """Abort uploads, except those that have become their objects. Shielded, bounded in time; one that may stay open is
    a notice. `log` is told of each one that has ended."""
    own = WriteTokens(notice=notice)
    uploads = S3Uploads(transport, retry, own, log, notice, abort_on_interrupt=True)
    with anyio.move_on_after(retry.abort_seconds, shield=True) as scope:
        for key, known in left.items():
            try:
                await uploads.discard(key, known, customer_key)
            except AsyncSinkError as error:
                notice(f"A multipart upload of {key!r} may stay open: {error}")
    if scope.cancelled_caught:
        keys = ", ".join(map(repr, left))
        notice(f"Multipart uploads of {keys} may stay open: the server did not answer in time.")
