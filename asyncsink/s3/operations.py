"""The S3 operations asyncsink uses, one small dataclass each, and their answers.

An operation names no bucket and no credentials: a Transport is bound to its target. Checksums travel as
`model.Checksum`; ETags come back without their quotes. Responses carry `attempts`, which the retrying layer sets.

Source: Amazon S3 API Reference, the page of each operation's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import field
from datetime import datetime
from typing import Any, ClassVar, Final, Generic, NamedTuple, Protocol, TypeVar

from asyncsink.errors import AsyncSinkError, ObjectMissing
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import Checksum, FirstAttempt
from asyncsink.options.settings import GIB, MIB, ChecksumAlgorithm
from asyncsink.value import dataclass

PART_SIZE_BYTES_MIN = 5 * MIB
PART_SIZE_BYTES_MAX = 5 * GIB
PARTS_MAX = 10_000
OBJECT_SIZE_BYTES_MAX = 50 * 1000**4
"""What S3's service model allows (50 TB); 10,000 parts of 5 GiB would be a little more."""
MD5_ETAG_SSE = ("", "AES256")
"""Encryptions under which the ETag of an object that was sent whole is its MD5 (S3 API, "Object")."""

R = TypeVar("R", bound="Response")


@dataclass(slots=True, kw_only=True)
class Response:
    """Fields of every answer. `attempts` is the number of times that the request was sent."""

    attempts: int = 1

    @property
    def successes(self) -> int:
        """Successful requests to count for this answer."""
        return 1

    @property
    def object_bytes_received(self) -> int:
        """Bytes of an object that came with this answer."""
        return 0


@dataclass(slots=True, kw_only=True)
class ObjectStored(Response):
    """Answer to PutObject, UploadPart and CompleteMultipartUpload.

    Attributes:
        etag: without quotes, or "".
        checksum: the server's, or None where it sent none.
        version_id: or "".
        sse: the server-side encryption that was used ("AES256", "aws:kms", …, "customer" for SSE-C), or "".
        md5_instead: the body went with Content-MD5 where another checksum was requested (`s3.checksum_headers`).
    """

    etag: str = ""
    checksum: Checksum | None = None
    version_id: str = ""
    sse: str = ""
    md5_instead: bool = False


@dataclass(slots=True, kw_only=True)
class StoredFrom(ObjectStored):
    """Answer to UploadPartFrom and PutObjectFrom.

    Attributes:
        sent: the checksum of the bytes that were read and sent, by the requested algorithm, whatever the header had;
            None where none was requested.
    """

    sent: Checksum | None = None


@dataclass(slots=True, kw_only=True)
class UploadCreated(Response):
    """Answer to CreateMultipartUpload."""

    upload_id: str


@dataclass(slots=True, kw_only=True)
class Done(Response):
    """An answer that holds nothing of interest.

    Attributes:
        was_there: False where the upload or object to be removed did not exist, as far as the server shows.
    """

    was_there: bool = True


@dataclass(slots=True, kw_only=True)
class ObjectHead(Response):
    """Answer to HeadObject.

    Attributes:
        size_bytes: of the object, or of the requested part.
        etag: without quotes.
        checksums: every checksum that the server sent, by algorithm.
        composite: True where they are checksums of part checksums (x-amz-checksum-type: COMPOSITE).
        last_modified: timezone-aware, or None.
        metadata: user metadata, lower-case names.
        version_id, sse, content_type, storage_class: or "".
        parts_count: of a multipart object where the server sends it (HEAD with a part number), or None.
    """

    size_bytes: int
    etag: str = ""
    checksums: Mapping[ChecksumAlgorithm, str] = field(default_factory=dict)
    composite: bool = False
    last_modified: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    version_id: str = ""
    sse: str = ""
    content_type: str = ""
    storage_class: str = ""
    parts_count: int | None = None


@dataclass(slots=True, frozen=True)
class ListedObject:
    """One object of a listing; `etag` without quotes or "", `last_modified` timezone-aware or None."""

    key: str
    size_bytes: int
    etag: str
    last_modified: datetime | None


@dataclass(slots=True, kw_only=True)
class ObjectPage(Response):
    """One page of ListObjectsV2, keys in UTF-8 byte order.

    Attributes:
        vague: keys of entries without a valid size, which a HEAD can give.
        unnamed: entries without a key.
        next_token, next_after: the start of the next page; both are "" on the last one.
    """

    objects: tuple[ListedObject, ...] = ()
    vague: tuple[str, ...] = ()
    unnamed: int = 0
    next_token: str = ""
    next_after: str = ""


