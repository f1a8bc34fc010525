"""Counts that move while a run goes on, for displays to poll."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncsink.report.counts import Counts


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        objects_total, bytes_total: from the survey; None until then, and for streams.
        objects_done: outcomes so far.
        bytes_done: bytes of files that were sent or found to be there already, part by part.
        started: True once transfers run.
        counts: what was recorded so far amounts to; those of the report, in the end.
    """

    objects_total: int | None = None
    bytes_total: int | None = None
    objects_done: int = 0
    bytes_done: int = 0
    started: bool = False
    counts: Counts = field(default_factory=Counts)
