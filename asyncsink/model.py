"""The values that travel through the rooms: what was found, where it goes, how it ended.

    SourceFile ──route──► Transfer ──publish──► Receipt | Skip | Failure

All are frozen, but for FirstAttempt; none holds file content.
"""

from __future__ import annotations

from typing import Literal

from asyncsink.errors import AsyncSinkError
from asyncsink.value import dataclass

ChecksumAlgorithm = Literal["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5"]
"""S3's names of checksum algorithms; MD5 travels as Content-MD5 and comes back as the ETag."""

ConfirmedBy = Literal["server-checksum", "etag", "size", "nothing"]
"""What the server's answer proves: it repeated our checksum, its ETag is our MD5, it has as many bytes, or nothing."""


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


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file that was found.

    Attributes:
        path: absolute path, its bytes on disk read as UTF-8; a name that is no UTF-8 holds surrogates (PEP 383).
        size_bytes: size when it was found.
        mtime_ns: modification time when it was found, nanoseconds since the epoch.
        attribute: the DataSink attribute it arrived on ("contrasts.@con"), or "" outside DataSink's rules.
        entry: ordinal of the top-level source it belongs to (a directory is one entry), from 0.
        root: absolute path of that top-level source; equal to `path` when the entry is the file itself.
        relative: path below `root`, "/"-separated; "" when the entry is the file itself.
        key: a key given explicitly (manifest, stdin), relative to the destination; None where routing decides.
        ctime_ns, inode: as stat told them when it was found; 0 where it was not asked.
        real_path: `path` with the links followed that lay on it when it was found, which is what is opened, without
            following any; "" where that is `path`.
        readable: its mode lets this process read it, as far as a mode can tell; False where nobody looked.
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


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """Something that was found, or named, but cannot be published.

    Attributes:
        path: what was named, or found in a walk; for streams "stdin line 7".
        error: a SourceError, or a ConfigError for a malformed line.
        entry: ordinal of the top-level source it belongs to.
        attribute: the DataSink attribute it arrived on, or "".
        skippable: True where `on_missing="skip"` turns it into a reported Skip.
        skipped: True where it is a reported Skip whatever `on_missing` says: `symlinks="skip"` has decided so, or it is
            a FIFO, socket or device that was met in a directory.
        unreadable: True where `on_unreadable="skip"` makes it a Failure of its own, and the rest is published.
        reason: why it is skipped, as one phrase; "" for what `error` says.
    """

    path: str
    error: AsyncSinkError
    entry: int = 0
    attribute: str = ""
    skippable: bool = True
    skipped: bool = False
    unreadable: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a source goes, relative to base_directory and to local_copy.

    Attributes:
        key: below base_directory, "/"-separated, no leading "/".
        local: below local_copy; differs from `key` only where full-scope substitutions treat the two differently.
    """

    key: str
    local: str


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of a multipart upload that the server confirmed.

    Attributes:
        part_number: from 1.
        etag: the server's, without quotes.
        checksum: what was sent, or None where checksums are off.
    """

    part_number: int
    etag: str
    checksum: Checksum | None


