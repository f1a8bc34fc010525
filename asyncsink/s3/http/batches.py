"""Small files, whole objects and HEADs, alone and in batches: exchanges that are as short as possible.

The usual case is done in one go: the file is read, checksummed, signed and sent, and the answer is compared as it comes
from the socket. Every other case is left to the code that all exchanges have, or to the ordinary way.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from asyncsink.errors import AsyncSinkError, ObjectMissing, PreconditionFailed, Throttled
from asyncsink.integrity.checksums import ByteBody, checksum_of, is_composite
from asyncsink.model import Checksum
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.errors_map import kept, one_line
from asyncsink.s3.get_object import GetObject, GetObjects, GetObjectTo, ObjectData, ObjectsGot, ObjectToGet
from asyncsink.s3.http.exchange import (
    NO_BODY,
    Awaited,
    Exchange,
    ExchangeBatch,
    ExchangeInterrupted,
    FileRefused,
    Sending,
)
from asyncsink.s3.http.exchanges import FromFile, InMemory, Range
from asyncsink.s3.http.reading import CHECKSUM_HEADERS, FRAMING, LINE, TEXT, Answer, ExchangeError, response_of
from asyncsink.s3.http.signing import EMPTY_PAYLOAD, UNSIGNED_PAYLOAD
from asyncsink.s3.operations import (
    ABSENT,
    FilesPut,
    FileStored,
    FileToPut,
    HeadObject,
    HeadObjects,
    HeadsDone,
    ObjectHead,
    ObjectStored,
    Ordinary,
    PutFiles,
    PutObject,
    PutObjectFrom,
    UploadPartFrom,
)

if TYPE_CHECKING:
    from asyncsink.s3.http.lane import Lane

MANY: Final = (PutFiles, HeadObjects, GetObjects)
"""The operations that are many requests."""
_OWN: Final = (ObjectMissing, PreconditionFailed)
"""Errors of one object, which do not end its batch."""


# -- Usual answers (pure) ----------------------------------------------------------------------------------------------
# A server words all answers to requests of one kind alike: the first is taken apart, and is the pattern of the others.
# Whatever does not match is read the ordinary way.

LAYOUT_BYTES_MAX: Final = 4096
"""A longer answer is read the ordinary way: compiling its pattern would take milliseconds."""
_PLAIN: Final = rb"[A-Za-z0-9+/=._-]{0,128}"
"""An ETag or a version id of the usual form; others are read the ordinary way."""
_SAME: Final = frozenset({b"content-length", b"x-amz-checksum-type"})
"""Headers with one usual value."""
_OBJECTS: Final = frozenset({b"content-length", *CHECKSUM_HEADERS.values()})
_OBJECT: Final = b""
_MISSES: Final = b"misses"
MISSES_MAX: Final = 16
"""Answers of another layout, after which the last of them becomes the known one: where objects differ in their headers,
each would pay for a pattern."""


class Layout(NamedTuple):
    """The layout of answers.

    Attributes:
        pattern: the whole head, with groups for the values that differ.
        groups: the numbers of the groups, by the header's name.
        checksums, etag, version_id: numbers of the groups; 0 where there is none.
        sse: the objects' encryption, as in `operations.ObjectStored`.
        length: the Content-Length of the first answer.
    """

    pattern: re.Pattern[bytes]
    groups: dict[bytes, int]
    checksums: tuple[tuple[ChecksumAlgorithm, int], ...]
    etag: int
    version_id: int
    sse: str
    length: bytes


def layout_of(head: bytes, differing: Container[bytes]) -> Layout | None:
    """The layout of an answer's head; None unless it is a usual 200: no range, checksums of the whole object, if any,
    and a connection that stays open.

    Args:
        differing: headers that get a group, besides ETag and version.
    """
    if len(head) > LAYOUT_BYTES_MAX or not head.endswith(b"\r\n\r\n"):
        return None
    status, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
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
        if low in told or low in FRAMING or low == b"content-range":
            return None
        told[low] = value
        start = re.escape(name) + b":"
        if low in differing or low in (b"x-amz-version-id", b"etag"):
            groups[low] = len(groups) + 1
            quote = b'"?' if low == b"etag" else b""
            pieces.append(start + b" *" + quote + b"(" + _PLAIN + b")" + quote + b" *")
        elif low in _SAME or low.startswith(b"x-amz-server-side-encryption"):
            pieces.append(start + b" *" + re.escape(value) + b" *")
        else:
            pieces.append(start + TEXT)
    whole = told.get(b"x-amz-checksum-type", b"FULL_OBJECT") == b"FULL_OBJECT"
    if not status.startswith(b"HTTP/1.1 200 ") or not whole or b"content-length" not in told:
        return None
    return Layout(
        re.compile(b"\r\n".join(pieces) + b"\r\n\r\n"),
        groups,
        tuple((name, groups[header]) for name, header in CHECKSUM_HEADERS.items() if header in groups),
        groups.get(b"etag", 0),
        groups.get(b"x-amz-version-id", 0),
        kept(told.get(b"x-amz-server-side-encryption", b"").decode("latin-1"))
        or ("customer" if told.get(b"x-amz-server-side-encryption-customer-algorithm") else ""),
        told[b"content-length"],
    )


def object_in(layouts: dict[bytes, Any], get: GetObject, data: memoryview) -> tuple[ObjectData, memoryview] | None:
    """What a usual answer to a request for a whole object says, and as much of its body as `data` has; None for every
    other answer.

    Args:
        layouts: has the known layout, and is given a new one.
        data: the answer, or its beginning with the whole head.
    """
    layout: Layout | None = layouts.get(_OBJECT)
    found = layout.pattern.match(data) if layout is not None else None
    if layout is None or found is None:
        layout = _learned(layouts, data)
        found = layout.pattern.match(data) if layout is not None else None
        if layout is None or found is None:
            return None
    length = int(found[layout.groups[b"content-length"]])
    if length > get.length or (get.size_known and length != get.length):
        return None
    etag = found[layout.etag].decode() if layout.etag else ""
    if etag and etag == get.if_match:
        etag = get.if_match  # from a listing, which keeps no secrets
    elif etag and get.if_match:
        return None
    else:
        etag = kept(etag)
    checksums = {}
    for name, group in layout.checksums:
        value = kept(found[group].decode())
        if is_composite(value):
            return None
        if value:
            checksums[name] = value
    version_id = kept(found[layout.version_id].decode()) if layout.version_id else ""
    told = ObjectData(
        data=b"",
        object_bytes=None if get.size_known else length,
        etag=etag,
        checksums=checksums,
        version_id=version_id,
        sse=layout.sse,
    )
    body = data[found.end() :]
    return None if len(body) > length else (told, body)


def _learned(layouts: dict[bytes, Any], data: memoryview) -> Layout | None:
    """The layout of this answer, where a new one is due."""
    misses = layouts.get(_MISSES, MISSES_MAX) + 1
    layouts[_MISSES] = misses
    if misses <= MISSES_MAX:
        return None
    layouts[_MISSES] = 0
    head, end, _ = bytes(data[:LAYOUT_BYTES_MAX]).partition(b"\r\n\r\n")
    layout = layouts[_OBJECT] = layout_of(head + end, _OBJECTS)
    return layout


# -- Small files -------------------------------------------------------------------------------------------------------


class SmallFileBatch(ExchangeBatch):
    """PutObject of many small files.

    Attributes:
        ended: no further file is begun, because one that was sent is not proven to be stored.
        unproven: an answer was 200, but without the checksum.
    """

    def __init__(self, operation: PutFiles, sending: Sending) -> None:
        super().__init__(len(operation.files), sending)
        self.operation = operation
        self.header = CHECKSUM_HEADERS[operation.algorithm]
        self.signed = self.place.sign_payload and self.writer.signs
        self.results = operation.results
        self.ended = self.unproven = False
        self._files: Iterator[tuple[int, FileToPut]] = iter(enumerate(operation.files))

    def take(self) -> SmallPut | None:
        """The next file; after the batch has ended, an exchange that needs no connection."""
        found = next(self._files, None)
        if found is None:
            return None
        put = SmallPut(self, *found)
        withdrawn = self.operation.withdrawn
        put.given_up = self.ended or (withdrawn is not None and found[1].key in withdrawn.keys)
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

    def named(self) -> tuple[str, str]:
        """See Exchange."""
        return PutObject.name, self._file.key

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
        if batch.given_up or not (operation.withdrawn is None or operation.withdrawn.begin(file.key)):
            raise ExchangeInterrupted
        body = room[:size]
        checksum = self._checksum = checksum_of(body, operation.algorithm)
        payload_hash = UNSIGNED_PAYLOAD
        if not size:
            payload_hash = EMPTY_PAYLOAD
        elif batch.signed:
            payload_hash = hashlib.sha256(body).hexdigest()
        moment = payload_hash, batch.place.keyring.timestamp()
        only_new = operation.only_new
        return batch.writer.put_head(file.key, size, checksum, file.attributes, moment, only_new=only_new), body

    def quick(self, data: memoryview) -> bool:
        """Whether this is a usual 200 with our checksum."""
        batch, checksum, raw = self.batch, self._checksum, bytes(data)
        layouts = batch.place.layouts
        layout: Layout | None = layouts.get(batch.header)
        found = layout.pattern.fullmatch(raw) if layout is not None else None
        if layout is None or found is None:
            layout = layout_of(raw, (batch.header,))
            if layout is None or layout.length != b"0" or batch.header not in layout.groups:
                return False
            layouts[batch.header] = layout
            found = layout.pattern.fullmatch(raw)
            if found is None:
                return False
        assert checksum is not None
        if found[layout.groups[batch.header]].decode() != checksum.value:
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
        """A file that changed is the file's own failure; everything else needs the ordinary way. An object that must
        not be replaced is no reason to end the batch."""
        if isinstance(error, AsyncSinkError):
            self.batch.results[self._number] = error
        elif isinstance(error, FileRefused) and isinstance(error.error, PreconditionFailed):
            self.batch.results[self._number] = Ordinary(error.error)
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
        withdrawn, key = self.batch.operation.withdrawn, self._file.key
        if withdrawn is not None and key in withdrawn.keys:
            self.batch.outbox.put(partial(withdrawn.over, key))
        self.batch.one_over()

    @property
    def key(self) -> str:
        """Of the object."""
        return self._file.key


# -- Small objects -----------------------------------------------------------------------------------------------------


class SmallObjectBatch(ExchangeBatch):
    """GetObject of many small objects.

    Attributes:
        ended: no further object is requested, because the failure of one may be that of all.
    """

    def __init__(self, operation: GetObjects, sending: Sending) -> None:
        super().__init__(len(operation.objects), sending)
        self.operation = operation
        self.ended = False
        self._objects: Iterator[tuple[int, ObjectToGet]] = iter(enumerate(operation.objects))

    def take(self) -> SmallGet | None:
        """See ExchangeBatch; where it has ended, an exchange that needs no connection."""
        found = next(self._objects, None)
        if found is None:
            return None
        get = SmallGet(self, *found)
        get.given_up = self.ended
        return get

    def all_over(self) -> None:
        """See ExchangeBatch."""
        self.outbox.put(self.settle, len(self.operation.objects))

    def answer(self) -> ObjectsGot:
        """The number of objects that were received."""
        return ObjectsGot(received=sum(isinstance(result, ObjectData) for result in self.operation.results))


class WholeObject(InMemory):
    """A whole object, received into memory; a small one and its usual answer in one go."""

    __slots__ = ("_get", "_told")

    def __init__(self, get: GetObject, sending: Sending) -> None:
        super().__init__(get, sending)
        self._get = get
        self._told: ObjectData | None = None

    def named(self) -> tuple[str, str]:
        """See Exchange."""
        return self._get.name, self._get.key

    def begin(self, lane: Lane) -> tuple[bytes, ByteBody]:
        """Sign the request."""
        del lane
        self._told = None
        get, keyring = self._get, self._place.keyring
        if get.version_id:
            return self.head(get, EMPTY_PAYLOAD), NO_BODY
        self._signed_at = keyring.now() if self._writer.signs else None
        return self._writer.get_head(get, keyring.timestamp()), NO_BODY

    def quick(self, data: memoryview) -> bool:
        """Whether this is a usual answer with the whole object. Of the beginning of one, the head's values are kept."""
        get = self._get
        found = object_in(self._place.layouts, get, data)
        if found is None:
            return False
        told, body = found
        if len(body) != (get.length if told.object_bytes is None else told.object_bytes):
            self._told = told
            return False
        if get.into is None:
            self._received(told, bytes(body))
        else:
            get.into[: len(body)] = body
            self._received(told, get.into[: len(body)])
        return True

    def answered(self, answer: Answer) -> None:
        """Take an answer that is worded otherwise, or came in several pieces."""
        told, data = self._told, answer.data
        if told is None or data is None:
            super().answered(answer)
        elif len(data) == (self._get.length if told.object_bytes is None else told.object_bytes):
            self._received(told, data)
        else:
            super().answered(answer)

    def _received(self, told: ObjectData, data: bytes | memoryview) -> None:
        told.data = data
        self._result = told
        self.weight_bytes = len(data)


