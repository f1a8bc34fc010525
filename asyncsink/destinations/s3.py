"""An S3 bucket and prefix as a Destination: objects whole, objects in parts, and proof of both.

`existing_objects.py` finds the objects that are there already, and `uploads.py` has the multipart uploads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

from asyncsink.destinations.base import (
    Destination,
    Existing,
    PartWriter,
    RunForecast,
    Stored,
    Unknown,
    UploadLog,
)
from asyncsink.destinations.existing_objects import ExistingObjects
from asyncsink.destinations.spellings import Spellings
from asyncsink.destinations.uploads import AlreadyComplete, S3CompleteObject, S3PartWriter, S3Uploads
from asyncsink.errors import AccessDenied, EntityTooLarge, IntegrityError, ObjectMissing
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, HEADER_ALGORITHMS, ByteBody, checksum_of
from asyncsink.integrity.sameness import contradiction
from asyncsink.model import Checksum, ConfirmedBy, Transfer
from asyncsink.options.schema import S3Target, Settings
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.checksum_headers import Compute, confirm_body, confirm_body_now, confirm_object, confirm_without_body
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.s3.multipart.write_tokens import WriteTokens
from asyncsink.s3.operations import (
    OBJECT_SIZE_BYTES_MAX,
    FileReader,
    FileResult,
    FileStored,
    FileToPut,
    HeadObject,
    ObjectStored,
    OpenPartSource,
    Ordinary,
    PutFiles,
    PutObject,
    PutObjectFrom,
    StoredFrom,
    WithdrawnFiles,
)
from asyncsink.s3.stack import S3Stack


class S3Destination(Destination):
    """Objects below s3://bucket/prefix, sent through one stack of transports.

    Args:
        stack: the transports of the bucket.
        settings: of the run; its target is in S3.
        existing: the existing objects.
        notice: called with a sentence for people.
        log: records multipart uploads, or None.
    """

    def __init__(
        self,
        stack: S3Stack,
        settings: Settings,
        existing: ExistingObjects,
        *,
        notice: Callable[[str], None],
        log: UploadLog | None = None,
    ) -> None:
        target, policies = settings.target, settings.policies
        assert isinstance(target, S3Target)
        self._transport = stack.transport
        self._bucket = target.bucket
        self._lane = stack.lane
        self._notice = notice
        self._own = WriteTokens(notice=notice)
        self._senders = stack.senders
        self._batches = stack.batches
        self._uploads = S3Uploads(
            stack.transport, settings.retry, self._own, log, notice, abort_on_interrupt=policies.abort_on_interrupt
        )
        self._weakest_noticed: set[ConfirmedBy] = set()
        self._existing = existing
        self._options = options = existing.options
        self._plain = not options.encryption_of_run
        self._spellings = Spellings(stack.transport, existing)

    def __repr__(self) -> str:
        return f"S3Destination({self.name!r}, {self._transport!r})"

    @property
    def name(self) -> str:
        """The destination as the user wrote it."""
        return self._existing.name

    @property
    def lane(self) -> str:
        """The lane that carries the hot requests."""
        return self._lane

    @property
    def senders(self) -> int:
        """Most lane threads of the transport, or 0."""
        return self._senders

    def url(self, transfer: Transfer) -> str:
        """s3://bucket/key."""
        return f"s3://{self._bucket}/{transfer.key}"

    def check_size(self, transfer: Transfer) -> None:
        """Raise EntityTooLarge beyond S3's 50 TB."""
        if transfer.source.size_bytes > OBJECT_SIZE_BYTES_MAX:
            raise EntityTooLarge(
                f"{transfer.source.path} has {transfer.source.size_bytes:,} bytes; S3 stores objects of up to 50 TB. "
                "Split the file.",
                transfer=transfer,
                operation="PutObject",
            )

    async def prepare(self, forecast: RunForecast) -> None:
        """As `ExistingObjects.prepare`."""
        self._spellings.alike = forecast.alike
        if forecast.keys is not None:
            self._spellings.elsewhere = forecast.keys.alike
        await self._existing.prepare(forecast)

    async def look_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """As `ExistingObjects.look_many`."""
        return await self._existing.look_many(transfers)

    async def guess_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """As `ExistingObjects.look_many` with `guess`."""
        return await self._existing.look_many(transfers, guess=True)

    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        """As `ExistingObjects.look`."""
        return await self._existing.look(transfer, closely=closely)

    # -- Writing objects ----------------------------------------------------------------------------------------

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        """PutObject, with its answer compared. Raises AlreadyThere where an object exists that must not be replaced."""
        await self._existing.forget(transfer)
        if not self._spellings.plain(transfer.key):
            async with self._spellings.writing(transfer.key, self._options.customer_key(transfer)):
                return await self._put(transfer, body, checksum)
        return await self._put(transfer, body, checksum)

    async def _put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        operation = PutObject(
            key=transfer.key,
            body=body,
            checksum=checksum,
            attributes=self._options.attributes(transfer),
            first=transfer.first,
        )
        if self._own.conditional and self._options.only_new(transfer):
            return await self._own.put(self._transport, operation, partial(self._prove, transfer, body, checksum))
        return await self._prove(transfer, body, checksum, await self._transport.send(operation))

    async def _prove(
        self, transfer: Transfer, body: ByteBody, checksum: Checksum | None, stored: ObjectStored
    ) -> Stored:
        confirmed: ConfirmedBy = "server-checksum"
        if checksum is None or stored.checksum != checksum:
            etag_is_md5 = self._options.etag_is_md5(transfer)
            confirmed = await confirm_body(checksum, stored, body, etag_is_md5=etag_is_md5, where=self.url(transfer))
            if confirmed == "nothing":
                confirmed = await self._look_at(transfer, stored, len(body), checksum, partial(checksum_of, body))
        return self._stored(transfer, stored, confirmed, checksum)

    def takes_files(self, algorithm: ChecksumAlgorithm | None) -> bool:
        """Whether `put_files` can be used: there are lanes, the server repeats checksums, and the PUTs do not depend on
        existing objects."""
        conditional = self._own.conditional and self._options.overwrite_of_run == "never"
        return self._batches and algorithm in HEADER_ALGORITHMS and not conditional

    async def put_files(
        self,
        transfers: Sequence[Transfer],
        algorithm: ChecksumAlgorithm,
        reader: FileReader,
        results: list[FileResult],
        *,
        only_new: bool = False,
        withdrawn: WithdrawnFiles | None = None,
    ) -> None:
        """PutObject of many small files, each with a key of its own, read by `reader` in the lane that sends it.

        `results` gets one for each, also where this is cancelled; see `FileResult`.

        Raises:
            TransferError, CredentialsError: nothing of the batch was begun.
        """
        await self._existing.forget(*transfers)
        # Keys that a server may take for one are written one after another, by `put`; so are conditional writes.
        plain = [self._spellings.plain(transfer.key) for transfer in transfers]
        special = any(transfer.objects is not None or transfer.overwrite == "never" for transfer in transfers)
        if special and self._own.conditional:
            plain = [alone and not self._options.only_new(each) for each, alone in zip(transfers, plain, strict=True)]
        files = [
            FileToPut(transfer.key, transfer.source.size_bytes, self._options.attributes(transfer), transfer.source)
            for transfer, alone in zip(transfers, plain, strict=True)
            if alone
        ]
        every = len(files) == len(transfers)
        if every and not only_new and not special and self._plain and not self._existing.replaces_unseen:
            await self._send_files(
                PutFiles(files=files, algorithm=algorithm, reader=reader, results=results, withdrawn=withdrawn)
            )
            return
        sent: list[FileResult] = [None] * len(files)
        try:
            if files:
                put = PutFiles(
                    files=files,
                    algorithm=algorithm,
                    reader=reader,
                    results=sent,
                    only_new=only_new,
                    withdrawn=withdrawn,
                )
                await self._send_files(put)
            else:
                reader.close()
        finally:
            told = iter(sent)
            results[:] = [
                self._seen(transfer, next(told)) if alone else Ordinary()
                for transfer, alone in zip(transfers, plain, strict=True)
            ]

    async def _send_files(self, put: PutFiles) -> None:
        answer = await self._transport.send(put)
        if answer.unproven and not answer.stored:
            self._batches = False

    def _seen(self, transfer: Transfer, result: FileResult) -> FileResult:
        if isinstance(result, Ordinary) and self._existing.guess_failed(result.failed):
            return Ordinary()
        if not isinstance(result, FileStored):
            return result
        self._check_encryption(transfer, result.sse)
        # A PUT that is answered with the ETag of other content may not have stored the file: it goes the ordinary way.
        unseen = self._existing.replaces_unseen and result.etag and result.etag == self._existing.replaced(transfer)
        return Ordinary() if unseen else result

    async def send(
        self,
        transfer: Transfer,
        source: OpenPartSource,
        algorithm: ChecksumAlgorithm | None,
        local: Callable[[memoryview], None] | None,
    ) -> tuple[Stored, Checksum | None]:
        """PutObject in one call to a thread, with its answer compared. See `Destination.send`."""
        await self._existing.forget(transfer)
        size_bytes, where = transfer.source.size_bytes, self.url(transfer)
        etag_is_md5 = self._options.etag_is_md5(transfer)
        confirmed: ConfirmedBy = "nothing"
        digests: dict[ChecksumAlgorithm, Checksum] = {}

        def compare(stored: ObjectStored, body: memoryview, sent: Checksum | None) -> None:
            nonlocal confirmed
            confirmed = confirm_body_now(sent, stored, body, etag_is_md5=etag_is_md5, where=where)
            if confirmed == "nothing":
                # The object is looked at when the body is gone, and may have a checksum of any algorithm.
                digests.update((each, checksum_of(body, each)) for each in get_args(ChecksumAlgorithm))

        async def prove(stored: ObjectStored) -> tuple[Stored, Checksum | None]:
            sent, by = stored.sent if isinstance(stored, StoredFrom) else None, confirmed
            if by == "nothing":
                # There was no answer to compare where the object was found to be the one that was sent.
                by = confirm_without_body(sent, stored, etag_is_md5=etag_is_md5, where=where)
            if by == "nothing":
                by = await self._look_at(transfer, stored, size_bytes, sent, digests.get)
            return self._stored(transfer, stored, by, sent), sent

        operation = PutObjectFrom(
            key=transfer.key,
            source=source,
            length=size_bytes,
            algorithm=algorithm,
            attributes=self._options.attributes(transfer),
            local=local,
            confirm=compare,
        )
        async with self._spellings.writing(transfer.key, self._options.customer_key(transfer)):
            if self._own.conditional and self._options.only_new(transfer):
                return await self._own.put(self._transport, operation, prove)
            answer = await self._transport.send(operation)
            return await prove(answer)

    async def start(self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> PartWriter:
        """CreateMultipartUpload, or the upload that an earlier run left."""
        await self._existing.forget(transfer)
        attributes, only_new = self._options.attributes(transfer), self._options.only_new(transfer)
        upload = await self._uploads.begin(transfer, plan, algorithm, attributes, only_new=only_new)
        word = partial(self._stored, transfer)
        if isinstance(upload, AlreadyComplete):
            return S3CompleteObject(upload, word)
        writing = partial(self._spellings.writing, transfer.key, self._options.customer_key(transfer))
        return S3PartWriter(self._uploads, upload, word, writing, self._senders)

    async def discard(self, transfer: Transfer) -> None:
        """As `Destination.discard`."""
        if transfer.known is not None and transfer.known.upload is not None:
            await self._uploads.discard(transfer.key, transfer.known.upload, self._options.customer_key(transfer))

    async def aclose(self) -> None:
        """Close connections and release the listing."""
        self._existing.close()
        await self._transport.aclose()

    async def _look_at(
        self, transfer: Transfer, stored: ObjectStored, size_bytes: int, sent: Checksum | None, compute: Compute
    ) -> ConfirmedBy:
        """Prove the object by looking at it, where the answer proves nothing; `stored` gets the values of its HEAD.

        Raises:
            IntegrityError: it is not what was sent, or cannot be proven.
            TransferError: it cannot be looked at now.
        """
        where = self.url(transfer)
        try:
            secret = self._options.customer_key(transfer)
            head = await self._transport.send(HeadObject(key=transfer.key, sse_customer_key=secret))
        except ObjectMissing:
            raise IntegrityError(
                f"{where} is not there, although the server answered that it is stored; export it again. If that "
                "repeats, suspect a proxy on the way that answers in the server's stead.",
                expected=f"{size_bytes:,} bytes",
                actual="nothing",
            ) from None
        except AccessDenied:
            if stored.etag:
                return "nothing"
            raise IntegrityError(
                f"Nothing proves that {where} is stored: the server answered with neither checksum nor ETag, and these "
                "credentials may not look at it. Export it again; if that repeats, suspect a proxy on the way.",
                expected=str(sent or "an ETag"),
                actual="nothing",
            ) from None
        etag_is_md5 = self._options.etag_is_md5(transfer)
        confirmed = await confirm_object(sent, stored, head, size_bytes, compute, etag_is_md5=etag_is_md5, where=where)
        stored.etag, stored.version_id = stored.etag or head.etag, stored.version_id or head.version_id
        stored.sse = stored.sse or head.sse
        return confirmed

    def _check_encryption(self, transfer: Transfer, told: str) -> None:
        asked = self._options.encryption(transfer)
        if asked and told != asked:
            self._notice(
                f"The server did not confirm the encryption that was asked for ({asked}); objects may be stored "
                "without it."
            )

    def _stored(
        self, transfer: Transfer, stored: ObjectStored, confirmed: ConfirmedBy, sent: Checksum | None
    ) -> Stored:
        before = transfer.replaces or self._existing.replaced(transfer)
        if before and stored.etag == before:
            raise contradiction(self.url(transfer), "other content", f"the ETag {stored.etag} of the object before")
        self._check_encryption(transfer, stored.sse)
        weaker = confirmed != "server-checksum" and sent is not None and confirmed not in self._weakest_noticed
        # The transport has reported already that it sent Content-MD5 instead.
        weaker = weaker and not (stored.md5_instead and confirmed == "etag")
        if weaker and sent is not None and not _as_promised(confirmed, sent):
            self._weakest_noticed.add(confirmed)
            self._notice(f"The server ignores {sent.algorithm} checksums: objects are confirmed by {confirmed} only.")
        return Stored(
            location=self.url(transfer),
            etag=stored.etag,
            version_id=stored.version_id,
            attempts=stored.attempts,
            confirmed_by=confirmed,
        )


def _as_promised(confirmed: ConfirmedBy, sent: Checksum) -> bool:
    # Content-MD5 is confirmed by the ETag; SHA-256 has no value for a whole multipart object.
    if sent.algorithm in FULL_OBJECT_ALGORITHMS:
        return confirmed == "server-checksum"
    return confirmed in ("server-checksum", "etag")
