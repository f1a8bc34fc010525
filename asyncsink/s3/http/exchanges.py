"""Kinds of exchanges: a body in memory, a body read from a file, and a range taken as it arrives."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

from asyncsink.integrity.checksums import ByteBody, Digester, digest_of
from asyncsink.model import Checksum
from asyncsink.options.settings import MIB, ChecksumAlgorithm
from asyncsink.s3.codec import CALLS
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX, LISTING_BYTES_MAX
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectData, ObjectReceived
from asyncsink.s3.http.exchange import NO_BODY, Awaited, ExchangeInterrupted, Sending
from asyncsink.s3.http.reading import (
    RANGE_PIECE_BYTES,
    Answer,
    AnswerReader,
    PieceReader,
    check_answered_range,
    response_of,
)
from asyncsink.s3.http.requests import HotOperation, parts_document
from asyncsink.s3.http.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD
from asyncsink.s3.listing import listing_told
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompleteMultipartUpload,
    HeadObject,
    ListObjects,
    ListParts,
    ObjectStored,
    PartSource,
    PutObject,
    PutObjectFrom,
    StoredFrom,
    UploadPart,
    UploadPartFrom,
)

if TYPE_CHECKING:
    from asyncsink.s3.http.lane import Lane

LARGE: Final = (UploadPartFrom, PutObjectFrom, GetObjectTo)
"""The operations with large bodies."""
READ_PIECE_BYTES: Final = 2 * MIB
"""Read and checksummed at a time: small enough to be still in the processor's caches when the checksum reads it."""


class InMemory(Awaited):
    """An operation whose body, if it has one, is in memory."""

    __slots__ = ("_operation", "answer_bytes_max", "bodiless", "once", "patient", "urgent")

    def __init__(self, operation: HotOperation, sending: Sending) -> None:
        super().__init__(sending)
        self._operation = operation
        self.bodiless = isinstance(operation, HeadObject)
        self.once = not operation.idempotent
        self.patient = isinstance(operation, CompleteMultipartUpload)
        # An abort has only seconds, which must not pass behind the bodies of other files.
        self.urgent = isinstance(operation, (AbortMultipartUpload, ListParts))
        self.answer_bytes_max = _answer_bytes_max(operation)

    def named(self) -> tuple[str, str]:
        """See Exchange."""
        return self._operation.name, getattr(self._operation, "key", "")

    def begin(self, lane: Lane) -> tuple[bytes, ByteBody]:
        """Sign the request."""
        del lane
        operation, document = self._operation, b""
        body: ByteBody = NO_BODY
        if isinstance(operation, (PutObject, UploadPart)):
            body = operation.body
        elif isinstance(operation, CompleteMultipartUpload):
            body = document = parts_document(operation)
        payload_hash = UNSIGNED_PAYLOAD
        if not len(body):
            payload_hash = EMPTY_PAYLOAD
        elif self._place.sign_payload and self._writer.signs:
            payload_hash = hashlib.sha256(body).hexdigest()
        self.weight_bytes = len(body)
        return self.head(operation, payload_hash, document), body

    def reader(self, kept: AnswerReader) -> AnswerReader:
        """A reader with room for the bytes of a range."""
        operation, into, cut = self._operation, None, False
        if isinstance(operation, GetObject):
            into = operation.into if operation.into is not None else memoryview(bytearray(operation.length))
            into = into[: operation.length]
            cut = not operation.size_known
        kept.begin(bodiless=self.bodiless, bytes_max=self.answer_bytes_max, into=into, cut=cut)
        return kept

    def answered(self, answer: Answer) -> None:
        """Read the response."""
        operation, place = self._operation, self._place
        place.checked(operation, answer, self._signed_at)
        if isinstance(operation, ListObjects):
            self._result = CALLS[ListObjects].response(operation, listing_told(operation, answer.body))
            return
        if isinstance(operation, GetObject):
            received = len(answer.data) if answer.data is not None else 0
            check_answered_range(operation, place.bucket, answer, received)
            self.weight_bytes = received
        self._result = response_of(operation, answer)


