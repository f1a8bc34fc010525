"""A sink that stays open: what it keeps on disk has a bound, and what is told stays true."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError, KeyCollision
from asyncsink.journal.at_rest import RETENTION_SECONDS
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.toxics import Timeout

pytestmark = pytest.mark.anyio
PART_BYTES = 5 << 20


def small(directory: Path, numbers: range) -> list[Path]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:03}" for number in numbers]
    for path in paths:
        path.write_text(path.name)
    return paths


async def test_the_newest_outcomes_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    paths = small(tmp_path / "in", range(100))
    async with asyncsink.AsyncSink(tmp_path / "out", records_max=10) as sink:
        for path in paths:
            await sink.put("m", path)
        run = sink._session.run
        assert run is not None
        with pytest.raises(ConfigError):
            await sink.put("m", tmp_path)
    report = sink.report
    assert (report.objects_uploaded, report.counts.bytes_uploaded, report.ok) == (100, 300, True)
    kept = [Path(receipt.source).name for receipt in report.receipts]
    assert 10 <= len(kept) <= 20
    assert kept == [path.name for path in paths[-len(kept) :]]
    assert report.receipts[-1] == list(report.receipts)[-1]
    assert report.receipts[2:4] == list(report.receipts)[2:4]
    assert report.outcomes_dropped == 100 - len(kept)
    assert f"{report.outcomes_dropped} older ones are counted alone (records_max)" in report.summary()
    report.raise_for_failures()


async def test_old_failures_still_raise(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(5):
        (out / "m" / f"{number:03}").mkdir(parents=True)  # a directory in the file's place
    paths = small(tmp_path / "in", range(30))
    async with asyncsink.AsyncSink(out, records_max=2) as sink:
        for path in paths:
            with contextlib.suppress(asyncsink.PutFailed):
                await sink.put("m", path)
    report = sink.report
    assert (report.objects_uploaded, report.objects_failed, report.ok) == (25, 5, False)
    assert 2 <= len(report.failures) <= 4
    with pytest.raises(asyncsink.ExportFailed, match=r"5 of 30 objects not published"):
        report.raise_for_failures()


async def test_a_key_of_two_sources_is_noticed_among_the_newest(tmp_path: Path) -> None:
    paths, others = small(tmp_path / "in", range(30)), small(tmp_path / "else", range(30))
    async with asyncsink.AsyncSink(tmp_path / "out", records_max=10) as sink:
        for path in paths:
            await sink.put("m", path)
        with pytest.raises(KeyCollision):
            await sink.put("m", others[-1])
        with pytest.raises(KeyCollision):
            await sink.put("m", others[-10])
        await sink.put("m", others[0])  # long forgotten
        with pytest.raises(KeyCollision):
            await sink.put("m", paths[0])


@pytest.mark.parametrize("records_max", [0, -1, "10", True, 1.5])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, records_max: Any) -> None:
    with pytest.raises(ConfigError, match=r"records_max=.* is no number of records; expected 1 or more, or None"):
        asyncsink.AsyncSink(tmp_path / "out", records_max=records_max)


def test_the_files_of_dropped_outcomes_are_closed() -> None:
    log = OutcomeLog(records_max=3)
    files = set()
    for number in range(20):
        log.append(asyncsink.Skip(f"s{number}", f"k{number}", "u", 1, "because"))
        lines = log._kinds[asyncsink.Skip]
        files |= {segment.file for segment in (lines._older, lines._newer) if segment is not None}
    assert len([file for file in files if not file.closed]) == 2
    assert [skip.key for skip in log.skips] == [f"k{number}" for number in range(20 - len(log.skips), 20)]


# -- Journals that nobody uses -----------------------------------------------------------------------------------------


def journals(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "asyncsink/journals").iterdir() if path.suffix == ".sqlite")


def age(state: Path, *names: str) -> None:
    long_ago = time.time() - RETENTION_SECONDS - 60
    for name in names:
        os.utime(state / "asyncsink/journals" / name, (long_ago, long_ago))


async def test_journals_that_nobody_uses_are_removed(
    tmp_path: Path, seaweed: DevServer, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    (path,) = small(tmp_path / "in", range(1))
    for prefix in ("old", "new"):
        async with asyncsink.AsyncSink(f"s3://{bucket}/{prefix}", **options) as sink:
            await sink.put("m", path)
    old, new = (name for kind in ("old", "new") for name in journals(state) if f"-{kind}-" in name)
    async with asyncsink.AsyncSink(f"s3://{bucket}/used", **options) as sink:
        (used,) = (name for name in journals(state) if "-used-" in name)
        large = tmp_path / "large"
        large.write_bytes(bytes(3 * PART_BYTES))
        with FaultProxy(seaweed.endpoint_url, Rule(Timeout(), operation="UploadPart")) as proxy:
            where = options | {"endpoint_url": proxy.endpoint_url, "part_size_bytes": PART_BYTES}
            left = await asyncsink.AsyncSink(f"s3://{bucket}/left", **where).start()
            await left.submit("m", large)
            await asyncio.to_thread(proxy.wait_for_hits)
            (uploading,) = (name for name in journals(state) if "-left-" in name)
            await left.close(deadline_seconds=0)
        foreign = state / "asyncsink/journals/foreign.sqlite"
        foreign.write_bytes(b"no journal, and longer than a hundred bytes" * 10)
        age(state, old, used, uploading, foreign.name)
        plan = (
            await asyncsink.plan({"m": path}, f"s3://{bucket}/plan", **options) if hasattr(asyncsink, "plan") else None
        )
        assert plan is None or old in journals(state)
        async with asyncsink.AsyncSink(f"s3://{bucket}/another", **options):
            found = journals(state)
    assert old not in found
    assert {new, used, uploading, foreign.name} < set(found)
    # Closing counts as use, and so does opening where nothing is written.
    async with asyncsink.AsyncSink(f"s3://{bucket}/another", **options):
        assert used in journals(state)
    age(state, new)
    async with asyncsink.AsyncSink(f"s3://{bucket}/new", **options):
        pass
    async with asyncsink.AsyncSink(f"s3://{bucket}/another", **options):
        assert new in journals(state)
    # What is true afterwards: the run compares with the server.
    async with asyncsink.AsyncSink(f"s3://{bucket}/old", **options) as sink:
        assert isinstance(await sink.put("m", path), asyncsink.Skip)
