"""What the function given as `progress` is called with."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class FileInProgress:
    """A file of more than 64 MiB, or one that has taken more than five seconds, that is being transferred.

    Attributes:
        name: its path below the source, or its key.
        size_bytes: None for a stream.
        bytes_done: transferred, part by part.
        seconds: since its transfer began.
    """

    name: str
    size_bytes: int | None
    bytes_done: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSnapshot:
    """A run at one moment. Nothing in it is ever more than the report will say.

    Attributes:
        started: whether transfers run; before that, files are looked for, and `objects_found` grows.
        objects_total, bytes_total: None until they are known, and for streams.
        objects_done, bytes_done: sent, or there already; in a plan, looked at; in a verification, proven.
        objects_unchanged: those of them that were there already. objects_failed, objects_left_out: not among them.
        objects_in_flight: begun, and without an outcome yet. bytes_in_flight: of parts of large files that were
            transferred; they count as done when the whole file is.
        share: the share that is done, from 0 to 1, by bytes; None where no total is known. 1 only at the end.
        retries: requests that were sent again.
        bytes_per_second, objects_per_second: over the last seconds; 0 where nothing moves.
        seconds_left: at this speed; None where nothing moves, or no total is known.
        trouble: the server's trouble in one sentence, or "". waiting: whether everything waits for the server.
        largest: up to three of the largest files in progress.
        elapsed_seconds: since the run began. ended: whether this is the last snapshot of it.
        line: all of it in one line: "42 %  974/2,319 files  411/977 MiB  21 MiB/s  27 s left  failed 0  retried 3".
    """

    started: bool
    objects_found: int
    objects_total: int | None
    objects_done: int
    objects_unchanged: int
    objects_failed: int
    objects_left_out: int
    objects_in_flight: int
    bytes_total: int | None
    bytes_done: int
    bytes_in_flight: int
    share: float | None
    retries: int
    bytes_per_second: float
    objects_per_second: float
    seconds_left: float | None
    trouble: str
    waiting: bool
    largest: tuple[FileInProgress, ...]
    elapsed_seconds: float
    ended: bool = False
    line: str = ""

    def __str__(self) -> str:
        return self.line

    def as_dict(self) -> dict[str, Any]:
        """The attributes as JSON-ready values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["largest"] = [{each.name: getattr(file, each.name) for each in fields(file)} for file in self.largest]
        return values
