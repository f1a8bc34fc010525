"""Kinds of exchanges: a body in memory, a body read from a file, a range taken as it arrives, and batches of HEADs."""

from __future__ import annotations

import asyncio
import hashlib
import re
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Final, cast

from asyncsink.errors import AsyncSinkError, ClockSkew, ExpiredCredentials, RetryableError, Throttled
from asyncsink.integrity.checksums import ByteBody, Digester, digest_of
from asyncsink.model import Checksum, ChecksumAlgorithm
from asyncsink.options.settings import MIB
from asyncsink.s3.codec import CALLS
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX, LISTING_BYTES_MAX
from asyncsink.s3.get_object import GetObject, GetObjectTo, ObjectData, ObjectReceived
from asyncsink.s3.http.answers import (
    Answer,
    check_answered_range,
    corrected_time,
    error_of_answer,
    is_error,
    response_of,
)
from asyncsink.s3.http.exchange import NO_BODY, Exchange, ExchangeInterrupted
from asyncsink.s3.http.reading import (
    FRAMING,
    LINE,
    RANGE_PIECE_BYTES,
    TEXT,
    AnswerReader,
    ExchangeError,
    NoThread,
    PieceReader,
)
from asyncsink.s3.http.requests import HotOperation, RequestWriter, parts_document
from asyncsink.s3.http.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD
from asyncsink.s3.listing import listing_told
from asyncsink.s3.operations import (
    ABSENT,
    AbortMultipartUpload,
    CompleteMultipartUpload,
    HeadObject,
    HeadObjects,
    HeadsDone,
    ListObjects,
    ListParts,
    ObjectHead,
    ObjectStored,
    PartSource,
    PutObject,
    PutObjectFrom,
    Response,
    StoredFrom,
    UploadPart,
    UploadPartFrom,
)
from asyncsink.s3.transport import Traffic
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.s3.http.exchange import Outbox
    from asyncsink.s3.http.keyring import Keyring
    from asyncsink.s3.http.lane import Lane

READ_PIECE_BYTES: Final = 2 * MIB
"""Read and checksummed at a time: small enough to be still in the processor's caches when the checksum reads it."""


class FileRefused(Exception):
    """The server answered with an error.

    Attributes:
        error: its meaning.
        answer: the answer itself.
    """

    def __init__(self, error: AsyncSinkError, answer: Answer) -> None:
        super().__init__(str(error))
        self.error = error
        self.answer = answer


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """The target of requests, and the source of their signatures.

    Attributes:
        bucket: its name, for messages.
        url: of the endpoint, for messages.
        keyring: gives the server's time.
        sign_payload: the signature covers the body's SHA-256.
        traffic: counts the small files that are stored.
        layouts: the layout of usual answers, by the checksum header of files, or b"" for objects; lanes replace it.
    """

    bucket: str
    url: str
    keyring: Keyring
    sign_payload: bool
    traffic: Traffic
    layouts: dict[bytes, Any] = field(default_factory=dict)

    def checked(self, operation: HotOperation, answer: Answer, signed_at: float | None) -> None:
        """Raise FileRefused where the answer is an error."""
        if is_error(answer):
            raise FileRefused(error_of_answer(operation, self.bucket, answer, signed_at, self.keyring.region), answer)

    def failed(self, name: str, where: str, failure: ExchangeError) -> AsyncSinkError:
        """The error for a request without a whole answer, with the cause of `failure`."""
        if isinstance(failure, NoThread):
            error = failure.error(f"{name} of {where} failed: {failure.reason}", operation=name)
        else:
            error = failure.error(
                f"{name} of {where} failed: {failure.reason} at {self.url}; look at the server and the network.",
                operation=name,
            )
        error.__cause__ = failure.__cause__
        return error

    def learn(self, writer: RequestWriter, refused: FileRefused) -> None:
        """Apply a refusal to the next requests (credentials, clock); may be called from any thread.

        Args:
            writer: signed the request that was refused.
            refused: the refusal.
        """
        if isinstance(refused.error, ExpiredCredentials):
            self.keyring.expire(writer)
        elif isinstance(refused.error, ClockSkew):
            server_time = corrected_time(refused.error, refused.answer)
            if server_time is not None:
                self.keyring.correct_clock(server_time)


