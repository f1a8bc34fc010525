"""Records of a manifest that do not hold, until it is known whether a later record of the same object replaces them.

A service writes one key again and again, and each receipt is in its manifest; only the last one is about today's
object. Which record is the last is looked up for the few keys that do not hold, so that memory does not grow with the
manifest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asyncsink.maintenance.prover import Promise

KEYS_MAX: Final = 100_000
"""Most keys that are kept; records of further keys that do not hold are wrong as they stand."""


class Doubts:
    """The records of one manifest that do not hold.

    Attributes:
        superseded: how many of them a later record of the same object replaces.
    """

    def __init__(self) -> None:
        self.superseded = 0
        self._last: dict[str, tuple[int, Promise, str]] = {}

    def __repr__(self) -> str:
        return f"<Doubts about {len(self._last):,} objects>"

    def add(self, number: int, promise: Promise, problem: str) -> bool:
        """Keep a record that does not hold; False where it is not kept.

        Args:
            number: of the record in the manifest.
            promise: the record.
            problem: why it does not hold.
        """
        known = self._last.get(promise.url)
        if known is None and len(self._last) >= KEYS_MAX:
            return False
        if known is not None:
            self.superseded += 1
            if known[0] > number:
                return True
        self._last[promise.url] = number, promise, problem
        return True

    def wrong(self, promises: Iterable[Promise | None]) -> list[tuple[Promise, str]]:
        """The records that no later one replaces, with their problems. `promises` are those of the manifest, again;
        reading them blocks."""
        if self._last:
            for number, promise in enumerate(promises):
                if promise is not None and promise.url in self._last and self._last[promise.url][0] < number:
                    del self._last[promise.url]
                    self.superseded += 1
        return [(promise, problem) for _, promise, problem in self._last.values()]
