"""What a fault proxy can do to a request: each toxic is a small frozen dataclass. See also s3_toxics.py.

The first seven have the names that toxiproxy (https://github.com/Shopify/toxiproxy) gives them, and mean the same for
one request instead of one connection: `stream` "upstream" is the request's body, "downstream" the answer with its
headers. All sizes are bytes, all times seconds.

Each is remembered (`Passage.hit`) when it really happens: a byte of an empty body cannot be changed, and is not.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Literal

from asyncsink.testing.passage import Carry, End, Passage, Send
from asyncsink.testing.s3_requests import Head
from asyncsink.value import dataclass

Direction = Literal["upstream", "downstream"]
Phase = Literal["continue", "body", "before_answer", "answer"]


class Toxic(ABC):
    """One kind of trouble."""

    @abstractmethod
    async def play(self, passage: Passage) -> None:
        """Bring one request to its end: answer it, relay it with a fault, or cut it (raises passage.Cut)."""


async def _relay(passage: Passage, stream: Direction, carry: Carry) -> None:
    """Relay with `carry` in one direction."""
    if stream == "upstream":
        await passage.relay(carry=carry)
    else:
        await passage.relay(answer=lambda head: passage.pass_answer(head, carry))


async def _cut_after(passage: Passage, stream: Direction, size_bytes: int, end: End, name: str) -> None:
    """Let `size_bytes` of a stream through, then end the connection. A body never passes whole: its last byte stays."""
    left = size_bytes
    if stream == "upstream":
        left = max(0, min(left, passage.request.body_bytes - 1))
    if stream == "upstream" and not left:
        passage.hit(f"{name} before the body")
        passage.end(end)

    async def carry(send: Send, piece: bytes) -> None:
        nonlocal left
        if len(piece) > left:
            await send(piece[:left])
            passage.hit(f"{name} after {size_bytes} bytes {stream} at most")
            passage.end(end)
        left -= len(piece)
        await send(piece)

    await _relay(passage, stream, carry)


@dataclass(frozen=True, slots=True)
class Latency(Toxic):
    """A stream begins `seconds`, more or less up to `jitter_seconds`, later."""

    seconds: float
    jitter_seconds: float = 0.0
    stream: Direction = "downstream"

    async def play(self, passage: Passage) -> None:
        wait = max(0.0, self.seconds + passage.dice.uniform(-self.jitter_seconds, self.jitter_seconds))
        passage.hit(f"latency of {wait:.3f} s {self.stream}")
        if self.stream == "upstream":
            await asyncio.sleep(wait)
            await passage.relay()
            return

        async def answer(head: Head) -> None:
            await asyncio.sleep(wait)
            await passage.pass_answer(head)

        await passage.relay(answer=answer)


@dataclass(frozen=True, slots=True)
class Bandwidth(Toxic):
    """A stream carries so many bytes a second at most."""

    bytes_per_second: float
    stream: Direction = "upstream"

    async def play(self, passage: Passage) -> None:
        passage.hit(f"bandwidth of {self.bytes_per_second:g} bytes/s {self.stream}")

        async def carry(send: Send, piece: bytes) -> None:
            await asyncio.sleep(len(piece) / self.bytes_per_second)
            await send(piece)

        await _relay(passage, self.stream, carry)


@dataclass(frozen=True, slots=True)
class SlowClose(Toxic):
    """The connection ends after this answer, but only `seconds` later; the client is not told beforehand."""

    seconds: float

    async def play(self, passage: Passage) -> None:
        await passage.relay()
        passage.hit(f"closed {self.seconds:g} s after the answer")
        await asyncio.sleep(self.seconds)
        passage.end("close")


@dataclass(frozen=True, slots=True)
class Timeout(Toxic):
    """Nothing gets through; the connection is closed after `seconds` (0: never)."""

    seconds: float = 0.0

    async def play(self, passage: Passage) -> None:
        passage.hit(f"nothing got through, for {self.seconds:g} s" if self.seconds else "nothing got through")
        if self.seconds:
            await asyncio.sleep(self.seconds)
            passage.end("close")
        passage.end("hang")


@dataclass(frozen=True, slots=True)
class ResetPeer(Toxic):
    """The connection is reset after so many bytes of a stream; upstream always before the whole body got through."""

    after_bytes: int = 0
    stream: Direction = "upstream"

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, self.stream, self.after_bytes, "reset", "reset")


@dataclass(frozen=True, slots=True)
class Slicer(Toxic):
    """A stream comes in slices of about `average_bytes` (give or take `variation_bytes`), `delay_seconds` apart."""

    average_bytes: int
    variation_bytes: int = 0
    delay_seconds: float = 0.0
    stream: Direction = "downstream"

    async def play(self, passage: Passage) -> None:
        passage.hit(f"slices of about {self.average_bytes} bytes {self.stream}")

        async def carry(send: Send, piece: bytes) -> None:
            while piece:
                size = max(1, self.average_bytes + passage.dice.randint(-self.variation_bytes, self.variation_bytes))
                await send(piece[:size])
                piece = piece[size:]
                await asyncio.sleep(self.delay_seconds)

        await _relay(passage, self.stream, carry)


@dataclass(frozen=True, slots=True)
class LimitData(Toxic):
    """The connection is closed after so many bytes of a stream; upstream always before the whole body got through."""

    limit_bytes: int
    stream: Direction = "downstream"

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, self.stream, self.limit_bytes, "close", "closed")


@dataclass(frozen=True, slots=True)
class HalfClose(Toxic):
    """The server's side is closed after so many bytes of the body, while the client's stays open and is read."""

    after_bytes: int = 0

    async def play(self, passage: Passage) -> None:
        await _cut_after(passage, "upstream", self.after_bytes, "half_close", "half-closed")


@dataclass(frozen=True, slots=True)
class Stall(Toxic):
    """Nothing moves any more, and nobody hangs up.

    Attributes:
        phase: "continue": the head was read, and neither 100 Continue nor anything else comes; "body": `after_bytes`
            of it were read; "before_answer": the server has committed the request; "answer": 20 bytes of it came.
        after_bytes: for "body".
    """

    phase: Phase
    after_bytes: int = 65536

    async def play(self, passage: Passage) -> None:
        if self.phase == "continue":
            passage.hit("stalled before 100 Continue")
            passage.end("hang")
        if self.phase == "body":
            await _cut_after(passage, "upstream", self.after_bytes, "hang", "stalled in the body")
        elif self.phase == "answer":
            await _cut_after(passage, "downstream", 20, "hang", "stalled in the answer")
        else:
            await withhold(passage, "hang", "stalled before")


async def withhold(passage: Passage, end: End, word: str) -> None:
    """Have the server do what it was asked for, keep its answer, and end the connection."""

    async def answer(head: Head) -> None:
        await passage.whole_body(head)
        passage.hit(f"{word} the answer {head.status}")
        passage.end(end)

    await passage.relay(answer=answer)