@dataclass(slots=True, frozen=True)
class ListedPart:
    """One part on the server."""

    part_number: int
    size_bytes: int
    etag: str
    checksum: Checksum | None = None


@dataclass(slots=True, kw_only=True)
class PartPage(Response):
    """One page of ListParts; `next_marker` is None on the last one."""

    parts: tuple[ListedPart, ...] = ()
    next_marker: int | None = None


@dataclass(slots=True, frozen=True)
class ListedUpload:
    """One multipart upload that is neither complete nor aborted. `initiated` is None where the server names no time."""

    key: str
    upload_id: str
    initiated: datetime | None


@dataclass(slots=True, kw_only=True)
class UploadPage(Response):
    """One page of ListMultipartUploads; the markers are "" on the last one. `answered` is the server's time; `unnamed`
    counts entries without a key or an upload id."""

    answered: datetime | None = None
    uploads: tuple[ListedUpload, ...] = ()
    unnamed: int = 0
    next_key_marker: str = ""
    next_upload_id_marker: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class Operation(Generic[R]):
    """One request. `name` is S3's name; `idempotent`: sending it twice is the same as once."""

    name: ClassVar[str]
    idempotent: ClassVar[bool] = True


@dataclass(slots=True, frozen=True, kw_only=True)
class ObjectAttributes:
    """An object's attributes besides its bytes; the fields of options.schema.ObjectOptions with the content type
    decided.

    Attributes:
        sse_customer_key: 32 bytes, or None. The transports derive the key's MD5.
    """

    content_type: str = ""
    sse: str = ""
    sse_kms_key_id: str = ""
    sse_customer_key: Any = None
    storage_class: str = ""
    acl: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()


NO_ATTRIBUTES = ObjectAttributes()


@dataclass(slots=True, frozen=True, kw_only=True)
class PutObject(Operation[ObjectStored]):
    """Store `body` (0 bytes to 5 GiB) under `key`, with `checksum` in a header.

    `only_new` sends `If-None-Match: *`: 412 where anything is there. `write_token` becomes user metadata, or is "".
    `first` is an earlier attempt, or None.
    """

    name: ClassVar[str] = "PutObject"
    key: str
    body: ByteBody
    checksum: Checksum | None = None
    attributes: ObjectAttributes = NO_ATTRIBUTES
    only_new: bool = False
    write_token: str = ""
    first: FirstAttempt | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class CreateMultipartUpload(Operation[UploadCreated]):
    """Begin a multipart upload. `algorithm` requests full-object checksums where S3 has them (CRC family);
    `write_token` is as in PutObject."""

    name: ClassVar[str] = "CreateMultipartUpload"
    idempotent: ClassVar[bool] = False
    key: str
    algorithm: ChecksumAlgorithm | None = None
    attributes: ObjectAttributes = NO_ATTRIBUTES
    write_token: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class UploadPart(Operation[ObjectStored]):
    """Store one part, numbered from 1."""

    name: ClassVar[str] = "UploadPart"
    key: str
    upload_id: str
    part_number: int
    body: ByteBody
    checksum: Checksum | None = None
    sse_customer_key: Any = None


class PartSource(Protocol):
    """A source of parts, read by several threads at once, such as `sources.reader.OpenSource`."""

    def read_part(self, offset: int, length: int, into: bytearray | memoryview | None = None) -> object:
        """Fill the first `length` bytes of `into` with those from `offset`; blocks. Raises SourceError."""
        ...


OpenPartSource = Callable[[], AbstractContextManager[PartSource]]
"""Opens a source; blocks. Opening it, and leaving the block, raise where the bytes read must not be sent."""

Confirm = Callable[[ObjectStored, memoryview, Checksum | None], None]
"""Compares an answer with the bytes that were sent, and with their checksum."""


