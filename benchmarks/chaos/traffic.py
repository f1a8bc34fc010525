"""What a proxy sees of a run that is to be killed: bytes, requests under way, and the moment to kill at."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from asyncsink.testing.toxics import Head, Passage, Send, Toxic
from benchmarks.chaos.plans import Kill, Phase

BODIES = ("PutObject", "UploadPart")


@dataclass(slots=True)
class Traffic:
    """Written to in the proxy's event loop, read anywhere.

    Attributes:
        body_bytes: of objects and parts that came, whether or not they were whole.
        under_way: bodies and their answers, at this moment.
        under_way_most: the most of them at once, since `watch`.
        moment: set when the kill that is waited for is due.
        killed: set once its victim is dead: a request that is to be late goes on then.
    """

    body_bytes: int = 0
    under_way: int = 0
    under_way_most: int = 0
    moment: threading.Event = field(default_factory=threading.Event)
    killed: threading.Event = field(default_factory=threading.Event)
    _kill: Kill | None = None
    _seen: int = 0

    def watch(self, kill: Kill | None) -> None:
        """An attempt begins, and `kill` is what is waited for; None is nothing."""
        self.moment, self.killed = threading.Event(), threading.Event()
        self.under_way_most = self.under_way
        self._kill, self._seen = (kill if kill is not None and kill.operation else None), 0

    def awaited(self, operation: str) -> Kill | None:
        """The kill, if the request of `operation` that has come now is the one that is waited for."""
        if self._kill is None or operation != self._kill.operation:
            return None
        self._seen += 1
        return self._kill if self._seen == self._kill.nth else None


@dataclass(frozen=True, slots=True)
class Watched(Toxic):
    """Relay a request, count its bytes, answer it a little later, and stand still where a kill is waited for.

    Attributes:
        traffic: what is counted.
        part_seconds, object_seconds: most that the answers to parts, and all others, come later.
    """

    traffic: Traffic
    part_seconds: float
    object_seconds: float

    async def play(self, passage: Passage) -> None:
        """See the class."""
        request, traffic = passage.request, self.traffic
        kill = traffic.awaited(request.operation)
        has_body = request.operation in BODIES
        moment, killed = traffic.moment, traffic.killed
        came = 0

        async def stand_still(phase: Phase) -> None:
            if kill is not None and phase == kill.phase:
                moment.set()
                await _wait_for(killed)

        async def carry(send: Send, piece: bytes) -> None:
            nonlocal came
            before, came = came, came + len(piece)
            if has_body:
                traffic.body_bytes += len(piece)
            if before <= request.body_bytes // 2 < came:
                await stand_still("body")
            await send(piece)

        async def answer(head: Head) -> None:
            await stand_still("answer")
            longest = self.part_seconds if request.operation == "UploadPart" else self.object_seconds
            await asyncio.sleep(passage.dice.uniform(0, longest))
            await passage.pass_answer(head)

        traffic.under_way += has_body
        traffic.under_way_most = max(traffic.under_way_most, traffic.under_way)
        try:
            await stand_still("request")
            if kill is not None and kill.phase == "request":
                passage.end("reset")
            await stand_still("late")
            await passage.relay(carry=carry, answer=answer)
        finally:
            traffic.under_way -= has_body


async def _wait_for(event: threading.Event) -> None:
    """In a thread of its own: the proxy's others go on meanwhile."""
    wait: Callable[[], bool] = event.wait
    await asyncio.to_thread(wait)
