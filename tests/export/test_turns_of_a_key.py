"""One key twice in one run: the last one that came is what the object is, and what the journal says that it is."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.engine.transfer.outcomes import REPEATED
from asyncsink.engine.transfer.publisher import open_as_found
from asyncsink.integrity.sameness import UNCHANGED_REASON
from asyncsink.model import SourceFile
from asyncsink.options.parse import parse_options
from asyncsink.options.settings import WRITE_METADATA_NAME
from asyncsink.sources.records import StreamSource
from tests.support.holding_proxy import Held, HoldingProxy

from .killed import killed_in_an_upload

TOKEN = {WRITE_METADATA_NAME: "t" * 32}
"""What the journal of the killed run says."""
pytestmark = pytest.mark.anyio
MIB = 1 << 20
Stored = Callable[[], dict[str, bytes]]


def two_files(tmp_path: Path, size_bytes: int) -> tuple[Path, Path]:
    """Two sources for one key."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.bin").write_bytes(name.encode() * size_bytes)
    return tmp_path / "a/f.bin", tmp_path / "b/f.bin"


def lose_the_first_put(proxy: HoldingProxy) -> None:
    """The answer of the first PutObject never comes."""
    held: list[str] = []

    def lose_first(name: str) -> Held:
        if name != "Put" or held:
            return ""
        held.append(name)
        return "lost"

    proxy.hold = lose_first


async def left_by_a_killed_run(s3: Any, bucket: str, file: Path, options: dict[str, Any], state: str) -> None:
    """The journal of a run that was killed while it uploaded `file` to p/f.bin, and its upload."""
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key="p/f.bin", Metadata=TOKEN)["UploadId"]
    completing = state == "completing"
    await killed_in_an_upload(bucket, file, options, "p/f.bin", upload_id=upload_id, completing=completing)


@pytest.mark.parametrize("state", ["open", "completing"])
async def test_whoever_is_faster_leaves_the_upload_of_a_killed_run_to_whoever_came_first(
    tmp_path: Path,
    bucket: str,
    s3: Any,
    stored: Stored,
    options: dict[str, Any],
    state: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = two_files(tmp_path, 6 * MIB)
    options = {**options, "journal": tmp_path / "j.sqlite", "part_size_bytes": "5MiB"}
    await left_by_a_killed_run(s3, bucket, first, options, state)
    loop, going_on = asyncio.get_running_loop(), asyncio.Event()

    def slow(file: SourceFile) -> Any:
        if file.path == str(first):
            asyncio.run_coroutine_threadsafe(going_on.wait(), loop).result()
        return open_as_found(file)

    monkeypatch.setattr("asyncsink.engine.transfer.publisher.open_as_found", slow)
    async with asyncio.timeout(30):
        async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options, on_collision="last") as sink:
            await sink.submit("@", first)
            async with asyncio.TaskGroup() as group:
                group.create_task(sink.submit("@", second))
                for _ in range(100):
                    await asyncio.sleep(0)  # the second one goes as far as it can
                going_on.set()
    assert (sink.report.objects_uploaded, sink.report.objects_failed) == (2, 0)
    assert stored() == {"p/f.bin": second.read_bytes()}
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


@pytest.mark.parametrize("state", ["open", "completing"])
async def test_a_source_that_stands_twice_goes_on_where_a_killed_run_stopped(
    tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], state: str
) -> None:
    file, _ = two_files(tmp_path, 6 * MIB)
    options = {**options, "journal": tmp_path / "j.sqlite", "part_size_bytes": "5MiB"}
    await left_by_a_killed_run(s3, bucket, file, options, state)
    async with asyncio.timeout(30):
        report = await asyncsink.export({"@": [str(file)] * 2}, f"s3://{bucket}/p", **options)
    assert (report.objects_uploaded, [skip.reason for skip in report.skips]) == (1, [REPEATED])
    assert stored() == {"p/f.bin": file.read_bytes()}
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


@pytest.mark.parametrize("journalled", [True, False])
async def test_an_attempt_that_was_begun_first_never_lands_last(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], proxy: HoldingProxy, journalled: bool
) -> None:
    file = tmp_path / "f.txt"
    options = {**options, "endpoint_url": proxy.endpoint_url, "journal": tmp_path / "j.sqlite" if journalled else False}
    lose_the_first_put(proxy)
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options) as sink:
        for version in range(5):
            file.write_text(f"version {version}")
            await sink.submit("@", file)
    assert stored() == {"p/f.txt": b"version 4"}
    assert sink.report.objects_failed == 0
    if journalled:
        again = await asyncsink.export({"@": file}, f"s3://{bucket}/p", **options)
        assert [skip.reason for skip in again.skips] == [UNCHANGED_REASON]


async def test_what_is_known_is_no_skip_while_another_source_is_on_its_way_to_the_key(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    first, last = two_files(tmp_path, 100)
    options = {**options, "journal": tmp_path / "j.sqlite", "on_collision": "last"}
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options) as sink:
        await sink.put("@", last)
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options) as sink:
        await sink.submit("@", first)
        await sink.submit("@", last)
    assert (sink.report.objects_uploaded, sink.report.objects_skipped) == (2, 0)
    assert stored() == {"p/f.bin": last.read_bytes()}


@pytest.mark.parametrize("overwrite", ["checksum", "always"])
@pytest.mark.parametrize("journalled", [True, False])
async def test_the_last_line_of_a_stream_wins(
    tmp_path: Path,
    bucket: str,
    stored: Stored,
    options: dict[str, Any],
    proxy: HoldingProxy,
    journalled: bool,
    overwrite: str,
) -> None:
    files = two_files(tmp_path, 100)
    options = {**options, "endpoint_url": proxy.endpoint_url, "journal": tmp_path / "j.sqlite" if journalled else False}
    lose_the_first_put(proxy)
    lines = "".join(json.dumps({"source": str(path), "key": "k"}) + "\n" for path in (*files, *files))
    settings = parse_options(f"s3://{bucket}/p", {**options, "on_collision": "last", "overwrite": overwrite})
    async with asyncio.timeout(60):
        report = await run_source(settings, StreamSource(io.StringIO(lines)))
    assert (report.objects_uploaded, report.objects_failed) == (4, 0)
    assert stored() == {"p/k": files[1].read_bytes()}
