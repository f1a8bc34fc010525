"""The entries of the queue between producer and workers: one transfer, a batch of small files, or skips.

An entry holds the `Completion` of each caller that waits for an outcome.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import field

from asyncsink.engine.recording.recorder import Completion
from asyncsink.model import Found, Skip, Transfer
from asyncsink.value import dataclass


@dataclass(slots=True)
class Work:
    """One entry of the queue: a transfer (or what could not become one), and the completion of its caller.

    A cancelled caller may or may not find its entry in the queue still: `dropped` asks the workers to leave it, and
    `taken` says that one has begun with it.
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
        works: one for each file, where a caller waits for it or may be cancelled; else empty.
    """

    transfers: list[Transfer]
    works: list[Work] = field(default_factory=list)

    def take(self) -> dict[str, Completion]:
        """Begin with the files that are not dropped, and remove the others; returns the completions by key."""
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
    """One entry of the queue: skips, which need no work at all."""

    skips: list[Skip]


Entry = Work | Batch | Skipped
Submit = Callable[[Entry], Awaitable[None]]
