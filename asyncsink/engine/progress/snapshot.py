"""Everything that a display needs of a run, at one moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from heapq import nlargest
from typing import Any

from asyncsink.engine.progress.speed import Speedometer
from asyncsink.engine.progress.trouble import trouble_now
from asyncsink.engine.recording.events import Progress
from asyncsink.value import dataclass

FILES_SHOWN = 3
LARGE_BYTES = 64 << 20
SLOW_SECONDS = 5.0
FORECAST_AFTER_SECONDS = 2.0
"""Seconds of transfers before a time left is told: the first connections say little about it."""


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
        elapsed_seconds: since the run began.
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

    def __str__(self) -> str:
        """One line: "42 %  974/2,319 files  411/977 MiB  21 MiB/s  0:27 left  failed 0  retried 3"."""
        from asyncsink.engine.progress.lines import plain_line  # it is made of snapshots

        return plain_line(self)

    def as_dict(self) -> dict[str, Any]:
        """The attributes as JSON-ready values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["largest"] = [{each.name: getattr(file, each.name) for each in fields(file)} for file in self.largest]
        return values


class ProgressReader:
    """Reads the progress of one run; to be read several times a second, so that rates are those of the last seconds.

    Args:
        clock: seconds of time.monotonic().
    """

    def __init__(self, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._began = clock()
        self._started_at: float | None = None
        self._speedometer = Speedometer(progress, clock)

    def read(self) -> ProgressSnapshot:
        """The run now."""
        progress, now = self._progress, self._clock()
        counts, speed = progress.counts, self._speedometer.read()
        trouble = trouble_now(progress.traffic, now)
        waiting = progress.traffic.outage is not None
        if progress.started and self._started_at is None:
            self._started_at = now
        early = self._started_at is None or now - self._started_at < FORECAST_AFTER_SECONDS
        return ProgressSnapshot(
            started=progress.started,
            objects_found=progress.objects_found,
            objects_total=progress.objects_total,
            objects_done=progress.objects_done,
            objects_unchanged=counts.already_there,
            objects_failed=counts.objects_failed,
            objects_left_out=counts.not_published_total,
            objects_in_flight=progress.objects_in_hand,
            bytes_total=progress.bytes_total,
            bytes_done=progress.bytes_done,
            bytes_in_flight=progress.bytes_under_way,
            share=progress.done_share,
            retries=progress.traffic.retries,
            bytes_per_second=speed.bytes_per_second,
            objects_per_second=speed.objects_per_second,
            seconds_left=None if waiting or early else speed.seconds_left,
            trouble=trouble,
            waiting=waiting,
            largest=self._largest(now),
            elapsed_seconds=now - self._began,
        )

    def _largest(self, now: float) -> tuple[FileInProgress, ...]:
        shown = [
            file
            for file in self._progress.files
            if (file.size_bytes or file.bytes) > LARGE_BYTES or now - file.began > SLOW_SECONDS
        ]
        found = nlargest(FILES_SHOWN, shown, key=lambda file: (file.size_bytes or file.bytes, -file.began))
        return tuple(FileInProgress(file.name, file.size_bytes, file.bytes, now - file.began) for file in found)