class ExchangeBatch:
    """Many requests that are one operation; the lane takes their exchanges one by one when there is room for them.

    Args:
        number: of the requests, at least one.
        place, writer, outbox, done: as in Awaited.

    Attributes:
        given_up: the caller was cancelled.
    """

    def __init__(
        self, number: int, place: BatchPlace, writer: RequestWriter, outbox: Outbox, done: asyncio.Future[Any]
    ) -> None:
        self.place = place
        self.writer = writer
        self.outbox = outbox
        self.done = done
        self.given_up = False
        # Counted in one step: another lane may send the rest where one hangs.
        self._others = iter(range(number - 1))

    def take(self) -> Exchange | None:
        """The next exchange, whose `batch` this is; None where there are no more. Called in any thread."""
        raise NotImplementedError

    def answer(self) -> Response:
        """The operation's response, when all its exchanges are over."""
        raise NotImplementedError

    def has(self, exchange: Exchange) -> bool:
        """Whether an exchange is one of the batch's."""
        return exchange.batch is self

    def one_over(self) -> None:
        """Count the end of one exchange."""
        if next(self._others, None) is None:
            self.all_over()

    def all_over(self) -> None:
        """Complete `done` on the event loop."""
        self.outbox.put(self.settle)

    def settle(self) -> None:
        """Complete `done`; on the event loop."""
        if not self.done.done():
            self.done.set_result(self.answer())


class Awaited(Exchange):
    """An exchange whose end a caller awaits on the event loop."""

    __slots__ = ("_error", "_outbox", "_place", "_result", "_signed_at", "_writer", "done")

    def __init__(self, place: BatchPlace, writer: RequestWriter, outbox: Outbox, done: asyncio.Future[Any]) -> None:
        super().__init__()
        self._place = place
        self._writer = writer
        self._outbox = outbox
        self.done = done
        self._result: Any = None
        self._error: BaseException | None = None
        self._signed_at: float | None = None

    def head(self, operation: HotOperation, payload_hash: str, document: bytes = b"") -> bytes:
        """The signed head of `operation`."""
        keyring = self._place.keyring
        self._signed_at = keyring.now() if self._writer.signs else None
        return self._writer.head(operation, payload_hash, keyring.timestamp(), document)

    def failed(self, error: BaseException) -> None:
        """Keep the error for the caller."""
        self._result, self._error = None, error
        cause = error.error if isinstance(error, (FileRefused, ExchangeError)) else error
        if isinstance(cause, Throttled):
            self.problem = "throttled"
        elif isinstance(cause, RetryableError) or (isinstance(cause, type) and issubclass(cause, RetryableError)):
            self.problem = "error"

    def over(self, lane: Lane) -> None:
        """Complete `done` on the event loop."""
        del lane
        self._outbox.put(self._settle)

    def _settle(self) -> None:
        if self.done.done():
            return
        if self._error is not None:
            self.done.set_exception(self._error)
            self.done.exception()  # retrieved here, since a cancelled caller does not
        else:
            self.done.set_result(self._result)


class InMemory(Awaited):
    """An operation whose body, if it has one, is in memory."""

    __slots__ = ("_operation", "answer_bytes_max", "bodiless", "once", "patient", "urgent")

    def __init__(
        self,
        operation: HotOperation,
        place: BatchPlace,
        writer: RequestWriter,
        outbox: Outbox,
        done: asyncio.Future[Any],
    ) -> None:
        super().__init__(place, writer, outbox, done)
        self._operation = operation
        self.bodiless = isinstance(operation, HeadObject)
        self.once = not operation.idempotent
        self.patient = isinstance(operation, CompleteMultipartUpload)
        # An abort has only seconds, which must not pass behind the bodies of other files.
        self.urgent = isinstance(operation, (AbortMultipartUpload, ListParts))
        self.answer_bytes_max = _answer_bytes_max(operation)

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
        operation, into = self._operation, None
        if isinstance(operation, GetObject):
            into = operation.into if operation.into is not None else memoryview(bytearray(operation.length))
            into = into[: operation.length]
        kept.begin(bodiless=self.bodiless, bytes_max=self.answer_bytes_max, into=into)
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
            self.weight_bytes = operation.length
        self._result = response_of(operation, answer)