class SmallGet(WholeObject):
    """One small object of many."""

    __slots__ = ("_number", "batch")

    batch: SmallObjectBatch

    def __init__(self, batch: SmallObjectBatch, number: int, wanted: ObjectToGet) -> None:
        asked = batch.operation
        get = GetObject(
            key=wanted.key,
            length=wanted.length,
            whole=True,
            if_match=wanted.if_match,
            sse_customer_key=asked.sse_customer_key,
            ask_checksum=asked.ask_checksum,
        )
        super().__init__(get, batch.sending)
        self.batch = batch
        self._number = number

    def over(self, lane: Lane) -> None:
        """Keep the result; an error of another kind than these is left to the ordinary way, which meets it too."""
        del lane
        batch, error, result = self.batch, self._error, self._result
        place = batch.place
        if isinstance(error, FileRefused):
            place.learn(batch.writer, error)
            result = error.error
        elif isinstance(error, ExchangeError):
            result = place.failed(self._get.name, f"s3://{place.bucket}/{one_line(self._get.key, 1200)}", error)
        elif isinstance(error, AsyncSinkError):
            result = error
        elif result is not None:
            place.traffic.small_received += 1
        batch.operation.results[self._number] = result
        if error is not None and not isinstance(result, _OWN) and not isinstance(error, ExchangeInterrupted):
            batch.ended = True
        batch.one_over()


