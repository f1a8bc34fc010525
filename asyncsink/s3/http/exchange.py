"""One request and its answer, as a lane carries it: awaited alone, or one of a batch; and the delivery of results to
the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from asyncsink.errors import AsyncSinkError, ClockSkew, ConfigError, ExpiredCredentials, RetryableError, Throttled
from asyncsink.integrity.checksums import ByteBody
from asyncsink.s3.endpoint import no_tls, speaks_no_tls
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX, one_line
from asyncsink.s3.get_object import GetObject, GetObjectTo, ranges_unknown
from asyncsink.s3.http.reading import (
    Answer,
    AnswerReader,
    ExchangeError,
    NoThread,
    corrected_time,
    error_of_answer,
    is_error,
)
from asyncsink.s3.http.requests import HotOperation, RequestWriter
from asyncsink.s3.operations import Operation, Response, UploadPartFrom
from asyncsink.s3.pacing import Problem
from asyncsink.s3.transport import Traffic
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.s3.http.keyring import Keyring
    from asyncsink.s3.http.lane import Lane

DELIVERED_AT_ONCE: Final = 64
"""Objects whose results are delivered in one iteration of the event loop: handling them takes some milliseconds."""
NO_BODY = b""


class ExchangeInterrupted(Exception):
    """The caller has given the exchange up."""


class Exchange:
    """A request. All methods are called in the lane's thread; each exchange ends once, by `answered` or `failed`.

    Attributes:
        bodiless: the answer has no body, whatever its headers are (HEAD).
        once: never sent a second time, not even where a kept connection proves closed.
        patient: Stalled after complete_seconds without a byte, not after stall_seconds.
        urgent: it waits neither for a token nor for the bandwidth limit.
        borrowed: the body is in the lane's own buffer, which the next exchange overwrites.
        answer_bytes_max: of the whole answer.
        batch: the operation of many requests that it belongs to, or None.
        given_up: the caller has given it up; set by the event loop.
        weight_bytes: bytes of the body in either direction, once it is over: for the pacer.
        problem: the fault, for the pacer.
    """

    __slots__ = ("given_up", "problem", "weight_bytes")

    bodiless = False
    once = False
    patient = False
    urgent = False
    borrowed = False
    answer_bytes_max = ANSWER_BYTES_MAX
    batch: object = None
    quick_status = 200
    """The status of an answer that `quick` has taken."""

    def __init__(self) -> None:
        self.given_up = False
        self.weight_bytes = 0
        self.problem: Problem = ""

    def begin(self, lane: Lane) -> tuple[bytes, ByteBody]:
        """Head and body. May read files, and may be called again for another attempt over a new connection.

        Raises:
            Exception: any exception ends the exchange: `failed` gets it, and nothing is sent.
        """
        raise NotImplementedError

    def named(self) -> tuple[str, str]:
        """S3's name of the operation, and the key of its object, or ""."""
        raise NotImplementedError

    def quick(self, data: memoryview) -> bool:
        """Whether `data`, the first bytes of the answer, are a whole usual answer, which ends the exchange and leaves
        the connection usable. False, with nothing changed: a reader gets them."""
        del data
        return False

    def reader(self, kept: AnswerReader) -> AnswerReader:
        """The reader of the answer: `kept`, begun, or one of the exchange's own."""
        kept.begin(bodiless=self.bodiless, bytes_max=self.answer_bytes_max)
        return kept

    def answered(self, answer: Answer) -> None:
        """Take the whole answer; an exception goes to `failed`."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """Take the error: there is no usable answer. Must not raise."""
        raise NotImplementedError

    def over(self, lane: Lane) -> None:
        """Called last, however it ended, when the lane has released it. Must not raise."""


class LaneWork:
    """Exchanges that are given to a lane at once, and made one by one when there is room for them.

    Args:
        take: the next exchange, or None where there are no more; called in any thread.
    """

    __slots__ = ("take",)

    def __init__(self, take: Callable[[], Exchange | None]) -> None:
        self.take = take


def single(exchange: Exchange) -> LaneWork:
    """One exchange as work."""
    left = iter((exchange,))
    return LaneWork(lambda: next(left, None))


class Outbox:
    """Functions for the event loop to call. `put` and `flush` may be called from any thread.

    Args:
        loop: calls them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._waking = False

    def __repr__(self) -> str:
        return f"<Outbox {len(self._waiting)} results waiting>"

    def put(self, function: Callable[[], None], weight: int = 1) -> None:
        """Have the event loop call `function`, which delivers results of `weight` objects, after the next `flush`."""
        self._waiting.append((function, weight))

    def flush(self) -> None:
        """Wake the event loop where functions wait and it was not woken yet."""
        if self._waiting and not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop was closed
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False
        told = 0
        while self._waiting:
            if told >= DELIVERED_AT_ONCE:
                # The tasks that were woken run before the rest is delivered.
                self._waking = True
                self._loop.call_soon(self._deliver)
                return
            function, weight = self._waiting.popleft()
            told += weight
            function()


# -- Awaited exchanges, alone and in batches ---------------------------------------------------------------------------


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
        if speaks_no_tls(failure.__cause__):
            error: AsyncSinkError = no_tls(f"{name} of {where}", self.url)
        elif isinstance(failure, NoThread):
            error = failure.error(f"{name} of {where} failed: {failure.reason}", operation=name)
        else:
            error = failure.error(
                f"{name} of {where} failed: {failure.reason} at {self.url}; look at the server and the network.",
                operation=name,
            )
        error.__cause__ = failure.__cause__
        return error

    def unanswered(
        self, operation: Operation[Any], failure: ExchangeError | ssl.SSLCertVerificationError
    ) -> AsyncSinkError:
        """The error for an operation on one object without a whole answer, or with an untrusted certificate."""
        part = f"part {operation.part_number} of " if isinstance(operation, UploadPartFrom) else ""
        where = f"{part}s3://{self.bucket}/{one_line(getattr(operation, 'key', ''), 1200)}"
        if isinstance(failure, ssl.SSLCertVerificationError):
            reason = one_line(failure.verify_message or str(failure))
            return ConfigError(
                f"{operation.name} of {where} failed: the certificate of {self.url} is not trusted ({reason}); give "
                "ca_bundle=."
            )
        if failure.overfull == 200 and isinstance(operation, (GetObject, GetObjectTo)) and not operation.whole:
            return ranges_unknown(operation.request() if isinstance(operation, GetObjectTo) else operation, self.bucket)
        return self.failed(operation.name, where, failure)

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


class Sending(NamedTuple):
    """What sends one operation.

    Attributes:
        place: where it goes.
        writer: signs.
        outbox: delivers the result.
        done: completed with the result, on the event loop.
    """

    place: BatchPlace
    writer: RequestWriter
    outbox: Outbox
    done: asyncio.Future[Any]


class ExchangeBatch:
    """Many requests that are one operation; the lane takes their exchanges one by one when there is room for them.

    Args:
        number: of the requests, at least one.
        sending: what sends the operation.

    Attributes:
        given_up: the caller was cancelled.
    """

    def __init__(self, number: int, sending: Sending) -> None:
        self.sending = sending
        self.place, self.writer, self.outbox, self.done = sending
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

    def __init__(self, sending: Sending) -> None:
        super().__init__()
        self._place, self._writer, self._outbox, self.done = sending
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
