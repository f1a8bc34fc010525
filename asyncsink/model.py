"""The values that pass between the rooms: sources, transfers, outcomes and events.

    SourceFile ──route──► Transfer ──publish──► Receipt | Skip | Failure

All are frozen, except FirstAttempt; none holds file content.
"""

from __future__ import annotations

from typing import Final, Literal, Self

from asyncsink.errors import AsyncSinkError
from asyncsink.options.schema import ObjectOptions, Overwrite
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.value import dataclass

ConfirmedBy = Literal["receipt", "server-checksum", "etag", "size", "nothing"]
"""What proves the bytes of an object: its exporter's receipt, or the server's answer, which has our checksum, an ETag
that is our MD5, the number of bytes, or nothing."""


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum as S3 writes it.

    Attributes:
        algorithm: S3's name.
        value: base64 of the big-endian digest (S3 API, "Checking object integrity").
    """

    algorithm: ChecksumAlgorithm
    value: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"


BYTES: Final = "bytes"
"""The `source` of what `put_bytes` publishes."""
STREAM: Final = "stream"
"""The `source` of what `put_stream` and `open` publish."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file that was found; or content without a file, see `is_file`.

    Attributes:
        path: absolute path, its bytes on disk decoded as UTF-8; a name that is not UTF-8 holds surrogates (PEP 383).
        size_bytes: size at discovery.
        mtime_ns: modification time at discovery, nanoseconds since the epoch.
        attribute: the DataSink attribute it arrived on ("contrasts.@con"), or "" outside DataSink's rules.
        entry: ordinal of its top-level source (a directory is one entry), from 0.
        root: absolute path of that top-level source; equal to `path` when the entry is the file itself.
        relative: path below `root`, "/"-separated; "" when the entry is the file itself.
        key: a key given explicitly (manifest, stdin), relative to the destination; None where routing derives it.
        ctime_ns, inode: by stat at discovery; 0 where there was none.
        real_path: `path` with its links followed at discovery; opened without following any; "" where it equals `path`.
        readable: its mode allows this process to read it, as far as a mode shows; False where it was not examined.
        pinned: it is published as it was found or not at all; else a file that changed before it is opened is looked at
            again.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    attribute: str = ""
    entry: int = 0
    root: str = ""
    relative: str = ""
    key: str | None = None
    ctime_ns: int = 0
    inode: int = 0
    real_path: str = ""
    readable: bool = False
    pinned: bool = False

    @property
    def is_file(self) -> bool:
        """Whether there is a file: the content of `put_bytes` and of streams has BYTES or STREAM as its path, and no
        identity but its mtime, the time of the call."""
        return self.path not in (BYTES, STREAM)


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """A found or named path that cannot be published.

    Attributes:
        path: the path; for streams "stdin line 7".
        error: a SourceError, or a ConfigError for a malformed line.
        entry: ordinal of its top-level source.
        attribute: the DataSink attribute it arrived on, or "".
        skippable: True where `on_missing="skip"` turns it into a reported Skip.
        skipped: True where it is a reported Skip with every `on_missing`: by `symlinks="skip"`, or as a FIFO, socket or
            device in a directory.
        unreadable: True where `on_unreadable="skip"` makes it a Failure, and the rest is published.
        reason: why it is skipped, as one phrase; "" for the message of `error`.
        unmatched: True where a pattern chose so: one that excludes it, or none that includes it.
    """

    path: str
    error: AsyncSinkError
    entry: int = 0
    attribute: str = ""
    skippable: bool = True
    skipped: bool = False
    unreadable: bool = False
    reason: str = ""
    unmatched: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """The destination of a source, relative to base_directory and to local_copy.

    Attributes:
        key: below base_directory, "/"-separated, no leading "/".
        local: below local_copy; differs from `key` only through full-scope substitutions.
    """

    key: str
    local: str


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of a multipart upload that the server confirmed.

    Attributes:
        part_number: from 1.
        etag: the server's, without quotes.
        checksum: of the sent bytes, or None where checksums are off.
    """

    part_number: int
    etag: str
    checksum: Checksum | None


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """An open multipart upload in the journal.

    Attributes:
        upload_id: the server's; "" where the run was killed before CreateMultipartUpload was answered.
        part_size_bytes, algorithm: of its parts.
        token: the write token of its future object.
        begun_seconds: time of its request, seconds since the epoch.
        completing: CompleteMultipartUpload was sent, and its answer is unknown.
        same_source: the source file is unchanged; only then can its parts be used.
        parts: the confirmed parts, by part number.
    """

    upload_id: str
    part_size_bytes: int
    algorithm: ChecksumAlgorithm | None
    token: str
    begun_seconds: float
    completing: bool
    same_source: bool
    parts: tuple[StoredPart, ...] = ()


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The journal's record of one transfer's key.

    Attributes:
        published: the object was confirmed for this very source file (path, size, mtime, ctime, inode) and the same
            object options; the fields below are the object's, and "" or None otherwise.
        etag, version_id, checksum: of that object.
        stale: the confirmed object has another source file or other object options: its record has to be deleted before
            the key is written to.
        upload: an upload that is still open, or None.
    """

    published: bool = False
    etag: str = ""
    version_id: str = ""
    checksum: Checksum | None = None
    upload: PendingUpload | None = None
    stale: bool = False


