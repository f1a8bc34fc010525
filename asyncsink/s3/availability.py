"""Whether the server is there at all: what the requests of one run learn of it together.

A request that fails for want of a server (refused, reset, silent, 5xx of a gateway) says nothing about itself. Where no
request of the run has succeeded since the first such failure, and a small request of our own fails in the same way, the
server is gone: nothing uses up attempts then, all wait for one probe, and go on when it is answered. After
`give_up_after_seconds` the wait is over: a run stops, and a service's callers get the error.

Likewise errors that every request gets, because they are about an option, the bucket or the credentials: the rest of a
run is not tried one by one to learn the same thing.
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
from asyncsink.s3.transport import Traffic
from asyncsink.value import dataclass

PAUSE_AFTER_SECONDS: Final = 5.0
"""Seconds of failures without a success after which the server is probed; what passes sooner needs no pause."""
PROBE_SECONDS_MIN, PROBE_SECONDS_MAX = 0.5, 30.0
"""Seconds between two probes: twice as many after each; also the longest that one of them may take."""
TOLD_SECONDS: Final = 30.0
"""Seconds between two events about one pause."""
EQUAL_ERRORS: Final = 10
"""Requests of one kind that must fail in a row, equally, before a cause counts as that of all of them."""
_OF_ONE_OBJECT = (
    PreconditionFailed, ObjectMissing, UploadMissing, UploadConflict, PartsRefused, EntityTooLarge,
)  # fmt: skip
_THAT_MATTER = frozenset({
    "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "GetObject",
})  # fmt: skip
"""Operations without which nothing is published or grabbed; whoever may not look may still write."""
_CODES_OF_ONE_OBJECT = frozenset({"InvalidObjectState", "InvalidRange", "KeyTooLongError"})
_OF_EVERYTHING = (BucketMissing, CredentialsError, ConfigError, DestinationFull)
"""Errors that concern every further request too, whatever has succeeded before."""

log = logging.getLogger("asyncsink.s3")


class Verdict(Enum):
    """What a request does after a failure."""

    COUNT = auto()
    """The server is there: the attempt counts."""
    AGAIN = auto()
    """It was away and is back: the attempt does not count."""
    OVER = auto()
    """It has been away for too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What a run wants where its server is gone, or refuses everything.

    Attributes:
        give_up_after_seconds: without a success.
        tell: is given events; must not block.
        stop: ends the run, for the reason given; None where a run has no end of its own, as a service's.
    """

    give_up_after_seconds: float
    tell: Callable[[Event], None]
    stop: Callable[[str], None] | None = None


def says_gone(error: BaseException) -> bool:
    """Whether a request failed as it would where no server is there. Pure."""
    if isinstance(error, Stalled):
        return True
    if not isinstance(error, (ConnectionLost, ServerFault, Throttled)):
        return False
    if isinstance(error, ConnectionLost):
        return not error.code
    bare = error.code in ("", str(error.status))
    return (error.status >= 500 or not error.status) and (bare or not isinstance(error, Throttled))


def trouble_of(error: BaseException) -> str:
    """What the server does, as the rest of a sentence that begins with its name. Pure."""
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
    """What one run knows of its server; the layer of retries asks it. Counting a success costs next to nothing.

    Args:
        endpoint: the server, for messages: "127.0.0.1:9000".
        watch: of the run.
        probe: sends one small request, past everything that is waiting.
        stall_seconds: of silence, which have passed when Stalled is raised.
        traffic: of the run: what its lanes have stored.
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
        self.successes: Counter[str] = Counter()
        """Requests that succeeded, by the operation's name; but for small files, which lanes count."""
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

    # -- a server that is gone ---------------------------------------------------------------------------------------

    @property
    def succeeded(self) -> int:
        """Requests that have succeeded, of all kinds."""
        return self.successes.total() + self._traffic.small_stored

    async def after(self, error: RetryableError, key: str, *, last: bool, succeeded_before: int) -> Verdict:
        """What a request for `key` does after `error`; waits while the server is gone.

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
            return Verdict.COUNT  # never reached: a wrong endpoint is told at once
        now = self._clock()
        if succeeded != self._at_since:
            silent = self._stall_seconds if isinstance(error, Stalled) else 0.0
            self._since, self._at_since = now - silent, succeeded
        if now - self._since < PAUSE_AFTER_SECONDS and not (last and succeeded_before == succeeded):
            return Verdict.COUNT
        self._waiting[key] += 1
        try:
            async with self._lock:
                verdict = await self._wait(error, now)
            if verdict is Verdict.OVER:
                # Where the run was stopped, this request is not the one that failed.
                await anyio.lowlevel.checkpoint()
            return verdict
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    async def _wait(self, error: RetryableError, failed_at: float) -> Verdict:
        """Probe until the server is back, or it is time to give up. One request at a time is here."""
        # What another request has found out since.
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
            await self._sleep(min(pause, left))
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

    def _tell_pause(self, error: RetryableError, seconds: float, left: float) -> None:
        files = sum(1 for key in self._waiting if key)
        event = Paused(self._endpoint, trouble_of(error), seconds, files, left)
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

    # -- a server that refuses everything ----------------------------------------------------------------------------

    async def refused(self, name: str, key: str, error: AsyncSinkError) -> None:
        """Note that a request of the operation `name` for `key` was refused for good. Stops the run where this is what
        every further one gets too.

        Where requests of this kind have succeeded before, rights that are missing may be those for some keys only:
        then they count where not even the bucket may be asked any more.
        """
        self._reached = True
        if self._watch.stop is None or name not in _THAT_MATTER or isinstance(error, _OF_ONE_OBJECT):
            return
        code = error.code if isinstance(error, TransferError) else ""
        status = error.status if isinstance(error, TransferError) else 0
        if code in _CODES_OF_ONE_OBJECT:
            return
        succeeded = self.successes[name] + (self._traffic.small_stored if name == "PutObject" else 0)
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
            return self.successes["ListObjectsV2"] > 0
        except AsyncSinkError:
            return False
        return False


# -- Why a HEAD was refused: its answer has no body, and 400 can mean credentials that have ended (RFC 9110, 9.3.2) ----
# S3 answers ExpiredToken with 400, and so it does a HEAD without an object's customer key; a HEAD shows neither code.


def is_mute(operation: object, error: BaseException) -> bool:
    """Whether `error` is a HEAD's bare 400. Pure."""
    return (
        isinstance(operation, HeadObject)
        and type(error) is PermanentError
        and error.status == 400
        and error.code in ("", "400")
    )


async def reason_of(
    operation: Any, refused: AsyncSinkError, send: Callable[[ListObjects], Awaitable[Any]], renewed: Callable[[], bool]
) -> AsyncSinkError:
    """`refused`, or the retryable error that a request with a body in its answer is told in its stead.

    Args:
        operation: the HeadObject.
        send: sends a request with the credentials of this moment; no right to list is needed, since S3 looks at the
            credentials first.
        renewed: whether the credentials are others by now than those of the HEAD.
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