@dataclass(slots=True, frozen=True, kw_only=True)
class UploadPartFrom(Operation[StoredFrom]):
    """UploadPart whose body is read, checksummed and sent by one thread, anew in each attempt.

    Only lanes with lane threads take it. Sending raises the errors of a Transport, SourceError where the bytes cannot
    be read, and the errors of `local` and `confirm`.

    Attributes:
        source: in use until `send` returns or raises.
        offset, length: bytes in the source.
        algorithm: of the checksum to send, or None for none.
        local: called in the thread with the bytes before they are sent; must not keep them.
        confirm: called in the thread with the answer, while the bytes are still at hand.
        md5_instead: the header has the MD5 (Content-MD5); the answer's `sent` is by `algorithm` all the same.
    """

    name: ClassVar[str] = "UploadPart"
    key: str
    upload_id: str
    part_number: int
    source: PartSource
    offset: int
    length: int
    algorithm: ChecksumAlgorithm | None = None
    sse_customer_key: Any = None
    local: Callable[[memoryview], None] | None = None
    confirm: Confirm | None = None
    md5_instead: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class PutObjectFrom(Operation[StoredFrom]):
    """PutObject whose body is a whole file: opened, read, checksummed and sent by one thread, anew in each attempt.

    Only lanes with lane threads take it. Sending raises the errors of a Transport, those of opening, reading and
    closing the source (nothing was sent then), and those of `local` and `confirm`.

    Attributes:
        source: opened and closed in the thread, before anything is sent.
        length: bytes; the whole source.
        algorithm: of the checksum to send, or None for none.
        local: called in the thread with the bytes after the source was closed and before they are sent; must not keep
            them.
        confirm: called in the thread with the answer, while the bytes are still at hand.
        only_new, write_token: as in PutObject.
        md5_instead: as in UploadPartFrom.
    """

    name: ClassVar[str] = "PutObject"
    key: str
    source: OpenPartSource
    length: int
    algorithm: ChecksumAlgorithm | None = None
    attributes: ObjectAttributes = NO_ATTRIBUTES
    only_new: bool = False
    write_token: str = ""
    local: Callable[[memoryview], None] | None = None
    confirm: Confirm | None = None
    md5_instead: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class CompletedPart:
    """A part as CompleteMultipartUpload names it."""

    part_number: int
    etag: str
    checksum: Checksum | None = None


@dataclass(slots=True, frozen=True, kw_only=True)
class CompleteMultipartUpload(Operation[ObjectStored]):
    """Join the parts. `size_bytes` becomes MpuObjectSize; `checksum` is the full-object one, or None; `only_new` is as
    in PutObject."""

    name: ClassVar[str] = "CompleteMultipartUpload"
    idempotent: ClassVar[bool] = False
    key: str
    upload_id: str
    parts: tuple[CompletedPart, ...]
    size_bytes: int
    checksum: Checksum | None = None
    sse_customer_key: Any = None
    only_new: bool = False


@dataclass(slots=True, frozen=True, kw_only=True)
class AbortMultipartUpload(Operation[Done]):
    """Remove an upload and its parts. An unknown upload is no error."""

    name: ClassVar[str] = "AbortMultipartUpload"
    key: str
    upload_id: str


@dataclass(slots=True, frozen=True, kw_only=True)
class HeadObject(Operation[ObjectHead]):
    """Size, ETag and checksums of an object, or of one of its parts. `ask_checksum` requests the checksums."""

    name: ClassVar[str] = "HeadObject"
    key: str
    part_number: int | None = None
    version_id: str = ""
    sse_customer_key: Any = None
    ask_checksum: bool = True


@dataclass(slots=True, frozen=True, kw_only=True)
class ListObjects(Operation[ObjectPage]):
    """One page of ListObjectsV2, the first one behind `start_after`; with `after`, one of the older ListObjects, which
    continues after a key."""

    name: ClassVar[str] = "ListObjectsV2"
    prefix: str = ""
    start_after: str = ""
    token: str = ""
    after: str = ""
    max_keys: int = 1000


@dataclass(slots=True, frozen=True, kw_only=True)
class ListParts(Operation[PartPage]):
    """One page of an upload's parts, after part number `marker`."""

    name: ClassVar[str] = "ListParts"
    key: str
    upload_id: str
    marker: int = 0
    sse_customer_key: Any = None


@dataclass(slots=True, frozen=True, kw_only=True)
class ListMultipartUploads(Operation[UploadPage]):
    """One page of the open uploads below `prefix`."""

    name: ClassVar[str] = "ListMultipartUploads"
    prefix: str = ""
    key_marker: str = ""
    upload_id_marker: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class DeleteObject(Operation[Done]):
    """Remove an object; a missing one is no error."""

    name: ClassVar[str] = "DeleteObject"
    key: str


# -- Batches of small files --------------------------------------------------------------------------------------------
# The lane that takes a batch reads, checksums, signs and sends each file: an operation per file would cost more than
# sending it. A file without "200 with the checksum that was sent" goes the ordinary way, which continues from its
# failure, so that the fast way stays small and has no exceptions. The first such file ends the batch, so that a common
# failure is not repeated for each file.


class FileReader(Protocol):
    """Reads the files of a batch."""

    def read(self, source: Any, room: memoryview) -> bool:
        """Read a file into `room`, which has one byte more than the file's recorded size; returns whether it is
        unchanged. Raises an AsyncSinkError where it changed meanwhile."""
        ...

    def close(self) -> None:
        """End reading: there are no more files. Calling it twice is harmless."""
        ...


