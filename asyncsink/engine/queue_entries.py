"""What stands in the queue between producer and workers: one transfer, a batch of small files, or skips.

Whoever waits for an outcome has a ticket in the entry.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import field

from asyncsink.engine.recording.recorder import Completion
from asyncsink.model import Found, Skip, Transfer
from asyncsink.value import dataclass


@dataclass(slots=True)
class Work:
    """One entry of the queue: a transfer (or what could not become one), and who waits for it.

    A caller who is cancelled cannot tell whether the queue had it already: `dropped` asks that nobody takes it, and
    `taken` says that this comes too late.
    """

    found: Found
    completion: Completion | None = None
    taken: bool = False
    dropped: bool = False


@dataclass(slots=True)
class Batch:
    """One entry of the queue: small files that one worker publishes together, each with a key of its own.

    Attributes:
        transfers: the files.
        works: of each file, where a caller may be cancelled, or waits for it; else none.
    """

    transfers: list[Transfer]
    works: list[Work] = field(default_factory=list)

    def take(self) -> dict[str, Completion]:
        """Begin with what nobody dropped, and leave the rest out; returns who waits for which key."""
        kept = [work for work in self.works if not work.dropped]
        if len(kept) < len(self.works):
            self.transfers = [work.found for work in kept if isinstance(work.found, Transfer)]
        for work in kept:
            work.taken = True
        return {
            work.found.key: work.completion for work in kept if work.completion and isinstance(work.found, Transfer)
        }


@dataclass(slots=True)
class Skipped:
    """One entry of the queue: what needs no work at all."""

    skips: list[Skip]


Entry = Work | Batch | Skipped
Submit = Callable[[Entry], Awaitable[None]]
