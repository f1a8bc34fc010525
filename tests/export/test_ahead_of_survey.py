"""While a source is still being surveyed, its server is asked for the first page of the listing: for nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.errors import BucketMissing, ConfigError, CredentialsError, SourceError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.parse import parse_options
from asyncsink.s3 import stack
from asyncsink.sources.directory import DirectorySource
from tests.support.quirky_s3 import QuirkyS3, Request, StoredObject, error, quirky_s3

pytestmark = pytest.mark.anyio
WAIT_SECONDS = 30.0
QUICK = asyncsink.RetryPolicy(attempts=3, backoff_seconds_base=0.01)


@pytest.fixture
def tree(tmp_path: Path, dummy_keys: None) -> Path:
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "a.txt").write_text("a")
    (root / "sub" / "b.txt").write_text("b")
    return root


class HeldSource(DirectorySource):
    """Gives the first of its files when `begins` is set; `ended` where that was so in time."""

    def __init__(self, directory: Path, begins: threading.Event) -> None:
        super().__init__(directory, symlinks="inside")
        self.begins = begins
        self.ended = False

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        self.ended = self.begins.wait(WAIT_SECONDS)
        yield from super().scan()


async def export(source: DirectorySource, server: QuirkyS3, **options: Any) -> asyncsink.Report:
    given = {"region": "us-east-1", "journal": False, "retry": QUICK, "endpoint_url": server.url, **options}
    return await run_source(parse_options("s3://tryout/p", given), source)


def listings(server: QuirkyS3) -> list[str]:
    return [request.query["prefix"] for request in server.requests("GET") if "prefix" in request.query]


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_the_listing_is_asked_for_while_the_survey_goes_on(tree: Path, lane: str) -> None:
    listed = threading.Event()

    def quirk(request: Request) -> None:
        if "prefix" in request.query:
            listed.set()

    with quirky_s3(quirk) as server:
        server.objects["tryout"]["p/a.txt"] = StoredObject(b"a")
        source = HeldSource(tree, listed)
        report = await export(source, server, transport=lane)
        assert source.ended
        # What it told is used, and it was asked for once.
        assert (report.objects_uploaded, report.objects_skipped) == (1, 1)
        assert listings(server) == ["p/"]
        assert sorted(server.bodies()) == ["p/a.txt", "p/sub/b.txt"]


async def test_the_container_is_known_before_the_walk(tree: Path) -> None:
    with quirky_s3() as server:
        await export(DirectorySource(tree, symlinks="inside"), server, container="study")
        assert listings(server) == ["p/study/"]


async def test_where_keys_have_more_in_common_that_is_listed_too(tree: Path) -> None:
    (tree / "a.txt").unlink()
    with quirky_s3() as server:
        server.objects["tryout"]["p/sub/b.txt"] = StoredObject(b"b")
        report = await export(DirectorySource(tree, symlinks="inside"), server)
        assert report.objects_skipped == 1
        assert listings(server) == ["p/", "p/sub/"]


async def test_of_outputs_no_page_is_asked_for_that_may_be_the_wrong_one(tree: Path) -> None:
    with quirky_s3() as server:
        given = {"region": "us-east-1", "journal": False, "endpoint_url": server.url}
        report = await asyncsink.export({"x": str(tree)}, "s3://tryout/p", **given)
        assert report.objects_uploaded == 2
        asked = [(request.query["prefix"], request.query["max-keys"]) for request in server.requests("GET")]
        assert asked == [("p/", "1"), ("p/x/tree/", "1000")]


async def test_a_page_that_is_old_when_the_survey_ends_is_asked_for_again(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "AHEAD_SECONDS_MAX", 0.0)
    with quirky_s3() as server:
        report = await export(DirectorySource(tree, symlinks="inside"), server)
        assert report.objects_uploaded == 2
        assert listings(server) == ["p/", "p/"]


async def test_a_page_that_was_refused_counts_as_the_first_attempt(tree: Path) -> None:
    def quirk(request: Request) -> Any:
        return error(503, "SlowDown") if "prefix" in request.query and len(server.log) == 1 else None

    with quirky_s3(quirk) as server:
        report = await export(DirectorySource(tree, symlinks="inside"), server)
        assert (report.objects_uploaded, report.retries, len(listings(server))) == (2, 1, 2)


async def test_a_refused_source_is_told_before_the_server_s_faults(tree: Path) -> None:
    """Its sentence is the first thing to know, and nothing is written."""
    (tree / "gone").symlink_to(tree / "nowhere")
    with quirky_s3(lambda _: error(404, "NoSuchBucket")) as server:
        with pytest.raises(SourceError, match="gone"):
            await export(DirectorySource(tree, symlinks="inside"), server)
        assert {request.method for request in server.log} <= {"GET"}


async def test_a_source_that_is_refused_does_not_wait_for_a_server_that_does_not_answer(tree: Path) -> None:
    (tree / "gone").symlink_to(tree / "nowhere")
    asked, told = threading.Event(), threading.Event()

    def quirk(_: Request) -> None:
        asked.set()
        told.wait(WAIT_SECONDS)

    with quirky_s3(quirk) as server:
        source = HeldSource(tree, asked)
        try:
            with pytest.raises(SourceError, match="gone"):
                await export(source, server)
            assert source.ended
            assert not told.is_set()
        finally:
            told.set()


async def test_what_cannot_be_opened_is_told_after_the_survey(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with quirky_s3(lambda _: error(404, "NoSuchBucket")) as server, pytest.raises(BucketMissing, match="tryout"):
        await export(DirectorySource(tree, symlinks="inside"), server)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tree))
    with quirky_s3() as server:
        with pytest.raises((CredentialsError, ConfigError), match="redentials"):
            await export(DirectorySource(tree, symlinks="inside"), server)
        assert server.log == []
