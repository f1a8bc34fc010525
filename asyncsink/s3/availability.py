"""Availability of the server, and errors that every request of a run gets.

A request that is refused, reset, unanswered or answered 5xx by a gateway shows no fault of its own. Where no request of
the run has succeeded since the first such failure, and a small probe request fails in the same way, the server counts
as gone: failures use up no attempts, all requests wait for one probe, and continue when it is answered. After
`give_up_after_seconds` the run stops, and a service's callers get the error.

Errors that concern an option, the bucket or the credentials meet every request alike: after EQUAL_ERRORS of them the
run stops, instead of trying each remaining object.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any, Final

import anyio
import anyio.lowlevel

from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    BucketMissing,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DestinationFull,
    EntityTooLarge,
    ExpiredCredentials,
    ObjectMissing,
    PartsRefused,
    PermanentError,
    PreconditionFailed,
    RetryableError,
    ServerFault,
    Stalled,
    Throttled,
    TransferError,
    UploadConflict,
    UploadMissing,
)
from asyncsink.model import Event, GaveUp, Paused, Resumed
from asyncsink.s3.operations import HeadObject, ListObjects
from asyncsink.s3.transport import Outage, Traffic
from asyncsink.value import dataclass

PAUSE_AFTER_SECONDS: Final = 5.0
"""Seconds of failures without a success before the server is probed; shorter outages need no pause."""
PROBE_SECONDS_MIN, PROBE_SECONDS_MAX = 0.5, 30.0
"""Seconds between two probes, doubled after each; the maximum also bounds the duration of one probe."""
TOLD_SECONDS: Final = 30.0
"""Seconds between two events about one pause."""
EQUAL_ERRORS: Final = 10
"""Consecutive requests of one operation with equal errors before the cause counts as common to all."""
_OF_ONE_OBJECT = (
    PreconditionFailed, ObjectMissing, UploadMissing, UploadConflict, PartsRefused, EntityTooLarge,
)  # fmt: skip
_THAT_MATTER = frozenset({
    "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "GetObject",
})  # fmt: skip
"""Operations without which nothing is published or grabbed; credentials without read rights may still write."""
_CODES_OF_ONE_OBJECT = frozenset({"InvalidObjectState", "InvalidRange", "KeyTooLongError"})
_OF_EVERYTHING = (BucketMissing, CredentialsError, ConfigError, DestinationFull)
"""Errors that concern every further request, whatever has succeeded before."""

log = logging.getLogger("asyncsink.s3")


class Verdict(Enum):
    """The effect of a failure on the request's attempts."""

    COUNT = auto()
    """The server is available: the attempt counts."""
    AGAIN = auto()
    """The server was gone and is back: the attempt does not count."""
    OVER = auto()
    """The server has been gone for `give_up_after_seconds`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What a run does when its server is gone or refuses every request.

    Attributes:
        give_up_after_seconds: seconds without a success before the run gives up.
        tell: receives events; must not block.
        stop: ends the run with the given reason; None where a run has no end of its own, as in a service.
    """

    give_up_after_seconds: float
    tell: Callable[[Event], None]
    stop: Callable[[str], None] | None = None


def says_gone(error: BaseException) -> bool:
    """Whether a failure is one that an absent server causes. Pure."""
    if isinstance(error, Stalled):
        return True
    if not isinstance(error, (ConnectionLost, ServerFault, Throttled)):
        return False
    if isinstance(error, ConnectionLost):
        return not error.code
    bare = error.code in ("", str(error.status))
    return (error.status >= 500 or not error.status) and (bare or not isinstance(error, Throttled))


def trouble_of(error: BaseException) -> str:
    """The server's behaviour, as the rest of a sentence that begins with its name. Pure."""
    if isinstance(error, Stalled):
        return "does not answer"
    if isinstance(error, TransferError) and error.status:
        named = f" ({error.code})" if error.code not in ("", str(error.status)) else ""
        return f"answers everything with HTTP {error.status}{named}"
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionRefusedError):
            return "refuses connections"
        if isinstance(seen, socket.gaierror):
            return "has a name that cannot be resolved"
        if isinstance(seen, (ConnectionResetError, BrokenPipeError)):
            return "breaks connections off"
        seen = seen.__cause__ or seen.__context__
    text = str(error).lower()
    if "refused" in text:
        return "refuses connections"
    if "name or service" in text or "resolve" in text:
        return "has a name that cannot be resolved"
    return "cannot be reached"


