"""Whole objects of many workers land together: as few hops to threads as the file system allows.

A thread that writes small files lets go of the interpreter's lock, and wants it back, several times for each; every
thread more that does so costs the event loop more than it gains. On a fast file system one is enough. On one that makes
each file wait for a server, what waits piles up, and more threads begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

import anyio.to_thread
from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from asyncsink.errors import AsyncSinkError
from asyncsink.grabbing.landing import Body, Landing
from asyncsink.integrity.received import Proof

HOP_BODIES_MAX: Final = 64
"""What one hop takes; where so many wait, another begins beside it."""

Landed = list[Proof | AsyncSinkError]


class Lander:
    """Gives what workers received to threads that land it.

    Args:
        landing: puts the files in place.
        threads: bounds the threads.
        group: its tasks wait for the threads; it must end after the workers that call `land`.
    """

    def __init__(self, landing: Landing, threads: CapacityLimiter, group: TaskGroup) -> None:
        self._landing = landing
        self._threads = threads
        self._group = group
        self._waiting: list[tuple[Sequence[Body], asyncio.Future[Landed]]] = []
        self._bodies = 0
        self._hops = 0

    def __repr__(self) -> str:
        return f"<Lander {self._bodies} bodies waiting, {self._hops} hops>"

    async def land(self, bodies: Sequence[Body]) -> Landed:
        """As `Landing.land`. Cancelled, it does not wait; the group does, for the threads at work."""
        landed: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self._waiting.append((bodies, landed))
        self._bodies += len(bodies)
        if not self._hops or (self._bodies >= HOP_BODIES_MAX and self._hops < self._threads.total_tokens):
            self._hops += 1
            self._group.start_soon(self._hop)
        return await landed

    async def _hop(self) -> None:
        try:
            while self._waiting:
                taken = self._taken()
                bodies = [body for group, _ in taken for body in group]
                results = await anyio.to_thread.run_sync(partial(self._landing.land, bodies), limiter=self._threads)
                start = 0
                for group, landed in taken:
                    if not landed.done():  # cancelled otherwise
                        landed.set_result(results[start : start + len(group)])
                    start += len(group)
        finally:
            self._hops -= 1

    def _taken(self) -> list[tuple[Sequence[Body], asyncio.Future[Landed]]]:
        count = bodies = 0
        for group, _ in self._waiting:
            if count and bodies + len(group) > HOP_BODIES_MAX:
                break
            count += 1
            bodies += len(group)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._bodies -= bodies
        return taken
