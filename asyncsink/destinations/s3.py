"""An S3 bucket and prefix as a Destination.

What is there already is learned as cheaply as it can be: one LIST below the longest prefix that all keys share (a
fresh prefix costs that one request), followed to its end where the run is large enough to pay for it, and a HEAD only
for keys that the listing does not cover or whose ETag does not settle the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.config import ObjectOptions, RetryPolicy, S3Target
from asyncsink.destinations.base import ByteBody, Existing, Outlook, Stored, Unknown
from asyncsink.destinations.inventory import Inventory
from asyncsink.destinations.s3_parts import S3PartSender, S3PartWriter
from asyncsink.errors import (
    AccessDenied,
    EntityTooLarge,
    IntegrityError,
    ObjectMissing,
    PermanentError,
    UploadMissing,
)
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS
from asyncsink.model import Checksum, ChecksumAlgorithm, ConfirmedBy, Transfer
from asyncsink.s3.confirming import confirm_body, confirm_body_now
from asyncsink.s3.content_type import infer_content_type
from asyncsink.s3.multipart import create_upload
from asyncsink.s3.operations import (
    HeadObject,
    ListedObject,
    ListObjects,
    ObjectAttributes,
    ObjectStored,
    OpenPartSource,
    PutObject,
    PutObjectFrom,
    UploadPart,
)
from asyncsink.s3.part_plan import OBJECT_SIZE_BYTES_MAX, PartPlan
from asyncsink.s3.transport import Transport

OBJECTS_PER_EXTRA_PAGE = 50
"""A further page of the listing (1,000 keys) is worth it for every so many transfers: it costs about as much as a few
dozen HEADs, and spares up to 1,000."""
PROBE_UPLOAD_ID = "asyncsink-write-probe"


class S3Destination:
    """Objects below s3://bucket/prefix, sent through one Transport (retrying, pacing and a lane, stacked elsewhere)."""

    def __init__(
        self,
        transport: Transport,
        target: S3Target,
        *,
        objects: ObjectOptions,
        retry: RetryPolicy,
        threads: CapacityLimiter,
        lane: str,
        notice: Callable[[str], None],
        look_first: bool = True,
        senders: int = 0,
    ) -> None:
        self._transport = transport
        self._target = target
        self._objects = objects
        self._retry = retry
        self._threads = threads
        self._lane = lane
        self._notice = notice
        self._look_first = look_first
        self._senders = senders
        self._inventory: Inventory | None = None
        self._keys_return = True
        self._blind = False
        self._weakest_noticed: set[ConfirmedBy] = set()
        self._attributes_of: dict[str, ObjectAttributes] = {}
        self._etag_is_md5 = objects.sse in ("", "AES256") and objects.sse_customer_key is None
        self._encryption = "customer" if objects.sse_customer_key is not None else objects.sse

    def __repr__(self) -> str:
        return f"S3Destination({self.name!r}, {self._transport!r})"

    @property
    def name(self) -> str:
        """The destination as the user wrote it."""
        return self._target.url or f"s3://{self._target.bucket}/{self._target.prefix}".rstrip("/")

    @property
    def lane(self) -> str:
        """Which lane carries the hot requests."""
        return self._lane

    @property
    def senders(self) -> int:
        """How many sender threads the transport has at most, or 0."""
        return self._senders

    def url(self, transfer: Transfer) -> str:
        """s3://bucket/key."""
        return f"s3://{self._target.bucket}/{transfer.key}"

    def check_size(self, transfer: Transfer) -> None:
        """Raise EntityTooLarge beyond S3's 50 TB."""
        if transfer.source.size_bytes > OBJECT_SIZE_BYTES_MAX:
            raise EntityTooLarge(
                f"{transfer.source.path} has {transfer.source.size_bytes:,} bytes; S3 stores objects of up to 50 TB. "
                "Split the file.",
                transfer=transfer,
                operation="PutObject",
            )

    # -- what is there ------------------------------------------------------------------------------------------

    async def prepare(self, outlook: Outlook) -> None:
        """List below the keys' common prefix: proves bucket and credentials, and learns what is there.

        Credentials that may write but not list (rule 28) are recognised by a probe that stores nothing; then every
        file counts as new.

        Raises:
            BucketMissing, AccessDenied, CredentialsError, ConfigError, RetryableError: the run cannot start.
        """
        inventory = Inventory(outlook.common_prefix)
        # A surveyed run meets every key once; in an open-ended one a key may come again after it was written.
        self._keys_return = outlook.objects_total is None
        extra = (outlook.objects_total or 0) // OBJECTS_PER_EXTRA_PAGE
        token = ""
        try:
            for _ in range(1 + extra):
                page = await self._transport.send(ListObjects(prefix=outlook.common_prefix, token=token))
                token = page.next_token
                add = partial(inventory.add_page, page.objects, last=not token)
                await anyio.to_thread.run_sync(add, limiter=self._threads)
                if not token or not self._look_first:
                    break
        except AccessDenied as denied:
            inventory.close()
            await self._probe_writing(outlook, denied)
            return
        except BaseException:
            inventory.close()
            raise
        self._inventory = inventory

    async def _probe_writing(self, outlook: Outlook, denied: AccessDenied) -> None:
        """Tell credentials that may only write from credentials that may do nothing.

        A part sent to an upload that does not exist needs the right to put, and stores nothing: NoSuchUpload means
        that writing is allowed.
        """
        key = outlook.sample_key or outlook.common_prefix or "asyncsink"
        try:
            await self._transport.send(UploadPart(key=key, upload_id=PROBE_UPLOAD_ID, part_number=1, body=b""))
        except UploadMissing:
            self._blind = True
            self._notice(
                f"{self.name} may be written to but not listed with these credentials: files that are there already "
                "are sent again unless a HEAD is allowed."
            )
        except AccessDenied:
            raise denied from None

    async def look_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """What the listing says: one thread hop, or none below a prefix that was found empty."""
        inventory = self._inventory
        if inventory is None or self._keys_return:
            return [Unknown.UNKNOWN] * len(transfers)
        inside = inventory.prefix
        if inventory.complete and not inventory.count:
            return [None if transfer.key.startswith(inside) else Unknown.UNKNOWN for transfer in transfers]
        keys = [transfer.key for transfer in transfers]
        if inventory.in_memory:
            listed = inventory.get_many(keys)
        else:
            listed = await anyio.to_thread.run_sync(inventory.get_many, keys, limiter=self._threads)
        return [self._as_listed(listed.get(key), key.startswith(inside) and inventory.complete) for key in keys]

    def _as_listed(self, listed: ListedObject | None, covered: bool) -> Existing | Unknown | None:
        """What an entry of the listing, or its lack where the listing covers the key, says."""
        if listed is None:
            return None if covered else Unknown.UNKNOWN
        if self._encryption:
            return Unknown.UNKNOWN  # a listing does not tell how an object is encrypted
        return Existing(
            size_bytes=listed.size_bytes,
            etag=listed.etag,
            modified=listed.last_modified,
            etag_is_md5=self._etag_is_md5,
        )

    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        """What is under the key: from the listing, or by HEAD where it is not covered or `closely` is asked for."""
        inventory = self._inventory
        if not closely and inventory is not None and transfer.key.startswith(inventory.prefix):
            if self._keys_return and await anyio.to_thread.run_sync(
                inventory.forgot, transfer.key, limiter=self._threads
            ):
                return await self._head(transfer)
            if not inventory.count and inventory.complete:
                return None
            listed = await anyio.to_thread.run_sync(inventory.get, transfer.key, limiter=self._threads)
            # A listing that was not followed to its end does not tell what is missing: not every server lists in the
            # order of the keys.
            found = self._as_listed(listed, inventory.complete)
            if not isinstance(found, Unknown):
                return found
        return await self._head(transfer)

    async def _head(self, transfer: Transfer) -> Existing | None:
        key, secret = transfer.key, self._objects.sse_customer_key
        try:
            head = await self._transport.send(HeadObject(key=key, sse_customer_key=secret))
        except ObjectMissing:
            return None
        except AccessDenied as denied:
            if secret is not None and self._inventory is not None:
                # Listing is allowed, so looking is: S3 answers 403 where the customer key is another one.
                raise AccessDenied(
                    f"{self.url(transfer)} is there, and cannot be looked at with this customer key; give the key it "
                    "was encrypted with, or overwrite='always' to replace it.",
                    transfer=transfer,
                    operation="HeadObject",
                    status=403,
                ) from denied
            # Rule 28: credentials that may not look see every file as new. Without s3:ListBucket, S3 answers 403
            # for objects that do not exist.
            if not self._blind:
                self._blind = True
                self._notice(f"HEAD is denied below {self.name}: what is there already cannot be compared.")
            return None
        part_size = None
        if "-" in head.etag and not (head.checksums and not head.composite):
            part_size = await self._first_part_size(key, head.size_bytes)
        return Existing(
            size_bytes=head.size_bytes,
            etag=head.etag,
            modified=head.last_modified,
            checksums={} if head.composite else dict(head.checksums),
            looked_closely=True,
            part_size_bytes=part_size,
            etag_is_md5=self._etag_is_md5 and head.sse in ("", "AES256"),
            outdated="encryption differs" if self._encryption and head.sse != self._encryption else "",
        )

    async def _first_part_size(self, key: str, size_bytes: int) -> int | None:
        """Size of the first part, where the server tells; None leaves the part sizes of typical tools to be tried."""
        try:
            first = await self._transport.send(
                HeadObject(key=key, part_number=1, sse_customer_key=self._objects.sse_customer_key)
            )
        except PermanentError:
            return None
        return first.size_bytes if first.size_bytes < size_bytes else None

    # -- putting ------------------------------------------------------------------------------------------------

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        """PutObject, with its answer compared."""
        if self._keys_return:
            await self._forget(transfer)
        stored = await self._transport.send(
            PutObject(key=transfer.key, body=body, checksum=checksum, attributes=self._attributes(transfer))
        )
        confirmed: ConfirmedBy = "server-checksum"
        if checksum is None or stored.checksum != checksum:
            confirmed = await confirm_body(
                checksum, stored, body, etag_is_md5=self._etag_is_md5, where=self.url(transfer)
            )
            if confirmed == "nothing":
                confirmed = await self._confirm_size(transfer, len(body))
        return self._stored(transfer, stored, confirmed, checksum)

    async def send(
        self,
        transfer: Transfer,
        source: OpenPartSource,
        algorithm: ChecksumAlgorithm | None,
        local: Callable[[memoryview], None] | None,
    ) -> tuple[Stored, Checksum | None]:
        """PutObject in one hop, with its answer compared. See `one_hop.ObjectSender`."""
        if self._keys_return:
            await self._forget(transfer)
        size_bytes, confirmed = transfer.source.size_bytes, list[ConfirmedBy]()

        def compare(stored: ObjectStored, body: memoryview, sent: Checksum | None) -> None:
            word = confirm_body_now(sent, stored, body, etag_is_md5=self._etag_is_md5, where=self.url(transfer))
            confirmed.append(word)

        stored = await self._transport.send(
            PutObjectFrom(
                key=transfer.key,
                source=source,
                length=size_bytes,
                algorithm=algorithm,
                attributes=self._attributes(transfer),
                local=local,
                confirm=compare,
            )
        )
        by = confirmed[0] if confirmed[0] != "nothing" else await self._confirm_size(transfer, size_bytes)
        return self._stored(transfer, stored, by, stored.sent), stored.sent

    async def start(self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> S3PartWriter:
        """CreateMultipartUpload. The writer is a PartSender where the transport has sender threads."""
        await self._forget(transfer)
        upload = await create_upload(
            self._transport,
            key=transfer.key,
            plan=plan,
            algorithm=algorithm,
            attributes=self._attributes(transfer),
            retry=self._retry,
        )
        word = partial(self._stored, transfer)
        if self._senders:
            return S3PartSender(upload, word, self._notice, self._senders)
        return S3PartWriter(upload, word, self._notice)

    async def aclose(self) -> None:
        """Close connections and forget the listing."""
        if self._inventory is not None:
            self._inventory.close()
            self._inventory = None
        await self._transport.aclose()

    async def _forget(self, transfer: Transfer) -> None:
        if self._keys_return and self._inventory is not None:
            await anyio.to_thread.run_sync(self._inventory.forget, transfer.key, limiter=self._threads)

    def _attributes(self, transfer: Transfer) -> ObjectAttributes:
        wanted = self._objects
        content_type = wanted.content_type
        if content_type == "infer":
            content_type = infer_content_type(transfer.key)
        # One object for all of a kind: whoever lays out its headers does so once.
        attributes = self._attributes_of.get(content_type)
        if attributes is None:
            attributes = self._attributes_of[content_type] = self._laid_out(wanted, content_type)
        return attributes

    def _laid_out(self, wanted: ObjectOptions, content_type: str) -> ObjectAttributes:
        return ObjectAttributes(
            content_type=content_type,
            sse=wanted.sse,
            sse_kms_key_id=wanted.sse_kms_key_id,
            sse_customer_key=wanted.sse_customer_key,
            storage_class=wanted.storage_class,
            acl=wanted.acl,
            tags=wanted.tags,
            metadata=wanted.metadata,
        )

    async def _confirm_size(self, transfer: Transfer, size_bytes: int) -> ConfirmedBy:
        try:
            head = await self._transport.send(
                HeadObject(key=transfer.key, sse_customer_key=self._objects.sse_customer_key)
            )
        except AccessDenied:
            return "nothing"
        if head.size_bytes != size_bytes:
            raise IntegrityError(
                f"{self.url(transfer)} has {head.size_bytes:,} bytes; {size_bytes:,} were sent. Export it again.",
                expected=str(size_bytes),
                actual=str(head.size_bytes),
            )
        return "size"

    def _stored(
        self, transfer: Transfer, stored: ObjectStored, confirmed: ConfirmedBy, sent: Checksum | None
    ) -> Stored:
        if self._encryption and stored.sse != self._encryption:
            self._notice(
                f"The server did not confirm the encryption that was asked for ({self._encryption}); objects may be "
                "stored without it."
            )
        weaker = confirmed != "server-checksum" and sent is not None and confirmed not in self._weakest_noticed
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
