"""The exchanges of many HEADs that are one operation."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from asyncsink.s3.head_objects import ABSENT, HeadObjects, HeadsDone
from asyncsink.s3.http.exchange import Exchange
from asyncsink.s3.http.exchanges import InMemory, Place, Refused
from asyncsink.s3.http.reading import FRAMING, LINE, TEXT
from asyncsink.s3.http.requests import RequestWriter
from asyncsink.s3.operations import HeadObject, ObjectHead

if TYPE_CHECKING:
    from asyncsink.s3.http.exchange import Outbox
    from asyncsink.s3.http.lane import Lane

_SAYING_MORE: Final = b"|".join([*sorted(FRAMING), b"retry-after", b"x-amz-bucket-region"])
_NOTHING_THERE: Final = (
    rb"(?i)HTTP/1\.1 404 " + TEXT + rb"(?:\r\n(?!(?:" + _SAYING_MORE + rb"):)" + LINE + rb")*\r\n\r\n"
)
"""A 404 that says no more than that nothing is there."""


class Heads:
    """A batch of HEADs on its way; `take` makes the exchanges, one for each key, when there is room for them."""

    def __init__(
        self,
        operation: HeadObjects,
        place: Place,
        writer: RequestWriter,
        outbox: Outbox,
        done: asyncio.Future[Any],
    ) -> None:
        self.operation = operation
        self.place = place
        self.writer = writer
        self.outbox = outbox
        self.done = done
        self.given_up = False
        # Counted in one step: where one lane hangs, the rest is sent by another.
        self._others = iter(range(len(operation.keys) - 1))
        self._keys = iter(enumerate(operation.keys))

    def take(self) -> OneHead | None:
        """The next exchange."""
        found = next(self._keys, None)
        return None if found is None else OneHead(self, *found)

    def has(self, exchange: Exchange) -> bool:
        """Whether an exchange is one of the batch's."""
        return isinstance(exchange, OneHead) and exchange.batch is self

    def one_over(self) -> None:
        """One exchange is over; the last one completes `done`."""
        if next(self._others, None) is None:
            self.outbox.put(self._settle)

    def _settle(self) -> None:
        if not self.done.done():
            found = sum(isinstance(result, ObjectHead) for result in self.operation.results)
            self.done.set_result(HeadsDone(found=found))


class OneHead(InMemory):
    """One of them."""

    __slots__ = ("_number", "batch")

    def __init__(self, batch: Heads, number: int, key: str) -> None:
        asked = batch.operation
        head = HeadObject(key=key, sse_customer_key=asked.sse_customer_key, ask_checksum=asked.ask_checksum)
        super().__init__(head, batch.place, batch.writer, batch.outbox, batch.done)
        self.batch = batch
        self._number = number

    def quick(self, data: memoryview) -> bool:
        """Whether this is a plain 404, and the connection serves again."""
        if re.fullmatch(_NOTHING_THERE, data) is None:
            return False
        self._result = ABSENT
        return True

    def over(self, lane: Lane) -> None:
        """Keep what it came to; what has no answer at all is for the ordinary way."""
        del lane
        batch, error = self.batch, self._error
        if isinstance(error, Refused):
            batch.place.learn(batch.writer, error)
            batch.operation.results[self._number] = error.error
        elif error is None:
            batch.operation.results[self._number] = self._result
        batch.one_over()
