"""Turns of a key: where a key can come twice in one run, its transfers follow each other in the order they came.

Two requests of one key under way at once may be carried out in either order, and nobody could say which of them the
object is. A turn lasts from before the journal is asked until the outcome is recorded, so that every transfer is told
what the one before it has left. Only sinks and streams need turns: a survey has seen every key before anything is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import anyio

from asyncsink.routing.spelling import alike


class Turns:
    """Who has which key; keys that a server may take for one are one.

    What it holds is bounded by the transfers under way, and by the callers that wait.

    Attributes:
        closed: the run is over.
    """

    def __init__(self) -> None:
        """Every key is free."""
        self._waiting: dict[str, deque[anyio.Event]] = {}
        self.closed = False

    def __repr__(self) -> str:
        return f"<Turns of {len(self._waiting)} keys>"

    async def take(self, key: str) -> None:
        """Wait until everybody who came before has ended with `key`; from then on it is the caller's, until `end`.

        Cancelled, it leaves the queue, or hands on the turn that it was just given.
        """
        if self.closed:
            return
        key = alike(key)
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = deque()
            return
        turn = anyio.Event()
        waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.end((key,))
            else:
                waiting.remove(turn)
            raise

    def end(self, keys: Iterable[str]) -> None:
        """Hand each key to whoever waits longest for it. A key that nobody took is nothing to end."""
        if not self._waiting:
            return
        for key in map(alike, keys):
            waiting = self._waiting.get(key)
            if waiting:
                waiting.popleft().set()
            elif waiting is not None:
                del self._waiting[key]

    def close(self) -> None:
        """Nothing will be recorded any more: nobody waits now or later, and finds that out by himself."""
        self.closed = True
        for waiting in self._waiting.values():
            for turn in waiting:
                turn.set()
        self._waiting.clear()
