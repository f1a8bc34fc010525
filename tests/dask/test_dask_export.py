"""An export by the workers of a Dask cluster is the export of one process; and what no worker could do is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from dask import config
from distributed import Client

import asyncsink
from asyncsink.adapters import dask
from asyncsink.adapters.dask_export import run_on_cluster
from asyncsink.adapters.dask_worker import EnginePlugin
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.model import Started
from asyncsink.options.parse import parse_options
from asyncsink.report.manifest import ManifestEnd, read_manifest
from asyncsink.sources.directory import DirectorySource

pytestmark = pytest.mark.anyio


def said(report: asyncsink.Report) -> set[tuple[Any, ...]]:
    """The receipts, as far as two exports of the same files agree."""
    return {(r.source, r.key, r.url, r.size_bytes, str(r.checksum), r.confirmed_by, r.entry) for r in report.receipts}


async def test_everything_is_published_and_recorded_as_by_one_process(
    client: Client,
    options: dict[str, Any],
    tree: Path,
    many: Path,
    bucket: str,
    stored: Callable[[], dict[str, bytes]],
    tmp_path: Path,
) -> None:
    outputs = {"small": str(many), "tree.@one": [str(tree), str(tree / "a.txt")], "other": str(tree / "empty")}
    manifest, page = tmp_path / "m.jsonl", tmp_path / "page.json"
    alone = await asyncsink.export(outputs, f"s3://{bucket}/study", on_collision="last", **options)
    there = stored()
    other = await dask.export(client, outputs, f"s3://{bucket}/study", on_collision="last", overwrite="always",
                              manifest=manifest, report=page, **options)  # fmt: skip

    assert other.ok
    assert other.objects_uploaded == alone.objects_uploaded
    assert said(other) == said(alone)
    assert other.out_file == alone.out_file
    assert other.objects_skipped == alone.objects_skipped
    assert stored() == there
    read = read_manifest(str(manifest))
    header, records = read.header, read.records()
    found = list(records)
    end = found.pop()
    assert isinstance(end, ManifestEnd)
    assert not end.interrupted
    assert header.endpoint_url == options["endpoint_url"]
    keys = [record.key for record in found if isinstance(record, asyncsink.Receipt)]
    assert sorted(keys) == sorted(receipt.key for receipt in alone.receipts)

    shown = json.loads(page.read_text())
    assert shown["counts"]["objects_uploaded"] == other.objects_uploaded
    assert shown["outcome"]["state"] == "complete"
    assert shown["run"]["receipt"]["size_bytes"] == manifest.stat().st_size

    again = await dask.export(client, outputs, f"s3://{bucket}/study", on_collision="last", **options)
    assert again.objects_uploaded == 0
    assert again.counts.already_there == len(keys)
    # A listing and a proof by each worker, and nothing for each object but the large one.
    assert again.requests < 12


async def test_a_changed_file_is_a_failure_and_the_rest_is_published(
    client: Client, options: dict[str, Any], many: Path, bucket: str
) -> None:
    def observe(event: object) -> None:
        if isinstance(event, Started):  # the survey is over, and no worker has begun
            (many / "sub-00" / "file-000 é.txt").write_bytes(b"something else, and longer")

    settings = parse_options(f"s3://{bucket}/study", options)
    report = await run_on_cluster(client, settings, DirectorySource(many, symlinks="inside"), observe=observe)
    assert [failure.error for failure in report.failures] == ["SourceChanged"]
    assert report.objects_uploaded == 299


async def test_a_worker_that_does_not_see_the_source_is_left_out(
    client: Client, options: dict[str, Any], many: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each process has its own view of this path.
    monkeypatch.chdir(many.parent)
    seen_by = list(client.scheduler_info()["workers"])
    before = client.run(os.getcwd)
    try:
        client.run(os.chdir, str(many.parent), workers=seen_by[:1])
        client.run(os.chdir, "/", workers=seen_by[1:])
        told: list[str] = []
        for _ in range(10):  # one worker may have sent all before the other was asked
            report = await dask.export_directory(
                client, "/proc/self/cwd/many", f"s3://{bucket}/study", overwrite="always", **options
            )
            assert report.objects_uploaded == 300
            told += report.notices
            if told:
                break
        assert [seen_by[1] in notice and "does not see" in notice for notice in told] == [True]

        client.run(os.chdir, "/")
        with pytest.raises(asyncsink.AsyncSinkError, match=r"No worker of the Dask cluster can publish.*does not see"):
            await dask.export_directory(client, "/proc/self/cwd/many", f"s3://{bucket}/other", **options)
    finally:
        for worker, directory in before.items():
            client.run(os.chdir, directory, workers=[worker])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"journal": "j.sqlite"}, "journal"),
        ({"overwrite": "journal"}, "journal"),
        ({"local_copy": "copy"}, "local_copy is given"),
        ({"shard": "0/2"}, "shard is given"),
        ({"on_unreachable": "local"}, "on_unreachable='local' is given"),
        ({"sse": bytes(range(32))}, "customer key, which would travel"),
    ],
)
async def test_what_workers_cannot_do_is_refused(
    client: Client, options: dict[str, Any], many: Path, bucket: str, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(asyncsink.ConfigError, match=sentence):
        await dask.export_directory(client, many, f"s3://{bucket}/study", **options, **given)


async def test_objects_of_a_program_and_local_destinations_are_refused(
    client: Client, seaweed: DevServer, many: Path, bucket: str, tmp_path: Path
) -> None:
    theirs = boto3.resource("s3", endpoint_url=seaweed.endpoint_url, region_name="us-east-1").Bucket(bucket)
    with pytest.raises(asyncsink.ConfigError, match="cannot travel"):
        await dask.export_directory(client, many, f"s3://{bucket}/study", bucket=theirs)
    with pytest.raises(asyncsink.ConfigError, match="transport is a callable, which cannot travel"):
        await dask.export_directory(client, many, f"s3://{bucket}/study", transport=lambda inner: inner)
    with pytest.raises(asyncsink.ConfigError, match="limits are those of one process, which cannot travel"):
        await dask.export_directory(client, many, f"s3://{bucket}/study", limits=asyncsink.SharedLimits())
    with pytest.raises(asyncsink.ConfigError, match="no bucket"):
        await dask.export_directory(client, many, tmp_path / "there")


@pytest.mark.parametrize("cluster", [7, "nowhere.json", "local:0", "local:x", "tcp://127.0.0.1:9"])
async def test_what_is_no_cluster_is_refused(cluster: Any, many: Path) -> None:
    with (
        pytest.raises(asyncsink.ConfigError, match="expected"),
        config.set({"distributed.comm.timeouts.connect": "1s"}),
    ):
        await dask.export_directory(cluster, many, "s3://bucket/study")


def test_no_secret_travels(seaweed: DevServer, options: dict[str, Any], tmp_path: Path) -> None:
    credentials = tmp_path / "rootkey.csv"
    credentials.write_text(f"User,{seaweed.access_key_id},{seaweed.secret_access_key}\n")
    settings = parse_options("s3://bucket/study", {**options, "creds_path": str(credentials)})
    pickled = pickle.dumps(EnginePlugin("plugin", settings, "run"))
    assert str(credentials).encode() in pickled
    assert seaweed.secret_access_key.encode() not in pickled
    assert seaweed.access_key_id.encode() not in pickled
