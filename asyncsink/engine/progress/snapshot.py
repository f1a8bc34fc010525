"""Snapshots of a run, made from its counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from heapq import nlargest

from asyncsink.engine.progress.lines import FILES_SHOWN, plain_line
from asyncsink.engine.progress.speed import Speedometer
from asyncsink.engine.progress.trouble import trouble_now
from asyncsink.engine.recording.events import Progress
from asyncsink.options.progress import FileInProgress, ProgressSnapshot

LARGE_BYTES = 64 << 20
SLOW_SECONDS = 5.0
FORECAST_AFTER_SECONDS = 2.0
"""Seconds of transfers before a time left is shown: the rate of the first connections is not the rate of the run."""


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

    def read(self, *, ended: bool = False) -> ProgressSnapshot:
        """The run now, or at its end."""
        progress, now = self._progress, self._clock()
        counts, speed = progress.counts, self._speedometer.read()
        trouble = trouble_now(progress.traffic, now)
        waiting = progress.traffic.outage is not None
        if progress.started and self._started_at is None:
            self._started_at = now
        early = self._started_at is None or now - self._started_at < FORECAST_AFTER_SECONDS
        snapshot = ProgressSnapshot(
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
            ended=ended,
        )
        return replace(snapshot, line=plain_line(snapshot))

    def _largest(self, now: float) -> tuple[FileInProgress, ...]:
        shown = [
            file
            for file in self._progress.files
            if (file.size_bytes or file.bytes) > LARGE_BYTES or now - file.began > SLOW_SECONDS
        ]
        found = nlargest(FILES_SHOWN, shown, key=lambda file: (file.size_bytes or file.bytes, -file.began))
        return tuple(FileInProgress(file.name, file.size_bytes, file.bytes, now - file.began) for file in found)