class FirstAttempt:
    """A failed attempt to store a file, made before its regular request: its error counts as that request's first
    attempt, so that nothing is sent to get the same error again.

    Args:
        error: the attempt's error.
        batch: identifies the attempts that were made together; "" where each counts by itself.
    """

    __slots__ = ("_error", "batch")

    def __init__(self, error: AsyncSinkError, batch: str = "") -> None:
        self._error: AsyncSinkError | None = error
        self.batch = batch

    def __repr__(self) -> str:
        return f"<FirstAttempt {self._error!r}>"

    def end(self) -> None:
        """Raise the error at the first call; return at every further one, which is a new attempt."""
        error, self._error = self._error, None
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class Transfer:
    """The publication of one source under one key.

    Attributes:
        source: the file.
        key: the whole key inside the bucket (prefix included), or the path below a local destination.
        local: path below local_copy, "/"-separated.
        known: the journal's record of it, or None.
        replaces: the ETag of an object with other content under the key, or "": the new object has another ETag.
        first: an earlier attempt to store this content by one PutObject, or None.
        objects: what its object is given besides the bytes; None is what the run gives to every object. Without a
            meaning at a local destination.
        overwrite: its policy towards an existing object; None is that of the run.
    """

    source: SourceFile
    key: str
    local: str
    known: JournalEntry | None = None
    replaces: str = ""
    first: FirstAttempt | None = None
    objects: ObjectOptions | None = None
    overwrite: Overwrite | None = None


@dataclass(frozen=True, slots=True)
class UploadCreating:
    """Upload step: CreateMultipartUpload is about to be sent. Fields as in PendingUpload and Transfer."""

    key: str
    source: SourceFile
    part_size_bytes: int
    algorithm: ChecksumAlgorithm | None
    token: str
    objects: ObjectOptions | None = None


@dataclass(frozen=True, slots=True)
class UploadOpened:
    """Upload step: the server has returned an upload id, and no part was sent yet."""

    key: str
    upload_id: str


@dataclass(frozen=True, slots=True)
class UploadPartStored:
    """Upload step: the server confirmed a part."""

    key: str
    part: StoredPart


@dataclass(frozen=True, slots=True)
class UploadCompleting:
    """Upload step: CompleteMultipartUpload is about to be sent."""

    key: str


@dataclass(frozen=True, slots=True)
class UploadGone:
    """Upload step: the server no longer has the upload: aborted, or expired."""

    key: str


