"""Pure: an answer whose body is given away piece by piece as it comes, however long it is.

A piece is small enough to be in the processor's caches still when it is checksummed and written, and large enough that
threads which write to one file seldom wait for each other. Source: RFC 9112.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncsink.s3.answer_limits import ANSWER_BYTES_MAX
from asyncsink.s3.wire.reading import AnswerReader

PIECE_BYTES: Final = 1024 * 1024

Take = Callable[[int, memoryview], None]
"""Is given each piece of a body in order, with its position; the bytes are its own until it returns."""


class PieceReader(AnswerReader):
    """Reads one answer. The body of a 2xx one goes to `take`; that of any other is in the answer, as usual.

    Args:
        length: most bytes that the body may have; of one that says it has more, none is waited for.
        buffer: where pieces are received; PIECE_BYTES serve well.
        take: see Take. What it raises comes out of `feed` and `received_into_room`.
    """

    def __init__(self, length: int, buffer: memoryview, take: Take) -> None:
        super().__init__()
        self._length_max = length
        self._buffer = buffer
        self._take = take
        self._held = 0
        self.taken = 0
        """Bytes of the body that were given away."""
        # A coding in pieces may put as much around the bytes as there are bytes.
        self.begin(bodiless=False, bytes_max=ANSWER_BYTES_MAX + 2 * length)

    def __repr__(self) -> str:
        return f"<PieceReader: {self.taken} bytes of {self._length_max} at most, status {self.status}>"

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes may be received without being fed."""
        if not self._unparsed:
            return None
        return self._buffer[self._held : min(len(self._buffer), self._held + self._unparsed)]

    def feed(self, data: bytes | memoryview) -> None:
        """As `AnswerReader.feed`."""
        super().feed(data)
        if 200 <= self.status < 300:
            # Not in the parser's own callbacks: it would take an error of the disk for one of the answer.
            ready, self._body = self._body, []
            for piece in ready:
                self._give(memoryview(piece))

    def received_into_room(self, count: int) -> None:
        """As `AnswerReader.received_into_room`."""
        self.received += count
        self._held += count
        self._unparsed -= count
        if self._held == len(self._buffer) or not self._unparsed:
            held, self._held = self._held, 0
            self._give(self._buffer[:held])
        if not self._unparsed:
            self._complete()

    def on_headers_complete(self) -> None:
        """The status is known."""
        super().on_headers_complete()
        if 200 <= self.status < 300 and self.answer is None and self._length() > self._length_max:
            self.keep_alive = False
            self._complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        super().on_body(body)
        if self.answer is None and 200 <= self.status < 300:
            self._filled += len(body)
            if self._filled > self._length_max:
                self._bytes_max = 0

    def _give(self, piece: memoryview) -> None:
        self._take(self.taken, piece)
        self.taken += len(piece)

    def _leave_the_parser(self) -> None:
        if 200 <= self.status < 300 and self._filled < self._length() <= self._length_max:
            self._unparsed = self._length() - self._filled
            self._parser = None

    def _complete(self) -> None:
        ready = self._body if 200 <= self.status < 300 else []
        self._body = [] if ready else self._body
        super()._complete()
        self._body = ready
