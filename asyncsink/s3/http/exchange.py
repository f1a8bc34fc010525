"""One request and its answer, as a lane carries it, and the delivery of results to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from asyncsink.integrity.checksums import ByteBody
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX
from asyncsink.s3.http.reading import AnswerReader
from asyncsink.s3.pacing import Problem

if TYPE_CHECKING:
    from asyncsink.s3.http.answers import Answer
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