@dataclass(frozen=True, slots=True)
class Resumable:
    """A large file that the next run resumes: its multipart upload stays open and recorded in the journal; of a grab,
    its ranges stay in the target directory.

    Attributes:
        source, key: as in Receipt.
        bytes_stored: of the stored parts.
        size_bytes: of the whole file.
    """

    source: str
    key: str
    bytes_stored: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A transfer that a sink had accepted and that was not published when its `close` reached its deadline.

    Attributes:
        key: the whole key.
        source, attribute: as in `put` or `submit`.
        state: "queued": no byte of it was sent. "in flight": its request was ended; a server that had the whole body
            may have published it.
    """

    key: str
    source: str
    attribute: str
    state: Literal["queued", "in flight"]


UploadStep = UploadCreating | UploadOpened | UploadPartStored | UploadCompleting | UploadGone


@dataclass(frozen=True, slots=True)
class Receipt:
    """Published, and confirmed. Of a grab: `source` is the object's "s3://bucket/key", `url` the file's path.

    Attributes:
        source: absolute path of the file; BYTES or STREAM where there was none.
        key: whole key inside the bucket, or path below a local destination.
        url: "s3://bucket/key", or the absolute path of the local file.
        size_bytes: size of the object.
        checksum: sent and confirmed, or None where checksums are off.
        etag: the server's ETag without quotes, or "".
        version_id: the object's version, or "".
        attempts: attempts of the request that needed most.
        seconds: from the first read to the last confirmation.
        local_copy: absolute path of the local copy, or "" where it was not requested or failed.
        confirmed_by: what proves the bytes.
        entry: ordinal of the top-level source.
        attribute: with which `export`, `put` or `submit` got it ("contrasts.@con"), or "".
    """

    source: str
    key: str
    url: str
    size_bytes: int
    checksum: Checksum | None
    etag: str
    version_id: str
    attempts: int
    seconds: float
    local_copy: str
    confirmed_by: ConfirmedBy
    entry: int = 0
    attribute: str = ""


@dataclass(frozen=True, slots=True)
class Skip:
    """Deliberately not sent.

    Attributes:
        source, key, url, size_bytes, checksum, etag, local_copy, entry, attribute: as in Receipt; "" or None where
            unknown.
        reason: one phrase for a person ("same checksum", "size is equal", "source is missing").
        already_there: True where the object under the key has the content that would have been sent; False where it was
            not looked for.
        version_id, attempts, confirmed_by: of the receipt on which the skip rests, if the journal or an earlier
            manifest has it; else "", 0 and "".
    """

    source: str
    key: str
    url: str
    size_bytes: int
    reason: str
    already_there: bool = True
    checksum: Checksum | None = None
    etag: str = ""
    local_copy: str = ""
    entry: int = 0
    version_id: str = ""
    attempts: int = 0
    confirmed_by: ConfirmedBy | Literal[""] = ""
    attribute: str = ""


class _Caused:
    """What an outcome has beside its fields: compared, written down and shown is the outcome without it."""

    __slots__ = ("_cause",)
    _cause: AsyncSinkError | None

    @property
    def cause(self) -> AsyncSinkError | None:
        """The error itself, with its attributes; None where the outcome was read back, as those of a report are."""
        return getattr(self, "_cause", None)

    def caused_by(self, error: AsyncSinkError) -> Self:
        """The same outcome, with its error."""
        self._cause = error
        return self


FailureStage = Literal["source", "routing", "upload", "local copy", "download", "delete"]


@dataclass(frozen=True, slots=True)
class Failure(_Caused):
    """Not published (or, for `stage="local copy"`, published but not copied).

    Attributes:
        source, key, url, entry, attribute: as in Receipt ("" where unknown).
        error: class name from asyncsink.errors.
        message: one sentence; never holds a secret.
        stage: where it failed. A failed local copy accompanies the Receipt or Skip of the same key.
        attempts: attempts of the request that failed; 0 where none was sent.
    """

    source: str
    key: str
    url: str
    error: str
    message: str
    stage: FailureStage
    attempts: int = 0
    entry: int = 0
    attribute: str = ""


@dataclass(frozen=True, slots=True)
class Planned:
    """A dry run's outcome: the file would be sent.

    Attributes:
        source, key, url, size_bytes, entry, attribute: as in Receipt.
        reason: why ("not there", "size differs", "checksum differs").
    """

    source: str
    key: str
    url: str
    size_bytes: int
    reason: str
    entry: int = 0
    attribute: str = ""


Outcome = Receipt | Skip | Failure | Planned


def promise_of(record: object) -> Receipt | Skip | None:
    """The record, where it proves that an object is in its place: a receipt, or a skip of an existing object. Pure."""
    return record if isinstance(record, Receipt) or (isinstance(record, Skip) and record.already_there) else None


Found = Transfer | SourceProblem | Skip
"""What the walk of a source gives for one entry: a routed transfer, a problem, or what is left out."""


@dataclass(frozen=True, slots=True)
class Started:
    """Event: the preflight has ended, and the first transfer is about to start.

    Attributes:
        objects_total, bytes_total: counts of the preflight; None where the source is a stream.
        transport: the lane in use and why.
    """

    objects_total: int | None
    bytes_total: int | None
    transport: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Event: a transfer ended, and its outcome is recorded."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class LimitChanged:
    """Event: adaptive concurrency changed its limit (requests in flight)."""

    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Retried:
    """Event: a request has failed, and is sent again; as many as `Report.retries` says.

    Attributes:
        operation: S3's name ("PutObject").
        key: of the object, or "".
        attempt: number of the attempt that failed, from 1.
        error: of that attempt.
        pause_seconds: until the next one.
    """

    operation: str
    key: str
    attempt: int
    error: AsyncSinkError
    pause_seconds: float


@dataclass(frozen=True, slots=True)
class Requested:
    """Event: a request to S3 has ended, whether it succeeded or not.

    Attributes:
        operation: S3's name ("PutObject").
        status: of the answer (HTTP); 0 where there was none.
        bytes: of the body, in either direction; 0 where the request failed.
        seconds: from the first byte sent to the last one received. Waiting for a connection is not included, except by
            aioboto3.
        first_byte_seconds: from the first byte sent to the first one received; None where none was, or where a caller's
            own client does not show it.
        key: of the object, or "".
        server: "host:port", or "" where a caller's own client does not show it.
    """

    operation: str
    status: int
    bytes: int
    seconds: float
    first_byte_seconds: float | None
    key: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Event: a fact for the user that is no failure ("the server ignores checksums")."""

    message: str