class Availability:
    """Availability of one run's server, for the retry layer. Counting a success costs next to nothing.

    Args:
        endpoint: the server, for messages: "127.0.0.1:9000".
        watch: of the run.
        probe: sends one small request, past all waiting requests.
        stall_seconds: seconds of silence that precede Stalled.
        traffic: of the run, with the small files that its lanes have stored.
    """

    def __init__(
        self,
        endpoint: str,
        watch: Watch,
        probe: Callable[[], Awaitable[object]],
        *,
        stall_seconds: float,
        traffic: Traffic | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._endpoint = endpoint
        self._watch = watch
        self._probe = probe
        self._stall_seconds = stall_seconds
        self._traffic = traffic if traffic is not None else Traffic()
        self._clock = clock
        self._sleep = sleep
        self._lock = anyio.Lock()
        self._reached = False
        self._since = 0.0
        self._at_since = -1
        self._alive_at = self._back_at = self._gave_up_at = float("-inf")
        self._waiting: Counter[str] = Counter()
        self._streak: tuple[object, ...] = ()
        self._streak_keys: set[str] = set()
        self._streak_cleared = 0
        self.paused = False
        """Whether requests wait for the server."""

    def __repr__(self) -> str:
        return f"<Availability of {self._endpoint}: {'paused' if self.paused else 'there'}>"

    # -- A server that is gone -----------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Deliver an event of a request, without waiting."""
        self._watch.tell(event)

    @property
    def succeeded(self) -> int:
        """Successful requests of all operations."""
        return self._traffic.successes.total() + self._traffic.small_stored + self._traffic.small_received

    async def after(self, error: RetryableError, key: str, *, last: bool, succeeded_before: int) -> Verdict:
        """Decide whether the attempt for `key` that ended in `error` counts; waits while the server is gone.

        Args:
            last: no further attempt is left.
            succeeded_before: `succeeded` when the request failed for the first time.

        Cancelled, it stops waiting at once.
        """
        if not says_gone(error):
            self._reached = True
            return Verdict.COUNT
        succeeded = self.succeeded
        if not self._reached and not succeeded:
            return Verdict.COUNT  # never reached: a wrong endpoint is reported at once
        now = self._clock()
        if succeeded != self._at_since:
            silent = self._stall_seconds if isinstance(error, Stalled) else 0.0
            self._since, self._at_since = now - silent, succeeded
        if now - self._since < PAUSE_AFTER_SECONDS and not (last and succeeded_before == succeeded):
            return Verdict.COUNT
        self._waiting[key] += 1
        try:
            async with self._lock:
                try:
                    verdict = await self._wait(error, now)
                finally:
                    self._traffic.outage = None
            if verdict is Verdict.OVER:
                # Delivers the cancellation of a stopped run, rather than this request's own failure.
                await anyio.lowlevel.checkpoint()
            return verdict
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    async def _wait(self, error: RetryableError, failed_at: float) -> Verdict:
        """Probe until the server is back or it is time to give up. The lock admits one request at a time."""
        # Results of other requests' probes since this failure.
        if self._back_at >= failed_at:
            return Verdict.AGAIN
        if self._alive_at >= failed_at or self.succeeded != self._at_since:
            return Verdict.COUNT
        if self._gave_up_at >= failed_at:
            return Verdict.OVER
        pause, next_tell, told, waited = PROBE_SECONDS_MIN, PAUSE_AFTER_SECONDS, False, False
        while True:
            left = self._since + self._watch.give_up_after_seconds - self._clock()
            if await self._answers(min(PROBE_SECONDS_MAX, max(left, PROBE_SECONDS_MIN))):
                self.paused = False
                if told:
                    log.info("%s is back after %.0f s", self._endpoint, self._clock() - self._since)
                    self._watch.tell(Resumed(self._endpoint, self._clock() - self._since))
                if not waited:
                    return Verdict.COUNT
                self._back_at = self._alive_at
                return Verdict.AGAIN
            now = self._clock()
            left = self._since + self._watch.give_up_after_seconds - now
            if left <= 0:
                self._give_up(error)
                return Verdict.OVER
            waited = self.paused = True
            if now - self._since >= next_tell:
                next_tell, told = now - self._since + TOLD_SECONDS, True
                self._tell_pause(error, now - self._since, left)
            pause = min(pause, left)
            self._traffic.outage = Outage(
                self._endpoint, trouble_of(error), self._since, now + pause, now + left, self._files_waiting
            )
            await self._sleep(pause)
            pause = min(2 * pause, PROBE_SECONDS_MAX)

    async def _answers(self, seconds: float) -> bool:
        answered = False
        with anyio.move_on_after(seconds):
            try:
                await self._probe()
            except AsyncSinkError as error:
                answered = not says_gone(error)
            else:
                answered = True
        if answered:
            self._alive_at = self._clock()
        return answered

    @property
    def _files_waiting(self) -> int:
        return sum(1 for key in self._waiting if key)

    def _tell_pause(self, error: RetryableError, seconds: float, left: float) -> None:
        event = Paused(self._endpoint, trouble_of(error), seconds, self._files_waiting, left)
        log.warning("%s", event)
        self._watch.tell(event)

    def _give_up(self, error: RetryableError) -> None:
        self._gave_up_at = self._clock()
        seconds = self._gave_up_at - self._since
        event = GaveUp(self._endpoint, trouble_of(error), seconds)
        if self.paused:
            log.error("%s", event)
            self._watch.tell(event)
        self.paused = False
        if self._watch.stop is not None:
            self._watch.stop(str(event))

    # -- A server that refuses every request ---------------------------------------------------------------------------

    async def refused(self, name: str, key: str, error: AsyncSinkError) -> None:
        """Count a final refusal of the operation `name` for `key`, once for each key (a batch has one). Stops the run
        where every further request would get the same.

        Where requests of this operation have succeeded before, missing rights may concern some keys only: they stop the
        run only where the probe of the bucket is refused too.
        """
        self._reached = True
        if self._watch.stop is None or name not in _THAT_MATTER or isinstance(error, _OF_ONE_OBJECT):
            return
        code = error.code if isinstance(error, TransferError) else ""
        status = error.status if isinstance(error, TransferError) else 0
        if code in _CODES_OF_ONE_OBJECT:
            return
        batched = {"PutObject": self._traffic.small_stored, "GetObject": self._traffic.small_received}
        succeeded = self._traffic.successes[name] + batched.get(name, 0)
        streak = (name, type(error), code, status, succeeded)
        if streak != self._streak:
            self._streak = streak
            self._streak_keys.clear()
        self._streak_keys.add(key)
        if len(self._streak_keys) < EQUAL_ERRORS:
            return
        if succeeded and not isinstance(error, _OF_EVERYTHING):
            self._streak_keys.clear()
            if not isinstance(error, AccessDenied) or not await self._is_locked_out():
                return
        self._watch.stop(
            f"{EQUAL_ERRORS} objects in a row were refused for one cause, and none was taken meanwhile: {error}"
        )
        await anyio.lowlevel.checkpoint()

    async def _is_locked_out(self) -> bool:
        try:
            await self._probe()
        except (PermanentError, ConfigError):
            return self._traffic.successes["ListObjectsV2"] > 0
        except AsyncSinkError:
            return False
        return False


# -- The reason of a refused HEAD --------------------------------------------------------------------------------------
# The answer to a HEAD has no body (RFC 9110, 9.3.2), and 400 may mean expired credentials: S3 answers 400 both for
# ExpiredToken and for a HEAD without the object's customer key, and neither code is shown.


def is_mute(operation: object, error: BaseException) -> bool:
    """Whether `error` is the bare 400 of a HEAD. Pure."""
    return (
        isinstance(operation, HeadObject)
        and type(error) is PermanentError
        and error.status == 400
        and error.code in ("", "400")
    )


async def reason_of(
    operation: Any, refused: AsyncSinkError, send: Callable[[ListObjects], Awaitable[Any]], renewed: Callable[[], bool]
) -> AsyncSinkError:
    """The retryable error of a request whose answer has a body, in place of `refused`; else `refused`.

    Args:
        operation: the HeadObject.
        send: sends a request with the current credentials; no right to list is needed, since S3 checks the credentials
            first.
        renewed: whether the credentials have changed since the HEAD.
    """
    try:
        await send(ListObjects(prefix=operation.key, max_keys=1))
    except RetryableError as told:
        return told
    except AsyncSinkError as told:
        log.debug("a listing after a mute HEAD was refused too: %s", told)
    if renewed():
        return ExpiredCredentials(str(refused), operation=HeadObject.name, status=400)
    return refused
