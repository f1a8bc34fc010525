"""Objects in a dict: for tests, and for programs that process the published objects themselves.

It keeps what S3 keeps: an ETag that is the MD5 of a whole body or of the parts' MD5s, the time of storing in whole
seconds, and the checksum sent with the object. A listing (`closely=False`) has no checksums, as on S3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from asyncsink.destinations.base import Destination, Existing, PartWriter, RunForecast, Stored, Unknown
from asyncsink.errors import IntegrityError, UploadMissing
from asyncsink.integrity.checksums import FULL_OBJECT_ALGORITHMS, ByteBody, checksum_of, digest_of, multipart_etag
from asyncsink.model import Checksum, Transfer
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    data: bytes
    etag: str
    modified: datetime
    checksums: Mapping[ChecksumAlgorithm, str]
    part_size_bytes: int | None = None


class MemoryDestination(Destination):
    """Objects by key. No method waits: after cancellation an object is stored whole, or not begun.

    Args:
        url: precedes "/" and the key in `url` and in receipts.
    """

    def __init__(self, *, url: str = "memory:") -> None:
        self._url = url.rstrip("/")
        self._objects: dict[str, _Object] = {}
        self.open_writers: set[MemoryPartWriter] = set()
        """Writers that neither completed nor aborted: the uploads that S3 would charge for."""

    def __repr__(self) -> str:
        return f"MemoryDestination({self._url!r}, {len(self._objects)} objects)"

    @property
    def name(self) -> str:
        """The URL given at creation."""
        return self._url

    @property
    def lane(self) -> str:
        """Always "memory"."""
        return "memory"

    @property
    def objects(self) -> dict[str, bytes]:
        """Every object's content by key, in order of storing, as a copy of the dict."""
        return {key: stored.data for key, stored in self._objects.items()}

    def url(self, transfer: Transfer) -> str:
        """The destination's URL, "/" and the key."""
        return f"{self._url}/{transfer.key}"

    def check_size(self, transfer: Transfer) -> None:
        """Accept any size."""

    async def prepare(self, forecast: RunForecast) -> None:
        """Do nothing: memory needs no preparation."""

    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        """The object under the key; `closely` adds its checksums and its part size."""
        stored = self._objects.get(transfer.key)
        if stored is None:
            return None
        return Existing(
            size_bytes=len(stored.data),
            etag=stored.etag,
            modified=stored.modified,
            checksums=stored.checksums if closely else {},
            looked_closely=closely,
            part_size_bytes=stored.part_size_bytes if closely else None,
        )

    async def look_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """The objects under the keys; never Unknown."""
        return [await self.look(transfer, closely=False) for transfer in transfers]

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        """Store a copy of the body.

        Raises:
            IntegrityError: the body has another checksum; nothing was stored.
        """
        data = bytes(body)
        _verify(self.url(transfer), data, checksum)
        etag = digest_of(checksum_of(data, "MD5")).hex()
        kept = checksum or checksum_of(data, "CRC64NVME")
        return self._store(transfer, data, kept, etag=etag, verified=checksum is not None)

    async def start(
        self,
        transfer: Transfer,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,  # noqa: ARG002 - part of the protocol
    ) -> MemoryPartWriter:
        """Begin an object in parts."""
        writer = MemoryPartWriter(self, transfer, plan)
        self.open_writers.add(writer)
        return writer

    async def aclose(self) -> None:
        """Abort open writers; the objects stay readable."""
        for writer in tuple(self.open_writers):
            await writer.abort()

    def _store(
        self,
        transfer: Transfer,
        data: bytes,
        checksum: Checksum,
        *,
        etag: str,
        verified: bool,
        part_size_bytes: int | None = None,
    ) -> Stored:
        self._objects[transfer.key] = _Object(
            data=data,
            etag=etag,
            modified=datetime.now(UTC).replace(microsecond=0),
            checksums={checksum.algorithm: checksum.value},
            part_size_bytes=part_size_bytes,
        )
        return Stored(location=self.url(transfer), etag=etag, confirmed_by="server-checksum" if verified else "size")


class MemoryPartWriter(PartWriter):
    """One object written in parts."""

    def __init__(self, destination: MemoryDestination, transfer: Transfer, plan: PartPlan) -> None:
        self._destination = destination
        self._transfer = transfer
        self._plan = plan
        self._parts: dict[int, bytes] = {}

    async def write_part(self, part_number: int, offset: int, body: ByteBody, checksum: Checksum | None) -> None:
        """Store a copy of one part.

        Raises:
            IntegrityError: the part has another checksum, or differs from that of the plan with this number.
            UploadMissing: the object was completed or aborted.
        """
        self._check_open()
        data, part = bytes(body), self._plan.part(part_number)
        where = f"part {part_number} of {self._destination.url(self._transfer)}"
        if not 1 <= part_number <= self._plan.count or (part.offset, part.length) != (offset, len(data)):
            raise IntegrityError(
                f"{where} is to have {part.length:,} bytes at {part.offset:,}, and {len(data):,} bytes at {offset:,} "
                "were given; export the file again.",
                expected=f"{part.length} bytes at {part.offset}",
                actual=f"{len(data)} bytes at {offset}",
            )
        _verify(where, data, checksum)
        self._parts[part_number] = data

    async def complete(self, checksum: Checksum | None) -> Stored:
        """Join the parts.

        Raises:
            IntegrityError: a part is missing, or the whole has another checksum; nothing was stored.
            UploadMissing: the object was completed or aborted.
        """
        self._check_open()
        url = self._destination.url(self._transfer)
        parts = [self._parts[number] for number in sorted(self._parts)]
        data = b"".join(parts)
        if len(parts) != self._plan.count:
            raise IntegrityError(
                f"{url} lacks {self._plan.count - len(parts):,} of {self._plan.count:,} parts; export the file again.",
                expected=f"{self._plan.count} parts",
                actual=f"{len(parts)} parts",
            )
        _verify(url, data, checksum)
        # S3 keeps a full-object checksum of a multipart object for the CRCs only.
        kept = checksum if checksum is not None and checksum.algorithm in FULL_OBJECT_ALGORITHMS else None
        etag = multipart_etag(digest_of(checksum_of(part, "MD5")) for part in parts)
        self._destination.open_writers.discard(self)
        return self._destination._store(
            self._transfer,
            data,
            kept or checksum_of(data, "CRC64NVME"),
            etag=etag,
            verified=checksum is not None,
            part_size_bytes=self._plan.part_size_bytes,
        )

    async def abort(self) -> None:
        """Discard the parts; harmless when repeated, or after `complete`."""
        self._parts.clear()
        self._destination.open_writers.discard(self)

    def _check_open(self) -> None:
        if self not in self._destination.open_writers:
            raise UploadMissing(
                f"{self._destination.url(self._transfer)} is not being written any more: it was completed or aborted; "
                "start it again.",
                transfer=self._transfer,
                operation="write_part",
            )


def _verify(where: str, data: bytes, checksum: Checksum | None) -> None:
    if checksum is None:
        return
    found = checksum_of(data, checksum.algorithm)
    if found != checksum:
        raise IntegrityError(
            f"{where} has {found}; {checksum} was expected. Export the file again.",
            expected=str(checksum),
            actual=str(found),
        )
