"""Ending multipart uploads that will not be completed, ours and those that others left behind."""

from __future__ import annotations

from typing import Literal

import anyio

from asyncsink.errors import AsyncSinkError, UploadMissing
from asyncsink.s3.operations import AbortMultipartUpload, ListParts
from asyncsink.s3.transport import Transport

ABORTS_MAX = 3
"""A part that was in flight may land after an abort (S3 API, AbortMultipartUpload): look, and abort again."""


Ended = Literal["aborted", "gone", "failed"]
"""What became of an upload: "gone" was not there (any more), "failed" may still be open."""


async def abort_upload(transport: Transport, key: str, upload_id: str, *, seconds: float) -> tuple[Ended, str]:
    """Forget an upload and its parts. Returns what became of it and, where it may still be open, why, else "".

    Shielded from cancellation, and bounded by `seconds`.
    """
    with anyio.move_on_after(seconds, shield=True):
        try:
            for number in range(ABORTS_MAX):
                done = await transport.send(AbortMultipartUpload(key=key, upload_id=upload_id))
                if not done.was_there and not number:
                    return "gone", ""
                await transport.send(ListParts(key=key, upload_id=upload_id))
        except UploadMissing:
            return "aborted", ""
        except AsyncSinkError as error:
            return "failed", str(error)
        return "failed", "the server still lists it after the abort"
    return "failed", f"the server did not answer within {seconds:g} s"
