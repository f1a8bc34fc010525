"""One request and its answer, as a lane carries it: what is sent, where the answer goes, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from asyncsink.s3.errors_map import ANSWER_BYTES_MAX
from asyncsink.s3.http.reading import AnswerReader
from asyncsink.s3.pacing import Problem

if TYPE_CHECKING:
    from asyncsink.s3.http.answers import Answer
    from asyncsink.s3.http.lane import Lane

TOLD_AT_ONCE: Final = 64
"""Results that are delivered in one turn of the event loop: handling them takes some milliseconds."""
Body = bytes | bytearray | memoryview
NO_BODY = b""


class ExchangeInterrupted(Exception):
    """Whoever wanted the answer has given up."""


class Exchange:
    """A request. All methods are called in the lane's thread; each exchange ends once, by `answered` or `failed`.

    Attributes:
        bodiless: the answer has no body, whatever its headers say (HEAD).
        once: never sent a second time, not even where a kept connection turns out to be closed.
        patient: it is Stalled after complete_seconds without a byte, not after stall_seconds.
        urgent: it waits neither for a token nor for its turn where the bandwidth is limited.
        borrowed: the body is in the lane's own buffer, which the next exchange overwrites.
        answer_bytes_max: of the whole answer.
        batch: the operation of many requests that it is one of, or None.
        given_up: whoever wanted the answer is gone; set by the event loop.
        weight_bytes: bytes of a body that went either way, once it is over: for the pacer.
        problem: what went wrong, for the pacer.
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

    def begin(self, lane: Lane) -> tuple[bytes, Body]:
        """Head and body. May read files, and may be called again for another attempt over a new connection.

        Raises:
            Exception: whatever it is ends the exchange: `failed` gets it, and nothing is sent.
        """
        raise NotImplementedError

    def quick(self, data: memoryview) -> bool:
        """Whether `data`, the first bytes of the answer, are all of it, and the exchange has ended by them, with a
        connection that serves again. False, with nothing changed: they are for a reader."""
        del data
        return False

    def reader(self, kept: AnswerReader) -> AnswerReader:
        """What reads the answer: `kept`, begun, or one of the exchange's own."""
        kept.begin(bodiless=self.bodiless, bytes_max=self.answer_bytes_max)
        return kept

    def answered(self, answer: Answer) -> None:
        """The whole answer; what is raised goes to `failed`."""
        raise NotImplementedError

    def failed(self, error: BaseException) -> None:
        """There is no answer that could be used. Must not raise."""
        raise NotImplementedError

    def over(self, lane: Lane) -> None:
        """Called last, however it ended, when the lane holds nothing of it any more. Must not raise."""


class LaneWork:
    """Exchanges that are given to a lane at once, made one by one when there is room for them.

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
    """Functions that the event loop is to call. `put` and `flush` may be called from any thread.

    Args:
        loop: which calls them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._waking = False

    def __repr__(self) -> str:
        return f"<Outbox {len(self._waiting)} results waiting>"

    def put(self, function: Callable[[], None], weight: int = 1) -> None:
        """Have the event loop call `function`, which tells of `weight` objects, after the next `flush`."""
        self._waiting.append((function, weight))

    def flush(self) -> None:
        """Wake the event loop where there is something for it and it was not woken yet."""
        if self._waiting and not self._waking:
            self._waking = True
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._waking = False
        told = 0
        while self._waiting:
            if told >= TOLD_AT_ONCE:
                # Whoever is woken runs in the loop's next turn: others must have theirs in between.
                self._waking = True
                self._loop.call_soon(self._deliver)
                return
            function, weight = self._waiting.popleft()
            told += weight
            function()
