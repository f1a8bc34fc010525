"""Batches of small files, and the exchange of one file, which is as short as possible.

The usual case is done in one go: the file is read, checksummed, signed and sent, and the answer is compared as it comes
from the socket. Every other case is left to the code that all exchanges have, or to the ordinary way.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from asyncsink.errors import AsyncSinkError, Throttled
from asyncsink.integrity.checksums import ByteBody, checksum_of
from asyncsink.model import Checksum
from asyncsink.s3.errors_map import kept, one_line
from asyncsink.s3.http.answers import Answer, response_of
from asyncsink.s3.http.exchange import NO_BODY, Exchange, ExchangeInterrupted
from asyncsink.s3.http.exchanges import BatchPlace, ExchangeBatch, FileRefused
from asyncsink.s3.http.reading import FRAMING, LINE, TEXT, ExchangeError
from asyncsink.s3.http.requests import RequestWriter
from asyncsink.s3.http.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD
from asyncsink.s3.operations import FilesPut, FileStored, FileToPut, ObjectStored, Ordinary, PutFiles, PutObject

if TYPE_CHECKING:
    from asyncsink.s3.http.exchange import Outbox
    from asyncsink.s3.http.lane import Lane

LAYOUT_BYTES_MAX: Final = 4096
"""A longer answer is read the ordinary way: compiling its pattern would take milliseconds."""
_PLAIN: Final = rb"[A-Za-z0-9+/=._-]{0,128}"
"""An ETag or a version id of the usual form; others are read the ordinary way."""
_SAME: Final = frozenset({b"content-length", b"x-amz-checksum-type"})
"""Headers with one usual value."""


class _Layout(NamedTuple):
    """The layout of a batch's answers. A server words all of them alike, so that each is read in one step.

    Attributes:
        pattern: the whole answer, with groups for the values that differ.
        checksum, etag, version_id: numbers of the groups; 0 where there is none.
        sse: the objects' encryption, as in `operations.ObjectStored`.
    """

    pattern: re.Pattern[bytes]
    checksum: int
    etag: int
    version_id: int
    sse: str


def _layout_of(answer: bytes, checksum_header: bytes) -> _Layout | None:
    """The layout of a whole answer; None where it is not the usual one to a file that is stored: 200 with a checksum of
    the whole object, no body, and a connection that stays open."""
    if len(answer) > LAYOUT_BYTES_MAX or not answer.endswith(b"\r\n\r\n"):
        return None
    status, *lines = answer.removesuffix(b"\r\n\r\n").split(b"\r\n")
    groups: dict[bytes, int] = {}
    told: dict[bytes, bytes] = {}
    # Each piece matches in one way only, so that a mismatch causes no backtracking.
    pieces = [b"HTTP/1\\.1 200 " + TEXT]
    for line in lines:
        found = re.fullmatch(LINE, line)
        if found is None:
            return None
        name, value = found[1], found[2].strip()
        low = name.lower()
        if low in told or low in FRAMING:
            return None
        told[low] = value
        start = re.escape(name) + b":"
        if low in (checksum_header, b"x-amz-version-id", b"etag"):
            groups[low] = len(groups) + 1
            quote = b'"?' if low == b"etag" else b""
            pieces.append(start + b" *" + quote + b"(" + _PLAIN + b")" + quote + b" *")
        elif low in _SAME or low.startswith(b"x-amz-server-side-encryption"):
            pieces.append(start + b" *" + re.escape(value) + b" *")
        else:
            pieces.append(start + TEXT)
    if (
        not status.startswith(b"HTTP/1.1 200 ")
        or checksum_header not in groups
        or told.get(b"content-length") != b"0"
        or told.get(b"x-amz-checksum-type", b"FULL_OBJECT") != b"FULL_OBJECT"
    ):
        return None
    return _Layout(
        re.compile(b"\r\n".join(pieces) + b"\r\n\r\n"),
        groups[checksum_header],
        groups.get(b"etag", 0),
        groups.get(b"x-amz-version-id", 0),
        kept(told.get(b"x-amz-server-side-encryption", b"").decode("latin-1"))
        or ("customer" if told.get(b"x-amz-server-side-encryption-customer-algorithm") else ""),
    )


class SmallFileBatch(ExchangeBatch):
    """PutObject of many small files.

    Attributes:
        ended: no further file is begun, because one that was sent is not proven to be stored.
        unproven: an answer was 200, but without the checksum.
        layout: of the last usual answer.
    """

    def __init__(
        self,
        operation: PutFiles,
        place: BatchPlace,
        writer: RequestWriter,
        outbox: Outbox,
        done: asyncio.Future[Any],
    ) -> None:
        super().__init__(len(operation.files), place, writer, outbox, done)
        self.operation = operation
        self.header = f"x-amz-checksum-{operation.algorithm.lower()}".encode()
        self.signed = place.sign_payload and writer.signs
        self.results = operation.results
        self.layout: _Layout | None = None
        self.ended = self.unproven = False
        self._files: Iterator[tuple[int, FileToPut]] = iter(enumerate(operation.files))

    def take(self) -> SmallPut | None:
        """The next file; after the batch has ended, an exchange that needs no connection."""
        found = next(self._files, None)
        if found is None:
            return None
        put = SmallPut(self, *found)
        put.given_up = self.ended
        return put

    def all_over(self) -> None:
        """Close the reader, and complete `done` on the event loop."""
        self.operation.reader.close()
        self.outbox.put(self.settle, len(self.operation.files))

    def answer(self) -> FilesPut:
        """The number of files stored."""
        stored = sum(isinstance(result, FileStored) for result in self.results)
        return FilesPut(stored=stored, unproven=self.unproven)


class SmallPut(Exchange):
    """One small file: read into the lane's own buffer, checksummed, signed and sent in one go."""

    __slots__ = ("_began", "_checksum", "_clock", "_file", "_number", "batch")

    batch: SmallFileBatch
    borrowed = True

    def __init__(self, batch: SmallFileBatch, number: int, file: FileToPut) -> None:
        super().__init__()
        self.batch = batch
        self._number = number
        self._file = file
        self._checksum: Checksum | None = None
        self._began = 0.0

    def begin(self, lane: Lane) -> tuple[bytes, ByteBody]:
        """Read, checksum and sign the file."""
        batch, file = self.batch, self._file
        operation, size = batch.operation, file.size_bytes
        self._clock = lane.clock
        self._began = lane.began_at = lane.clock()
        room = lane.room(size + 1)
        if batch.ended:
            raise ExchangeInterrupted
        if not operation.reader.read(file.source, room):
            batch.results[self._number] = Ordinary()
            raise ExchangeInterrupted
        if batch.given_up:
            raise ExchangeInterrupted
        body = room[:size]
        checksum = self._checksum = checksum_of(body, operation.algorithm)
        payload_hash = UNSIGNED_PAYLOAD
        if not size:
            payload_hash = EMPTY_PAYLOAD
        elif batch.signed:
            payload_hash = hashlib.sha256(body).hexdigest()
        moment = payload_hash, batch.place.keyring.timestamp()
        return batch.writer.put_head(file.key, size, checksum, file.attributes, moment), body

    def quick(self, data: memoryview) -> bool:
        """Whether this is a usual 200 with our checksum."""
        batch, checksum, raw = self.batch, self._checksum, bytes(data)
        layout = batch.layout
        found = layout.pattern.fullmatch(raw) if layout is not None else None
        if layout is None or found is None:
            layout = batch.layout = _layout_of(raw, batch.header)
            found = layout.pattern.fullmatch(raw) if layout is not None else None
            if layout is None or found is None:
                return False
        assert checksum is not None
        if found[layout.checksum].decode() != checksum.value:
            return False
        etag = kept(found[layout.etag].decode()) if layout.etag else ""
        version_id = kept(found[layout.version_id].decode()) if layout.version_id else ""
        self._stored(etag, version_id, layout.sse)
        return True

    def answered(self, answer: Answer) -> None:
        """Accept the same proof in another layout; any other answer is for the ordinary way."""
        file, batch = self._file, self.batch
        put = PutObject(key=file.key, body=NO_BODY, checksum=self._checksum, attributes=file.attributes)
        batch.place.checked(put, answer, None)
        stored = cast("ObjectStored", response_of(put, answer))
        if self._checksum is not None and stored.checksum == self._checksum:
            self._stored(stored.etag, stored.version_id, stored.sse)
        else:
            self.batch.unproven = True
            self._ordinary(None)

    def _stored(self, etag: str, version_id: str, sse: str) -> None:
        assert self._checksum is not None
        batch, size = self.batch, self._file.size_bytes
        seconds = self._clock() - self._began
        batch.results[self._number] = FileStored(etag, self._checksum, version_id, sse, seconds)
        batch.place.traffic.small_stored += 1
        self.weight_bytes = size

    def failed(self, error: BaseException) -> None:
        """A file that changed is the file's own failure; everything else needs the ordinary way."""
        if isinstance(error, AsyncSinkError):
            self.batch.results[self._number] = error
        elif isinstance(error, FileRefused):
            self.problem = "throttled" if isinstance(error.error, Throttled) else "error"
            self.batch.place.learn(self.batch.writer, error)
            self._ordinary(error.error)
        elif isinstance(error, ExchangeError):
            self.problem = "error"
            place = self.batch.place
            self._ordinary(place.failed("PutObject", f"s3://{place.bucket}/{one_line(self._file.key, 1200)}", error))
        elif not isinstance(error, ExchangeInterrupted):
            self._ordinary(None)

    def _ordinary(self, failed: AsyncSinkError | None) -> None:
        self.batch.results[self._number] = Ordinary(failed)
        self.batch.ended = True

    def over(self, lane: Lane) -> None:
        """Count the end of the exchange."""
        del lane
        self.batch.one_over()