class FromFile(Awaited):
    """A part, or a whole object, that the lane reads from a file, checksums and sends."""

    __slots__ = ("_body", "_checksum", "_header", "_operation", "_put")

    def __init__(
        self,
        operation: UploadPartFrom | PutObjectFrom,
        place: BatchPlace,
        writer: RequestWriter,
        outbox: Outbox,
        done: asyncio.Future[Any],
    ) -> None:
        super().__init__(place, writer, outbox, done)
        self._operation = operation
        self._body: memoryview | None = None
        self._checksum: Checksum | None = None
        self._header: Checksum | None = None
        self._put: UploadPart | PutObject | None = None

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

    def __init__(
        self,
        operation: GetObjectTo,
        place: BatchPlace,
        writer: RequestWriter,
        outbox: Outbox,
        done: asyncio.Future[Any],
    ) -> None:
        super().__init__(place, writer, outbox, done)
        self._operation = operation
        self._buffer: memoryview | None = None
        self._pieces: PieceReader | None = None

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


# -- Batches of HEADs --------------------------------------------------------------------------------------------------

_SAYING_MORE: Final = b"|".join([*sorted(FRAMING), b"retry-after", b"x-amz-bucket-region"])
_NOTHING_THERE: Final = (
    rb"(?i)HTTP/1\.1 404 " + TEXT + rb"(?:\r\n(?!(?:" + _SAYING_MORE + rb"):)" + LINE + rb")*\r\n\r\n"
)
"""A plain 404, without headers that mean more."""


class Heads(ExchangeBatch):
    """HEADs of many keys."""

    def __init__(
        self,
        operation: HeadObjects,
        place: BatchPlace,
        writer: RequestWriter,
        outbox: Outbox,
        done: asyncio.Future[Any],
    ) -> None:
        super().__init__(len(operation.keys), place, writer, outbox, done)
        self.operation = operation
        self._keys = iter(enumerate(operation.keys))

    def take(self) -> OneHead | None:
        """The next HEAD."""
        found = next(self._keys, None)
        return None if found is None else OneHead(self, *found)

    def answer(self) -> HeadsDone:
        """The number of objects found."""
        return HeadsDone(found=sum(isinstance(result, ObjectHead) for result in self.operation.results))


class OneHead(InMemory):
    """One of many HEADs."""

    __slots__ = ("_number", "batch")

    batch: Heads

    def __init__(self, batch: Heads, number: int, key: str) -> None:
        asked = batch.operation
        head = HeadObject(key=key, sse_customer_key=asked.sse_customer_key, ask_checksum=asked.ask_checksum)
        super().__init__(head, batch.place, batch.writer, batch.outbox, batch.done)
        self.batch = batch
        self._number = number

    def quick(self, data: memoryview) -> bool:
        """Whether this is a plain 404 on a connection that stays usable."""
        if re.fullmatch(_NOTHING_THERE, data) is None:
            return False
        self._result = ABSENT
        return True

    def over(self, lane: Lane) -> None:
        """Store the result; a HEAD without any answer is left for the ordinary way."""
        del lane
        batch, error = self.batch, self._error
        if isinstance(error, FileRefused):
            batch.place.learn(batch.writer, error)
            batch.operation.results[self._number] = error.error
        elif error is None:
            batch.operation.results[self._number] = self._result
        batch.one_over()


def _answer_bytes_max(operation: HotOperation) -> int:
    if isinstance(operation, (ListObjects, ListParts)):
        return LISTING_BYTES_MAX
    # Chunked coding may double the bytes.
    return ANSWER_BYTES_MAX + (2 * operation.length if isinstance(operation, GetObject) else 0)