@dataclass(frozen=True, slots=True)
class Paused:
    """Event: the server does not answer, and the run waits for it; repeated every 30 seconds.

    Attributes:
        endpoint: the server, "127.0.0.1:9000".
        cause: its symptom ("refuses connections").
        seconds: since its first failure.
        files: number of waiting files; 0 where the waiting request belongs to no file.
        seconds_left: until the run gives up.
    """

    endpoint: str
    cause: str
    seconds: float
    files: int
    seconds_left: float

    def __str__(self) -> str:
        """One sentence: "127.0.0.1:9000 refuses connections for 14 s; 16 files wait; gives up in 9:46"."""
        files = f"; {self.files:,} {'file waits' if self.files == 1 else 'files wait'}" if self.files else ""
        left = max(0, round(self.seconds_left))
        return f"{self.endpoint} {self.cause} for {self.seconds:.0f} s{files}; gives up in {left // 60}:{left % 60:02}"


@dataclass(frozen=True, slots=True)
class Resumed:
    """Event: the server answers again after `seconds`, and the run continues."""

    endpoint: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.endpoint} is back after {self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Event: the server did not answer in time; attributes as in Paused."""

    endpoint: str
    cause: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.endpoint} {self.cause} for {self.seconds:.0f} s; given up"


Event = Started | Finished | LimitChanged | Retried | Requested | Notice | Paused | Resumed | GaveUp
