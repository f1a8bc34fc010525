"""How far a run is, and how fast: pure, with a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from asyncsink.engine.recording.events import Progress, Rate, Speedometer, UnderWay
from asyncsink.report.outcomes import Counts

MIB = 1 << 20


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_that_of_the_window_and_falls_to_nothing() -> None:
    rate, now = Rate(10.0), 0.0
    for tick in range(100):
        now = tick / 10
        found = rate.at(now, tick * 100)
    assert found == pytest.approx(1000)
    falling = [rate.at(now + second, 9900) for second in range(1, 12)]
    assert falling == sorted(falling, reverse=True)
    assert falling[4] < 600
    assert falling[-1] == 0.0


def test_time_left_is_unknown_where_nothing_moves() -> None:
    clock = Clock()
    progress = Progress(objects_total=10, bytes_total=100 * MIB, started=True)
    speedometer = Speedometer(progress, clock)
    assert speedometer.read().seconds_left is None
    for _ in range(20):
        clock.now += 0.5
        progress.bytes_moved += 2 * MIB
        progress.counts.bytes_uploaded += 2 * MIB
        speed = speedometer.read()
    assert speed.bytes_per_second == pytest.approx(4 * MIB, rel=0.1)
    assert speed.seconds_left == pytest.approx(60 / 4, rel=0.1)
    for _ in range(30):
        clock.now += 0.5
        speed = speedometer.read()
    assert (speed.bytes_per_second, speed.seconds_left) == (0.0, None)


def test_what_is_there_already_needs_time_but_is_no_transfer() -> None:
    clock = Clock()
    progress = Progress(objects_total=100, bytes_total=100 * MIB, started=True)
    speedometer = Speedometer(progress, clock)
    speedometer.read()
    for _ in range(10):
        clock.now += 1
        progress.counts.bytes_skipped += MIB
        progress.counts.objects_skipped += 1
        speed = speedometer.read()
    assert speed.bytes_per_second == 0
    assert (speed.objects_per_second, speed.seconds_left) == (pytest.approx(1), pytest.approx(90))


def test_failed_bytes_are_neither_done_nor_left() -> None:
    progress = Progress(objects_total=4, bytes_total=40)
    progress.counts.objects_uploaded, progress.counts.bytes_uploaded = 1, 10
    progress.counts.objects_failed, progress.bytes_failed = 2, 20
    assert (progress.objects_done, progress.bytes_done, progress.bytes_left, progress.objects_left) == (1, 10, 10, 1)
    assert progress.done_share == 0.25


def test_bytes_of_an_attempt_that_ended_are_taken_back_and_what_moved_never_falls() -> None:
    progress = Progress(objects_total=1, bytes_total=100)
    attempt = UnderWay(progress)
    attempt.there(30)
    attempt.moved(20)
    assert (progress.bytes_under_way, progress.bytes_moved, progress.bytes_done, progress.bytes_left) == (50, 20, 0, 50)
    attempt.take_back()
    attempt.take_back()
    assert (progress.bytes_under_way, progress.bytes_moved, progress.bytes_done, progress.bytes_left) == (0, 20, 0, 100)


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        (Counts(), 0.0),
        (Counts(objects_uploaded=2, bytes_uploaded=50), 0.5),
        # The object that is there (overwrite="never") is far larger than the file.
        (Counts(objects_skipped=1, bytes_skipped=10**9), 0.99),
        (Counts(objects_uploaded=3, objects_failed=1, bytes_uploaded=100), 0.99),
        (Counts(objects_uploaded=3, objects_skipped=1, bytes_uploaded=90), 1.0),
    ],
)
def test_a_share_is_whole_only_where_everything_is_done(counts: Counts, share: float) -> None:
    assert Progress(objects_total=4, bytes_total=100, counts=counts).done_share == share


def test_empty_files_are_a_share_of_the_files() -> None:
    assert Progress(objects_total=4, bytes_total=0, counts=Counts(objects_uploaded=1)).done_share == 0.25


def test_no_share_without_totals() -> None:
    assert Progress().done_share is None
    assert Progress().bytes_left is None
