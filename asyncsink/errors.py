"""Every error asyncsink raises or reports.

    AsyncSinkError
    ├ ConfigError              before any I/O
    │  ├ CredentialsError
    │  ├ WrongRegion           .region .signed_for
    │  └ RoutingError
    │     ├ InvalidKey
    │     └ KeyCollision
    ├ SourceError
    │  ├ SourceMissing
    │  ├ SourceUnreadable
    │  └ SourceChanged
    ├ TransferError            .transfer .operation .attempts .elapsed_seconds
    │  ├ RetryableError        Throttled, ConnectionLost, Stalled, RequestTimeout,
    │  │                       ServerFault, ClockSkew, ExpiredCredentials
    │  └ PermanentError        AccessDenied, BucketMissing, PreconditionFailed → AlreadyThere,
    │                          DestinationFull, EntityTooLarge, UploadMissing, UploadConflict,
    │                          PartsRefused, ObjectMissing
    ├ IntegrityError           .expected .actual
    ├ JournalError             stops the run
    ├ ExportFailed             .report holds every Failure
    │  ├ PutFailed             .failure, and .cause, which is its __cause__ too
    │  └ DeadlinePassed        also a TimeoutError
    └ GrabFailed               .report as ExportFailed

One file's failure is a value in the report. Only a ConfigError, a JournalError or a bug stops a run; an error raised
before the first byte is sent also carries `.problems`, the other faults found in the same preflight. Messages name the
source, the key, the expected and the actual value, and the remedy; they never hold a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from asyncsink.download.report import GrabReport
    from asyncsink.model import Failure, Transfer
    from asyncsink.report.report import Report


class AsyncSinkError(Exception):
    """Base of every error of this package. `str(error)` is one sentence for a person."""

    problems: Sequence[AsyncSinkError] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with the sentence alone: where more is required, unpickling would raise a
        # TypeError, at which a multiprocessing.Pool hangs.
        return _restored, (type(self), self.args), self.__dict__ | {"__cause__": self.__cause__}


def without_frames(error: AsyncSinkError) -> AsyncSinkError:
    """The error, of whose chain no frame is kept alive: frames hold the buffers of bodies."""
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is not None and link.__traceback__ is not None:
            link.__traceback__ = None
            links += [link.__cause__, link.__context__]
    return error


def _restored(kind: type[AsyncSinkError], args: tuple[Any, ...]) -> AsyncSinkError:
    error = kind.__new__(kind, *args)
    error.args = args  # a kind of OSError takes them in its __init__ only
    return error


class ConfigError(AsyncSinkError):
    """An option, a destination or a source description is wrong; nothing was sent.

    Attributes:
        option: the option that is wrong, by its name in Python, or "".
        value: what was given, where it can be shown; else None.
    """

    option: str = ""
    value: Any = None

    def __init__(self, message: str = "", *, option: str = "", value: Any = None) -> None:
        super().__init__(message)
        if option:
            self.option, self.value = option, value

    @property
    def expected(self) -> str:
        """What is taken instead, as the sentence says it, or ""."""
        return str(self).partition("; expected ")[2].removesuffix(".")

    def about(self, option: str) -> Self:
        """This error, with the option that it is about, unless it names one."""
        self.option = self.option or option
        return self


class CredentialsError(ConfigError):
    """Credentials are missing, unreadable, malformed, or unknown to the server."""


class WrongRegion(ConfigError):
    """The request was signed for another region than the bucket's, and cannot be sent there.

    Attributes:
        region: of the bucket, in the server's answer.
        signed_for: region of the request, or "".
    """

    def __init__(self, message: str, *, region: str = "", signed_for: str = "") -> None:
        super().__init__(message)
        self.region = region
        self.signed_for = signed_for


class RoutingError(ConfigError):
    """No legal key can be derived for a source."""


class InvalidKey(RoutingError):
    """The key violates S3's rules or could leave the destination prefix."""


class KeyCollision(RoutingError):
    """Two sources were routed to one key."""


class SourceError(AsyncSinkError):
    """A source file cannot be published in its present state."""


class SourceMissing(SourceError):
    """The source does not exist (any more), or is a broken link."""


class SourceUnreadable(SourceError):
    """The source exists but is not a readable regular file (permissions, FIFO, socket, device, link loop)."""


class SourceChanged(SourceError):
    """The source changed while it was being read; nothing was published under its key."""


