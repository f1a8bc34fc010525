"""Turns of a key: where a key can come twice in one run, its transfers follow each other in the order they came.

Two requests of one key under way at once may be carried out in either order, and nobody could say which of them the
object is. A turn lasts from before the journal is asked until the outcome is recorded, so that every transfer is told
what the one before it has left. Only sinks and streams need turns: a survey has seen every key before anything is sent.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

import anyio

from asyncsink.routing.spelling import alike


class Turns:
    """Who has which key; keys that a server may take for one are one.

    What it holds is bounded by the transfers under way, and by the callers that wait. `enter` and `leave` may be called
    from any thread, everything else on the event loop.

    Attributes:
        closed: the run is over.
    """

    def __init__(self) -> None:
        """Every key is free."""
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self.closed = False

    def __repr__(self) -> str:
        return f"<Turns of {len(self._waiting)} keys>"

    def enter(self, key: str, given: Callable[[], None]) -> bool:
        """Whether `key` is the caller's from now on, until `end`. If not, `given` is called on the event loop as soon
        as it is: when everybody who came before has ended with it."""
        key = alike(key)
        with self._lock:
            if self.closed:
                return True
            waiting = self._waiting.get(key)
            if waiting is None:
                self._waiting[key] = deque()
                return True
            waiting.append(given)
            return False

    def leave(self, key: str, given: Callable[[], None]) -> bool:
        """Wait no more. False where `given` did not wait: it never did, or was called already."""
        with self._lock:
            waiting = self._waiting.get(alike(key))
            if waiting is None or given not in waiting:
                return False
            waiting.remove(given)
            return True

    async def take(self, key: str) -> None:
        """Wait until everybody who came before has ended with `key`; from then on it is the caller's, until `end`.

        Cancelled, it leaves the queue, or hands on the turn that it was just given.
        """
        turn = anyio.Event()
        given = turn.set
        if self.enter(key, given):
            return
        try:
            await turn.wait()
        except BaseException:
            if not self.leave(key, given):
                self.end((key,))
            raise

    def end(self, keys: Iterable[str]) -> None:
        """Hand each key to whoever waits longest for it. A key that nobody took is nothing to end."""
        if not self._waiting:
            return
        given: list[Callable[[], None]] = []
        with self._lock:
            for key in map(alike, keys):
                waiting = self._waiting.get(key)
                if waiting:
                    given.append(waiting.popleft())
                elif waiting is not None:
                    del self._waiting[key]
        for each in given:
            each()

    def close(self) -> None:
        """Nothing will be recorded any more: nobody waits now or later, and finds that out by himself."""
        with self._lock:
            self.closed = True
            given = [each for waiting in self._waiting.values() for each in waiting]
            self._waiting.clear()
        for each in given:
            each()
