"""The service that streams uploads, in small: the harness sees what is right, and what would be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.service.clients import Upload, body_of
from benchmarks.service.running import PHASES, look, measure_streams, render_streams


@pytest.mark.long
def test_a_service_that_streams_is_measured_from_its_start_to_its_end() -> None:
    told: list[str] = []
    result = measure_streams(("asyncsink",), clients=4, seconds=1.0, tell=told.append)
    run = result["runs"]["asyncsink"]
    summary = run["summary"]
    assert {name: summary[name] for name in ("half_objects", "told_and_lost", "open_uploads")} == {
        "half_objects": 0,
        "told_and_lost": 0,
        "open_uploads": 0,
    }
    assert summary["objects"] >= summary["statuses"]["201"] > 0
    assert summary["exit_code"] in (0, -15)
    assert {phase for _, phase, _ in run["samples"]} == {phase.name for phase in PHASES}
    assert render_streams(result).splitlines()[2].startswith(f"| asyncsink | {summary['objects']:,} | 0 | 0 | 0 |")
    assert len(told) == 1


def test_half_objects_and_lost_ones_are_seen(s3: Any, bucket: str) -> None:
    def upload(name: str, status: int) -> Upload:
        return Upload("calm", name, 100_000, status, vanished=False, seconds=1.0)

    whole = b"".join(body_of("whole", 100_000))
    assert len(whole) == 100_000
    s3.put_object(Bucket=bucket, Key="whole", Body=whole)
    s3.put_object(Bucket=bucket, Key="half", Body=whole[:50_000])
    s3.create_multipart_upload(Bucket=bucket, Key="begun")
    found = look(s3, [upload("whole", 201), upload("half", 0), upload("lost", 201), upload("begun", 0)], bucket)
    assert found == {"objects": 1, "half_objects": 1, "told_and_lost": 1, "open_uploads": 1}
