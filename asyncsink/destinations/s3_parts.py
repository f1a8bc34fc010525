"""One S3 object on its way in parts: given part by part, or read and sent by the transport's own threads.

What the server confirmed is written down at once, so that a run which is killed goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import AbstractAsyncContextManager

from asyncsink.destinations.base import ByteBody, Stored
from asyncsink.destinations.s3_uploads import AlreadyComplete, S3Uploads
from asyncsink.model import Checksum, ConfirmedBy, StoredPart, Transfer, UploadCompleting, UploadPartStored
from asyncsink.s3.multipart import MultipartUpload
from asyncsink.s3.operations import ObjectStored, PartSource
from asyncsink.s3.part_plan import Part

Word = Callable[[ObjectStored, ConfirmedBy, Checksum | None], Stored]
Writing = Callable[[str], AbstractAsyncContextManager[None]]
"""Around what writes a key; see `Spellings.writing`."""


class S3PartWriter:
    """A ResumedWriter.

    Args:
        uploads: of the run; `upload` began there.
        upload: at its beginning, or with the parts of an earlier run.
        word: makes the destination's proof of S3's answer.
        writing: around the completion.
    """

    def __init__(self, uploads: S3Uploads, upload: MultipartUpload, word: Word, writing: Writing) -> None:
        self._uploads = uploads
        self._upload = upload
        self._word = word
        self._writing = writing

    @property
    def stored(self) -> Mapping[int, Checksum | None]:
        """The parts that the server has, and their checksums."""
        return {number: part.checksum for number, part in self._upload.parts.items()}

    @property
    def unproven(self) -> Set[int]:
        """Parts that the server has and the journal lacks."""
        return self._upload.unproven

    @property
    def bytes_resumed(self) -> int:
        """Bytes of the parts of an earlier run."""
        return self._upload.bytes_taken_over

    @property
    def bytes_stored(self) -> int:
        """Bytes of the parts that the server has."""
        return self._upload.bytes_stored

    def leave(self, transfer: Transfer) -> bool:
        """As `S3Uploads.leave`."""
        return self._uploads.leave(transfer, self._upload)

    async def write_part(
        self,
        part_number: int,
        offset: int,  # noqa: ARG002 - S3 orders parts by their numbers alone
        body: ByteBody,
        checksum: Checksum | None,
    ) -> None:
        """UploadPart, with its answer compared; nothing is sent where the server has the part already."""
        await self._upload.write_part(part_number, body, checksum)
        await self._remember(part_number)

    async def complete(self, checksum: Checksum | None) -> Stored:
        """CompleteMultipartUpload, with its answer compared."""
        async with self._writing(self._upload.key):
            await self._uploads.step(UploadCompleting(self._upload.key))
            stored, confirmed = await self._upload.complete(checksum)
            return self._word(stored, confirmed, checksum)

    async def abort(self) -> None:
        """AbortMultipartUpload; an upload that may have stayed open becomes a notice, and stays in the journal."""
        await self._uploads.abort(self._upload)

    async def _remember(self, part_number: int) -> None:
        part = self._upload.parts[part_number]
        await self._uploads.step(UploadPartStored(self._upload.key, StoredPart(part_number, part.etag, part.checksum)))


class S3PartSender(S3PartWriter):
    """The same over a transport with lane threads; see `one_hop.PartSender`.

    Args:
        uploads, upload, word, writing: as above.
        threads: how many there are at most, over all uploads.
    """

    def __init__(self, uploads: S3Uploads, upload: MultipartUpload, word: Word, writing: Writing, threads: int) -> None:
        super().__init__(uploads, upload, word, writing)
        self._threads = threads

    @property
    def threads(self) -> int:
        """How many parts are sent at once, at most."""
        return self._threads

    async def send_part(
        self, part: Part, source: PartSource, local: Callable[[memoryview], None] | None
    ) -> Checksum | None:
        """UploadPart in one hop, with its answer compared."""
        sent = await self._upload.send_part(part, source, local)
        await self._remember(part.part_number)
        return sent


class S3CompleteObject:
    """A ResumedWriter of an object that is there: an earlier run was killed before it heard so. Nothing is sent."""

    def __init__(self, found: AlreadyComplete, word: Word) -> None:
        """`found` by S3Uploads; `word` as above."""
        self._found = found
        self._word = word

    @property
    def stored(self) -> Mapping[int, Checksum | None]:
        """All parts."""
        return {number: part.checksum for number, part in self._found.upload.parts.items()}

    @property
    def unproven(self) -> Set[int]:
        """None."""
        return frozenset()

    @property
    def bytes_resumed(self) -> int:
        """Bytes of the parts of an earlier run: all of them."""
        return self._found.upload.bytes_taken_over

    @property
    def bytes_stored(self) -> int:
        """The same."""
        return self._found.upload.bytes_stored

    def leave(self, transfer: Transfer) -> bool:  # noqa: ARG002 - it needs no reminder
        """True: nothing is open, and the journal has it as being completed."""
        return True

    async def write_part(self, part_number: int, offset: int, body: ByteBody, checksum: Checksum | None) -> None:
        """Nothing: the part is there."""

    async def complete(self, checksum: Checksum | None) -> Stored:
        """The proof that the object is what was sent.

        Raises:
            IntegrityError: it is not.
        """
        stored, confirmed = self._found.upload.prove(self._found.head, checksum)
        return self._word(stored, confirmed, checksum)

    async def abort(self) -> None:
        """Nothing is open; an object that is not what was sent stays until it is replaced."""