class TransferError(AsyncSinkError):
    """A request, or the writing of a local file, failed.

    Attributes:
        transfer: the failed `model.Transfer`, or None for requests that belong to no single one.
        operation: the S3 operation's name ("PutObject"), or "local copy".
        attempts: number of times the request was sent.
        elapsed_seconds: from the first attempt to the last answer, pauses included.
    """

    def __init__(
        self,
        message: str,
        *,
        transfer: Transfer | None = None,
        operation: str = "",
        attempts: int = 1,
        elapsed_seconds: float = 0.0,
        code: str = "",
        status: int = 0,
    ) -> None:
        super().__init__(message)
        self.transfer = transfer
        self.operation = operation
        self.attempts = attempts
        self.elapsed_seconds = elapsed_seconds
        self.code = code
        """S3's own error code ("SlowDown"), or ""."""
        self.status = status
        """The HTTP status, or 0 without an answer."""


class RetryableError(TransferError):
    """Sending the same request again may succeed.

    Attributes:
        retry_after_seconds: the answer's `Retry-After` (RFC 9110, 10.2.3), or None.
    """

    retry_after_seconds: float | None = None


class Throttled(RetryableError):
    """503 SlowDown, 429 and similar answers: the whole run slows down."""


class ConnectionLost(RetryableError):
    """The connection could not be established, or was reset or closed before the answer was complete."""


class Stalled(RetryableError):
    """No byte moved in either direction for `stall_seconds`."""


class RequestTimeout(RetryableError):
    """The server stopped waiting for the request's body (400 RequestTimeout)."""


class ServerFault(RetryableError):
    """Any other 5xx, or an `<Error>` in the body of a 200."""


class ClockSkew(RetryableError):
    """The local clock differs too much from the server's (RequestTimeTooSkewed)."""


class ExpiredCredentials(RetryableError):
    """The session token expired; a refresh may give a new one."""


class PermanentError(TransferError):
    """Sending the same request again cannot succeed."""


class AccessDenied(PermanentError):
    """The credentials do not allow the operation (403, or EACCES on a local file)."""


class BucketMissing(PermanentError):
    """The bucket does not exist."""


class PreconditionFailed(PermanentError):
    """412: the object under the key does not satisfy the condition."""


class AlreadyThere(PreconditionFailed):
    """An object of another writer is under the key, and must not be replaced.

    Attributes:
        size_bytes: of that object, or None where it cannot be looked at.
        etag: of that object, without quotes, or "".
    """

    size_bytes: int | None = None
    etag: str = ""


class DestinationFull(PermanentError):
    """No space is left (ENOSPC, EDQUOT), or the server's quota is used up."""


class EntityTooLarge(PermanentError):
    """The object is larger than S3, or this server, stores."""


class UploadMissing(PermanentError):
    """The server does not know the multipart upload (NoSuchUpload)."""


class UploadConflict(PermanentError):
    """The multipart upload can never be completed; its parts have to be sent again, in a new one."""


class PartsRefused(PermanentError):
    """CompleteMultipartUpload was refused because of the stored parts.

    Attributes:
        part_numbers: those to be sent again before the upload is completed once more; () where that cannot help.
    """

    part_numbers: Sequence[int] = ()


class ObjectMissing(PermanentError):
    """No object is stored under the key (404 NoSuchKey)."""


class IntegrityError(AsyncSinkError):
    """The stored bytes are not those that were sent.

    Attributes:
        expected: the checksum, ETag or size of the bytes that were read.
        actual: the same by the server's answer.
    """

    def __init__(self, message: str, *, expected: str, actual: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class JournalError(AsyncSinkError):
    """The journal, a manifest or a temporary file of the run cannot be read or written; the run stops."""


class GrabFailed(AsyncSinkError):
    """At least one object was not grabbed, or not all were tried.

    Attributes:
        report: holds every Failure; None in another process, which a report does not travel to.
    """

    def __init__(self, message: str, *, report: GrabReport | None) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        restored, values, state = super().__reduce__()
        return restored, values, {**state, "report": None}


class ExportFailed(AsyncSinkError):
    """At least one file was not published, or not all were tried.

    Attributes:
        report: holds every Failure; None where there is none: of a single file, of a sink that was closed or has
            stopped, and in another process, which a report does not travel to.
    """

    def __init__(self, message: str, *, report: Report | None) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        restored, values, state = super().__reduce__()
        return restored, values, {**state, "report": None}


class DeadlinePassed(ExportFailed, TimeoutError):
    """One file was not published within its deadline."""


class PutFailed(ExportFailed):
    """One file was not published.

    Attributes:
        failure: its outcome, as the sink's report has it.
        cause: the error itself, with its attributes: `isinstance(error.cause, Throttled)`. Also the `__cause__`.
    """

    def __init__(self, message: str, *, failure: Failure, cause: AsyncSinkError) -> None:
        super().__init__(message, report=None)
        self.failure = failure
        self.cause = self.__cause__ = cause
