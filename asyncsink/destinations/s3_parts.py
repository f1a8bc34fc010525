"""One S3 object on its way in parts: given part by part, or read and sent by the transport's own threads."""

from __future__ import annotations

from collections.abc import Callable

from asyncsink.destinations.base import ByteBody, Stored
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.s3.multipart import MultipartUpload
from asyncsink.s3.operations import ObjectStored, PartSource
from asyncsink.s3.part_plan import Part

Word = Callable[[ObjectStored, ConfirmedBy, Checksum | None], Stored]


class S3PartWriter:
    """A PartWriter.

    Args:
        upload: at its beginning.
        word: makes the destination's proof of S3's answer.
        notice: told of an upload that may have stayed open.
    """

    def __init__(self, upload: MultipartUpload, word: Word, notice: Callable[[str], None]) -> None:
        self._upload = upload
        self._word = word
        self._notice = notice

    async def write_part(
        self,
        part_number: int,
        offset: int,  # noqa: ARG002 - S3 orders parts by their numbers alone
        body: ByteBody,
        checksum: Checksum | None,
    ) -> None:
        """UploadPart, with its answer compared."""
        await self._upload.write_part(part_number, body, checksum)

    async def complete(self, checksum: Checksum | None) -> Stored:
        """CompleteMultipartUpload, with its answer compared."""
        stored, confirmed = await self._upload.complete(checksum)
        return self._word(stored, confirmed, checksum)

    async def abort(self) -> None:
        """AbortMultipartUpload; an upload that may have stayed open becomes a notice."""
        if problem := await self._upload.abort():
            self._notice(problem)


class S3PartSender(S3PartWriter):
    """The same over a transport with sender threads; see `one_hop.PartSender`.

    Args:
        upload, word, notice: as above.
        threads: how many there are at most, over all uploads.
    """

    def __init__(self, upload: MultipartUpload, word: Word, notice: Callable[[str], None], threads: int) -> None:
        super().__init__(upload, word, notice)
        self._threads = threads

    @property
    def threads(self) -> int:
        """How many parts are sent at once, at most."""
        return self._threads

    async def send_part(
        self, part: Part, source: PartSource, local: Callable[[memoryview], None] | None
    ) -> Checksum | None:
        """UploadPart in one hop, with its answer compared."""
        return await self._upload.send_part(part, source, local)