class FromFile(Awaited):
    """A part, or a whole object, that the lane reads from a file, checksums and sends."""

    __slots__ = ("_body", "_checksum", "_header", "_operation", "_put")

    def __init__(self, operation: UploadPartFrom | PutObjectFrom, sending: Sending) -> None:
        super().__init__(sending)
        self._operation = operation
        self._body: memoryview | None = None
        self._checksum: Checksum | None = None
        self._header: Checksum | None = None
        self._put: UploadPart | PutObject | None = None

    def named(self) -> tuple[str, str]:
        """See Exchange."""
        return self._operation.name, self._operation.key

    def begin(self, lane: Lane) -> tuple[bytes, ByteBody]:
        """Read the body, make the local copy, and sign."""
        operation = self._operation
        body = self._body
        if body is None:
            body = self._body = lane.lend(operation.length)
        if isinstance(operation, PutObjectFrom):
            with operation.source() as source:
                payload_hash = self._read(lane, source, 0, body)
        else:
            payload_hash = self._read(lane, operation.source, operation.offset, body)
        if operation.local is not None:
            operation.local(body)
        if isinstance(operation, PutObjectFrom):
            self._put = PutObject(
                key=operation.key,
                body=body,
                checksum=self._header,
                attributes=operation.attributes,
                only_new=operation.only_new,
                write_token=operation.write_token,
            )
        else:
            self._put = UploadPart(
                key=operation.key,
                upload_id=operation.upload_id,
                part_number=operation.part_number,
                body=body,
                checksum=self._header,
                sse_customer_key=operation.sse_customer_key,
            )
        self.weight_bytes = operation.length
        return self.head(self._put, payload_hash), body

    def _read(self, lane: Lane, source: PartSource, offset: int, body: memoryview) -> str:
        """Fill the body, compute its checksum and that of the header, and return the payload hash for the signature."""
        algorithm = self._operation.algorithm
        named: ChecksumAlgorithm | None = "MD5" if self._operation.md5_instead else algorithm
        signed = self._place.sign_payload and self._writer.signs
        wanted: set[ChecksumAlgorithm] = {each for each in (algorithm, named) if each is not None}
        if signed:
            wanted.add("SHA256")
        digester = Digester(wanted)
        for start in range(0, len(body), READ_PIECE_BYTES):
            if self.given_up:
                raise ExchangeInterrupted
            piece = body[start : start + READ_PIECE_BYTES]
            lane.began_at = lane.clock()
            source.read_part(offset + start, len(piece), into=piece)
            digester.update(piece)
        self._checksum = digester.result(algorithm) if algorithm is not None else None
        self._header = digester.result(named) if named is not None else None
        if not len(body):
            return EMPTY_PAYLOAD
        return digest_of(digester.result("SHA256")).hex() if signed else UNSIGNED_PAYLOAD

    def answered(self, answer: Answer) -> None:
        """Compare the answer with the body."""
        assert self._put is not None
        assert self._body is not None
        self._place.checked(self._put, answer, self._signed_at)
        stored = cast("ObjectStored", response_of(self._put, answer))
        if self._operation.confirm is not None:
            self._operation.confirm(stored, self._body, self._header)
        self._result = StoredFrom(
            etag=stored.etag,
            checksum=stored.checksum,
            version_id=stored.version_id,
            sse=stored.sse,
            sent=self._checksum,
        )

    def over(self, lane: Lane) -> None:
        """Return the buffer."""
        self._put = None
        if self._body is not None:
            body, self._body = self._body, None
            lane.take_in(body)
        super().over(lane)


class Range(Awaited):
    """A range whose bytes are taken as they arrive."""

    __slots__ = ("_buffer", "_operation", "_pieces")

    def __init__(self, operation: GetObjectTo, sending: Sending) -> None:
        super().__init__(sending)
        self._operation = operation
        self._buffer: memoryview | None = None
        self._pieces: PieceReader | None = None

    def named(self) -> tuple[str, str]:
        """See Exchange."""
        return self._operation.name, self._operation.key

    def begin(self, lane: Lane) -> tuple[bytes, ByteBody]:
        """Sign the request."""
        if self._buffer is None:
            self._buffer = lane.lend(RANGE_PIECE_BYTES)
        return self.head(self._operation.request(), EMPTY_PAYLOAD), NO_BODY

    def reader(self, kept: AnswerReader) -> AnswerReader:
        """A reader that gives the bytes to the taker."""
        del kept
        assert self._buffer is not None
        self._pieces = PieceReader(self._operation.length, self._buffer, self._take)
        return self._pieces

    def _take(self, position: int, piece: memoryview) -> None:
        if self.given_up:
            raise ExchangeInterrupted
        self._operation.taker.take(position, piece)

    def answered(self, answer: Answer) -> None:
        """Check that the requested range was received."""
        assert self._pieces is not None
        request = self._operation.request()
        self._place.checked(request, answer, self._signed_at)
        check_answered_range(request, self._place.bucket, answer, self._pieces.taken)
        answer.data = memoryview(b"")
        # The taker has the bytes and counts them.
        told = cast("ObjectData", response_of(replace(request, whole=False), answer))
        received = ObjectReceived(length=self._pieces.taken, etag=told.etag, version_id=told.version_id)
        self._operation.taker.end(received)
        self.weight_bytes = received.length
        self._result = received

    def over(self, lane: Lane) -> None:
        """Return the buffer."""
        self._pieces = None
        if self._buffer is not None:
            buffer, self._buffer = self._buffer, None
            lane.take_in(buffer)
        super().over(lane)


def _answer_bytes_max(operation: HotOperation) -> int:
    if isinstance(operation, (ListObjects, ListParts)):
        return LISTING_BYTES_MAX
    # Chunked coding may double the bytes.
    return ANSWER_BYTES_MAX + (2 * operation.length if isinstance(operation, GetObject) else 0)