# -- Batches of HEADs --------------------------------------------------------------------------------------------------

_SAYING_MORE: Final = b"|".join([*sorted(FRAMING), b"retry-after", b"x-amz-bucket-region"])
_NOTHING_THERE: Final = (
    rb"(?i)HTTP/1\.1 404 " + TEXT + rb"(?:\r\n(?!(?:" + _SAYING_MORE + rb"):)" + LINE + rb")*\r\n\r\n"
)
"""A plain 404, without headers that mean more."""


class Heads(ExchangeBatch):
    """HEADs of many keys."""

    def __init__(self, operation: HeadObjects, sending: Sending) -> None:
        super().__init__(len(operation.keys), sending)
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
    quick_status = 404

    def __init__(self, batch: Heads, number: int, key: str) -> None:
        asked = batch.operation
        head = HeadObject(key=key, sse_customer_key=asked.sse_customer_key, ask_checksum=asked.ask_checksum)
        super().__init__(head, batch.sending)
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


def exchange_of(operation: Any, sending: Sending) -> Awaited:
    """The exchange that sends a single `operation`."""
    if isinstance(operation, GetObject) and operation.whole:
        return WholeObject(operation, sending)
    if isinstance(operation, GetObjectTo):
        return Range(operation, sending)
    if isinstance(operation, (UploadPartFrom, PutObjectFrom)):
        return FromFile(operation, sending)
    return InMemory(operation, sending)


def batch_of(operation: PutFiles | HeadObjects | GetObjects, sending: Sending) -> ExchangeBatch:
    """The batch that sends `operation`."""
    if isinstance(operation, PutFiles):
        return SmallFileBatch(operation, sending)
    if isinstance(operation, GetObjects):
        return SmallObjectBatch(operation, sending)
    return Heads(operation, sending)