class FileToPut(NamedTuple):
    """One small file.

    Attributes:
        key: of the object.
        size_bytes: as recorded.
        attributes: of the object; the same value for all of a kind, so that headers are laid out once.
        source: for `FileReader.read`.
    """

    key: str
    size_bytes: int
    attributes: ObjectAttributes
    source: Any


class FileStored(NamedTuple):
    """A file answered with 200 and the checksum that was sent.

    Attributes:
        etag: without quotes, or "".
        checksum: that was sent, and that the server repeated.
        version_id, sse: as in ObjectStored.
        seconds: from reading to the answer.
    """

    etag: str
    checksum: Checksum
    version_id: str
    sse: str
    seconds: float


class Ordinary(NamedTuple):
    """A file that needs the ordinary way.

    Attributes:
        failed: the error of its sending; None where it was not sent, or where the answer proves nothing.
    """

    failed: AsyncSinkError | None = None


FileResult = FileStored | AsyncSinkError | Ordinary | None
"""Stored and proven; the error of a file that has changed; the ordinary way; or None: not begun, because another file
of the batch needs the ordinary way, or because the caller was cancelled."""


@dataclass(slots=True, kw_only=True)
class FilesPut(Response):
    """Answer to PutFiles, beside its `results`: the number of files stored, and whether a 200 came without its
    checksum."""

    stored: int = 0
    unproven: bool = False

    @property
    def successes(self) -> int:
        """0: lanes count files as they are stored (`Traffic.small_stored`)."""
        return 0


class WithdrawnFiles:
    """Files of a batch that their callers give up: what is being sent for them ends, and nothing further is sent.

    `end` ends what is being sent for a key. `over` is called on the event loop when nothing is sent for one any more.
    """

    def __init__(self, over: Callable[[str], None]) -> None:
        self.over = over
        self.end: Callable[[str], None] | None = None
        # Shared with lanes: whoever writes one of the sets reads the other one afterwards.
        self.keys, self._begun = set[str](), set[str]()

    def add(self, key: str) -> None:
        """Give a file up; on the event loop."""
        self.keys.add(key)
        if key not in self._begun:
            self.over(key)
        elif self.end:
            self.end(key)

    def begin(self, key: str) -> bool:
        """Whether a file is to be sent, from now on; in any thread."""
        self._begun.add(key)
        return key not in self.keys


@dataclass(slots=True, frozen=True, kw_only=True)
class PutFiles(Operation[FilesPut]):
    """PutObject of many small files; sending raises for the whole batch only where nothing was begun.

    Attributes:
        files: at least one.
        algorithm: of the checksum, one that servers repeat.
        reader: used in the lane's thread, and closed there after the last file.
        results: one for each file, filled as answers arrive, so that a cancelled caller has those that are stored.
        only_new: sends `If-None-Match: *`; a file whose key has an object ends as Ordinary with PreconditionFailed.
        withdrawn: files that are not to be sent any more; they have no result. None where no caller can give one up.
    """

    name: ClassVar[str] = "PutObject"
    files: Sequence[FileToPut]
    algorithm: ChecksumAlgorithm
    reader: FileReader
    results: list[FileResult]
    only_new: bool = False
    withdrawn: WithdrawnFiles | None = None


# -- Batches of HEADs, for keys that no listing covers -----------------------------------------------------------------
# An operation per key would cost more than sending it. A result that is neither an object nor a plain 404 goes the
# ordinary way, with its retries.

HeadResult = ObjectHead | AsyncSinkError | None
"""The object; the error of the request, ObjectMissing among others; or None: it was not answered."""

ABSENT: Final = ObjectMissing("Nothing is under the key.")
"""The result of a plain 404, shared because there are many; it is not raised."""


@dataclass(slots=True, kw_only=True)
class HeadsDone(Response):
    """Answer to HeadObjects, beside its `results`: the number of objects found."""

    found: int = 0

    @property
    def successes(self) -> int:
        """The number of objects found."""
        return self.found


@dataclass(slots=True, frozen=True, kw_only=True)
class HeadObjects(Operation[HeadsDone]):
    """HeadObject of many keys; sending raises for all of them only where nothing was begun.

    Attributes:
        keys: at least one.
        sse_customer_key, ask_checksum: as in HeadObject.
        results: one for each key, filled as answers arrive.
    """

    name: ClassVar[str] = "HeadObject"
    keys: Sequence[str]
    results: list[HeadResult]
    sse_customer_key: Any = None
    ask_checksum: bool = True
