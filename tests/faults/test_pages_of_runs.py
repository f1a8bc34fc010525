"""Pages of real runs: what is told of faults, and that a page is there however its run ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.cli.main import main
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError, JournalError
from asyncsink.model import Event, Started
from asyncsink.report.page import rendering
from asyncsink.testing import s3_toxics as s
from asyncsink.testing.fault_proxy import Rule
from tests.faults.conftest import IMPATIENT, OpenProxy
from tests.support.holding_proxy import HoldingProxy

pytestmark = pytest.mark.anyio


def read(page: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(page.read_text())
    return said


async def test_a_page_of_a_run_with_faults(many: Path, tmp_path: Path, bucket: str, harm: OpenProxy) -> None:
    proxy = harm(
        Rule(s.Status(403, "AccessDenied"), operation="PutObject", key="*file-007*"),
        Rule(s.Status(503, "SlowDown"), operation="PutObject", probability=0.2),
        seed=3,
    )
    place, manifest = tmp_path / "page.json", tmp_path / "study.jsonl"
    report = await asyncsink.export_directory(
        many,
        f"s3://{bucket}/p",
        endpoint_url=proxy.endpoint_url,
        retry=IMPATIENT,
        journal=False,
        manifest=manifest,
        report=place,
        exclude=["sub-19"],
    )
    said = read(place)
    time = said["time"]
    assert said["outcome"]["state"] == "failed"
    assert said["outcome"]["headline"] == report.headline()
    assert said["counts"]["objects_uploaded"] == report.objects_uploaded == sum(time["objects"])
    assert sum(time["slow_down"]) == report.retries > 10
    assert sum(time["bytes"]) >= report.bytes_uploaded
    assert max(time["in_flight"]) > 0
    assert [(cause["error"], cause["failures"]) for cause in said["causes"]] == [("AccessDenied", 1)]
    assert said["files"]["rows"][0][:2] == ["failed", "sub-07/file-007 é.txt"]
    assert said["files"]["total"] == report.objects_total
    assert sum(each["objects"] for each in said["left_out"]) == report.counts.not_published_total > 0
    assert said["run"]["options"] == {"exclude": "sub-19", "endpoint_url": proxy.endpoint_url} | {
        name: value for name, value in said["run"]["options"].items() if name == "retry"
    }
    assert said["run"]["receipt"]["sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert said["check"]["command"] == f"asyncsink verify {manifest} --read-back"


async def test_a_run_that_is_stopped_leaves_its_page(
    tree: Path, tmp_path: Path, bucket: str, proxy: HoldingProxy, options: dict[str, Any]
) -> None:
    place = tmp_path / "page.html"
    proxy.hold = lambda name: "request" if name.startswith("UploadPart") else ""
    run = asyncio.create_task(
        asyncsink.export_directory(
            tree,
            f"s3://{bucket}/p",
            endpoint_url=proxy.endpoint_url,
            journal=tmp_path / "j.sqlite",
            manifest=tmp_path / "m.jsonl",
            report=place,
        )
    )
    with anyio.fail_after(60):
        await proxy.held.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    page = place.read_text()
    assert "as-interrupted" in page
    assert "m.jsonl.partial" in page
    assert "Run the same command again to publish the rest." in page
    assert not [each.name for each in tmp_path.iterdir() if each.name.startswith(".page")]


async def test_a_run_that_fails_leaves_its_page(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    def lose(event: Event) -> None:
        if isinstance(event, Started):
            (tmp_path / "m.jsonl.partial").unlink()

    place = tmp_path / "page.json"
    with pytest.raises(JournalError):
        await asyncsink.export_directory(
            tree, f"s3://{bucket}/p", manifest=tmp_path / "m.jsonl", report=place, observe=lose, **options
        )
    said = read(place)
    assert said["outcome"]["state"] == "stopped"
    assert "was removed or replaced while the run went on" in said["run"]["stop_reason"]


async def test_where_no_page_can_be_nothing_is_sent(
    tree: Path, tmp_path: Path, bucket: str, proxy: HoldingProxy, options: dict[str, Any]
) -> None:
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    for place, says in (
        (tree / "page.html", "lies inside the source"),
        (mine, "is no report of asyncsink"),
        (tmp_path / "nowhere" / "page.html", "cannot be created"),
    ):
        with pytest.raises(ConfigError, match=says):
            await asyncsink.export_directory(tree, f"s3://{bucket}/p", endpoint_url=proxy.endpoint_url, report=place)
        if place != tree / "page.html":
            with pytest.raises(ConfigError, match=says):
                await asyncsink.grab(
                    f"s3://{bucket}/p", tmp_path / "grabbed", endpoint_url=proxy.endpoint_url, report=place
                )
    assert mine.read_text() == "mine"


async def test_a_disk_that_fills_up_is_a_notice(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    place = tmp_path / "page.html"

    def taken(event: Event) -> None:
        if isinstance(event, Started):
            place.write_text("somebody else's")

    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", report=place, observe=taken, **options)
    assert report.ok
    assert any("could not be written" in notice for notice in report.notices)
    assert place.read_text() == "somebody else's"


async def test_a_bug_of_the_page_is_no_fault_of_the_run(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "chart_of", lambda time: 1 / 0)
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", report=tmp_path / "page.html", **options)
    assert report.objects_uploaded == 4
    assert any("ZeroDivisionError" in notice for notice in report.notices)


def test_a_bug_of_the_page_is_a_notice_of_each_command(
    tree: Path,
    tmp_path: Path,
    bucket: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "asyncsink.report.page.rendering", None)  # as where jinja2 is not installed
    parts, page = str(tmp_path / "parts"), ["--report", str(tmp_path / "page.html")]
    assert main(["split", str(tree), f"s3://{bucket}/q", parts, "--quiet"]) == 0
    for words, says in (
        (["export", str(tree), f"s3://{bucket}/p"], "All 4 files"),
        (["run", parts, "--part", "0"], "All 4 files"),
        (["grab", f"s3://{bucket}/p", str(tmp_path / "back")], "All 4 files"),
    ):
        capsys.readouterr()
        assert main([*words, *page]) == 0
        told = capsys.readouterr()
        assert says in told.out
        assert "could not be written: ModuleNotFoundError" in told.err


async def test_a_run_that_is_cancelled_ends_so_though_its_page_fails(
    tree: Path,
    tmp_path: Path,
    bucket: str,
    proxy: HoldingProxy,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rendering, "chart_of", lambda time: 1 / 0)
    proxy.hold = lambda name: "request" if name.startswith(("PutObject", "UploadPart")) else ""
    export = asyncsink.export_directory(
        tree, f"s3://{bucket}/p", endpoint_url=proxy.endpoint_url, journal=False, report=tmp_path / "page.html"
    )
    run = asyncio.create_task(export)
    with anyio.fail_after(60):
        await proxy.held.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_sinks_and_grabs_have_pages(tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    of_sink, of_grab = tmp_path / "sink.json", tmp_path / "grab.json"
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", report=of_sink, **options) as sink:
        await sink.put_bytes("sub/a.json", b"{}")
    assert read(of_sink)["counts"]["objects_uploaded"] == 1
    assert read(of_sink)["outcome"]["state"] == "complete"
    report = await asyncsink.grab(f"s3://{bucket}/p", tmp_path / "grabbed", report=of_grab, **options)
    assert report.objects_fetched == 1
    said = read(of_grab)
    assert (said["run"]["verb"], said["run"]["sources"]) == ("grab", [f"s3://{bucket}/p"])
    assert said["files"]["rows"][0][:3] == ["received", "sub/a.json", 2]


def test_the_command_writes_a_page(
    tree: Path, tmp_path: Path, bucket: str, seaweed: DevServer, options: dict[str, Any]
) -> None:
    page = tmp_path / "page.html"
    assert main(["export", str(tree), f"s3://{bucket}/p", "--report", str(page), "--quiet"]) == 0
    assert "All 4 files" in page.read_text()
    assert seaweed.secret_access_key not in page.read_text()
    assert seaweed.access_key_id not in page.read_text()
    assert main(["plan", str(tree), f"s3://{bucket}/p", "--report", str(page), "--quiet"]) == 0
    assert "nothing would be sent" in page.read_text()
