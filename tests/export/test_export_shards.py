"""Several machines publish the shards of one source."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.options.parse import parse_options
from asyncsink.report.outcomes import BLOCK_LINES, OutcomeLog
from asyncsink.sources.records import StreamSource

from .results import contents, records

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


async def test_shards_are_disjoint_and_together_the_whole(
    many: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    published: list[set[str]] = []
    for index in range(3):
        manifest = tmp_path / f"sent-{index}.jsonl"
        report = await asyncsink.export_directory(
            many, f"s3://{bucket}", shard=f"{index}/3", manifest=manifest, **options
        )
        keys = {record["key"] for record in records(manifest)[1:-1]}
        assert len(keys) == report.objects_uploaded == report.objects_total
        published.append(keys)
    expected = contents(many)
    assert set.union(*published) == expected.keys()
    assert sum(map(len, published)) == 300
    assert min(map(len, published)) > 50
    assert stored() == expected
    again = await asyncsink.export_directory(many, f"s3://{bucket}", shard=(1, 3), **options)
    assert (again.objects_uploaded, again.objects_skipped) == (0, len(published[1]))


async def test_out_file_lists_what_the_shard_published(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(10)]
    for path in paths:
        path.write_text("x")
    listed = []
    for index in range(2):
        report = await asyncsink.export({"@f": paths}, tmp_path / "there", shard=(index, 2))
        assert 0 < len(report.out_file) == report.objects_uploaded
        listed += report.out_file
    assert sorted(listed) == [str(tmp_path / "there" / path.name) for path in paths]


async def test_what_is_there_already_is_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a whole run, nor, beyond its first block, by a shard: a million skips would take seconds."""
    source, there, blocks = tmp_path / "source", tmp_path / "there", list[int]()
    source.mkdir()
    for number in range(3 * BLOCK_LINES):
        (source / f"{number}.txt").touch()
    await asyncsink.export_directory(source, there)
    real = OutcomeLog.read
    monkeypatch.setattr(OutcomeLog, "read", lambda self, kind, block: blocks.append(block) or real(self, kind, block))
    for shard, expected in ((None, []), ((0, 2), [0])):
        report = await asyncsink.export_directory(source, there, **({"shard": shard} if shard else {}))
        assert report.objects_skipped > BLOCK_LINES
        assert report.out_file == [str(there)]
        assert blocks == expected


async def test_a_shard_refuses_what_the_whole_would_refuse(tmp_path: Path) -> None:
    """So that no machine sends anything where another one would have to refuse."""
    good = tmp_path / "good.txt"
    good.write_text("x")
    for index in range(2):
        with pytest.raises(asyncsink.SourceMissing):
            await asyncsink.export({"@f": [good, tmp_path / "missing"]}, tmp_path / "there", shard=(index, 2))
    assert not (tmp_path / "there").exists()


async def test_an_empty_shard_says_so(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/only.txt").write_text("x")
    reports = [
        await asyncsink.export_directory(tmp_path / "tree", tmp_path / "there", shard=(index, 2)) for index in range(2)
    ]
    assert sorted(report.objects_uploaded for report in reports) == [0, 1]
    (empty,) = [report for report in reports if not report.objects_total]
    assert "of the source holds no files" in empty.notices[0]


async def test_a_stream_has_shards(tmp_path: Path) -> None:
    lines = []
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("x")
        lines.append(json.dumps({"source": str(tmp_path / f"{number}.txt"), "key": f"{number}.txt"}))
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb") as pipe:
        source = StreamSource(stream, symlinks="follow")
        pipe.write("\n".join(lines).encode())
        pipe.close()
        settings = parse_options(tmp_path / "there", {"shard": "0/2"})
        report = await run_source(settings, source)
    assert 0 < report.objects_uploaded < 20


async def test_a_sink_has_no_shards(tmp_path: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="an AsyncSink walks nothing"):
        asyncsink.AsyncSink(tmp_path, shard="0/2")
