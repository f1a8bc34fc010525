"""The parts of a split ask the file system and S3 no more together than one run of the whole."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.measuring.calls import measure_calls, render_calls


@pytest.mark.long
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace, which counts the calls, is not installed")
def test_parts_ask_together_what_the_whole_asks() -> None:
    told: list[str] = []
    result = measure_calls(files=300, counts=(3,), tell=told.append)
    whole, parts = result["ways"]["whole"], result["ways"]["3 parts"]
    calls = {name: sum(way["calls"].values()) for name, way in (("whole", whole["first"]), ("parts", parts["first"]))}
    calls["split"] = sum(parts["split"]["calls"].values())
    # Of the whole: a look at each file, opening it, and a look behind its last byte.
    assert calls["whole"] > 3 * 300
    assert calls["split"] + calls["parts"] <= 1.1 * calls["whole"]
    assert parts["split"]["requests"] == {}
    assert whole["first"]["requests"] == {"ListObjectsV2": 1, "PutObject": 300}
    assert parts["first"]["requests"] == {"ListObjectsV2": 3, "PutObject": 300}
    assert parts["again"]["requests"] == {"ListObjectsV2": 3}
    table = render_calls(result)
    assert "| 3 parts |" in table
    assert table.splitlines()[2].startswith(f"| whole | {calls['whole']:,} | 1.00 | 301 | 1.00 | 1 | 1 | 0 |")