@dataclass(frozen=True, slots=True)
class PendingUpload:
    """A multipart upload that the journal knows, and that no run has ended.

    Attributes:
        upload_id: the server's; "" where the run was killed before CreateMultipartUpload was answered.
        part_size_bytes, algorithm: of its parts.
        token: the write token that its object will have.
        begun_seconds: when it was asked for, seconds since the epoch.
        completing: CompleteMultipartUpload was sent, and its answer is not known.
        same_source: the source file is as it was; only then are its parts of use.
        parts: what the server had confirmed, by part number.
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
    """What the journal has about one transfer's key.

    Attributes:
        published: the object was confirmed for this very source file (path, size, mtime, ctime, inode), sent with the
            same object options; the fields below are the object's, and "" or None otherwise.
        etag, version_id, checksum: of that object.
        stale: what was confirmed under the key was of another source file, or sent with other object options: the
            journal has to forget it before the key is written to.
        upload: an upload that is still open, or None.
    """

    published: bool = False
    etag: str = ""
    version_id: str = ""
    checksum: Checksum | None = None
    upload: PendingUpload | None = None
    stale: bool = False


class FirstAttempt:
    """An attempt to store a file that failed before its own way began: what it ended with counts as that way's first
    attempt, so that nothing is sent to learn the same once more.

    Args:
        error: how it ended.
    """

    __slots__ = ("_error",)

    def __init__(self, error: AsyncSinkError) -> None:
        self._error: AsyncSinkError | None = error

    def __repr__(self) -> str:
        return f"<FirstAttempt {self._error!r}>"

    def end(self) -> None:
        """Raise the error at the first call; return at every further one, which is for another attempt."""
        error, self._error = self._error, None
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class Transfer:
    """One source on its way to one key.

    Attributes:
        source: the file.
        key: the whole key inside the bucket (prefix included), or the path below a local destination.
        local: path below local_copy, "/"-separated.
        known: what the journal has about it, or None.
        replaces: the ETag of an object under the key that is known to have other content, or "": the new object cannot
            have it.
        first: an attempt to store this very content that was made already, by one PutObject, or None.
    """

    source: SourceFile
    key: str
    local: str
    known: JournalEntry | None = None
    replaces: str = ""
    first: FirstAttempt | None = None


@dataclass(frozen=True, slots=True)
class UploadCreating:
    """Upload step: CreateMultipartUpload is about to be sent. Fields as in PendingUpload."""

    key: str
    source: SourceFile
    part_size_bytes: int
    algorithm: ChecksumAlgorithm | None
    token: str


@dataclass(frozen=True, slots=True)
class UploadOpened:
    """Upload step: the server gave an upload id, and no part was sent yet."""

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
    """Upload step: the server no longer has the upload: aborted, or forgotten."""

    key: str


@dataclass(frozen=True, slots=True)
class Resumable:
    """A large file that is not there yet, and that the next run goes on with: its multipart upload stays open, and the
    journal has it; of a grab, its ranges wait in the target directory.

    Attributes:
        source, key: as in Receipt.
        bytes_stored: of the parts that are there.
        size_bytes: of all of it.
    """

    source: str
    key: str
    bytes_stored: int
    size_bytes: int


UploadStep = UploadCreating | UploadOpened | UploadPartStored | UploadCompleting | UploadGone


@dataclass(frozen=True, slots=True)
class Receipt:
    """Published, and confirmed. Of a grab: `source` is the object's "s3://bucket/key", `url` the file's path.

    Attributes:
        source: absolute path of the file.
        key: whole key inside the bucket, or path below a local destination.
        url: "s3://bucket/key", or the absolute path of the local file.
        size_bytes: size of the object.
        checksum: what was sent and confirmed, or None where checksums are off.
        etag: the server's ETag without quotes, or "".
        version_id: the object's version, or "".
        attempts: attempts of the request that needed the most of them.
        seconds: from the first read to the last confirmation.
        local_copy: absolute path of the local copy, or "" where none was asked for or it failed.
        confirmed_by: what the answer proves.
        entry: ordinal of the top-level source.
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


@dataclass(frozen=True, slots=True)
class Skip:
    """Deliberately not sent.

    Attributes:
        source, key, url, size_bytes, checksum, etag, local_copy, entry: as in Receipt ("" or None where unknown).
        reason: one phrase for a person ("same checksum", "size is equal", "source is missing").
        already_there: True where the object under the key is what would have been sent; False where none was sought.
        version_id, attempts, confirmed_by: of the receipt that the skip rests on, as far as the journal or the manifest
            of an earlier run has them; "", 0 and "" otherwise.
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


FailureStage = Literal["source", "routing", "upload", "local copy", "download"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Not published (or, for `stage="local copy"`, published but not copied).

    Attributes:
        source, key, url, entry: as in Receipt ("" where unknown).
        error: class name from asyncsink.errors.
        message: one sentence; never holds a secret.
        stage: where it failed. A failed local copy stands beside the Receipt or Skip of the same key.
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


@dataclass(frozen=True, slots=True)
class Planned:
    """A dry run's outcome: this would be sent.

    Attributes:
        source, key, url, size_bytes, entry: as in Receipt.
        reason: why ("not there", "size differs", "checksum differs").
    """

    source: str
    key: str
    url: str
    size_bytes: int
    reason: str
    entry: int = 0


Outcome = Receipt | Skip | Failure | Planned


@dataclass(frozen=True, slots=True)
class Started:
    """Event: everything was checked and the first transfer is about to start.

    Attributes:
        objects_total, bytes_total: what the preflight counted; None where the source is a stream.
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
    """Event: adaptive concurrency moved from one limit to another (requests in flight)."""

    before: int
    after: int
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Event: something a person should know that is no failure ("the server ignores checksums")."""

    message: str


@dataclass(frozen=True, slots=True)
class Paused:
    """Event: the server is gone, and the run waits for it; once more every half minute while it does.

    Attributes:
        endpoint: the server, "127.0.0.1:9000".
        cause: what it does ("refuses connections").
        seconds: since its first failure.
        files: that wait; 0 where what waits is no file's request.
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
    """Event: the server is back after so many `seconds`, and the run goes on."""

    endpoint: str
    seconds: float

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.endpoint} is back after {self.seconds:.0f} s"


@dataclass(frozen=True, slots=True)
class GaveUp:
    """Event: the server did not come back in time; attributes as in Paused."""

    endpoint: str
    cause: str
    seconds: float

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.endpoint} {self.cause} for {self.seconds:.0f} s; given up"


Event = Started | Finished | LimitChanged | Notice | Paused | Resumed | GaveUp
