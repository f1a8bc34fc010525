"""A cause that every object gets stops the run; a file that failed for a cause that passes gets a further round."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.engine.recording.events import Progress
from asyncsink.model import Event, Failure, Finished
from asyncsink.options.parse import parse_options
from asyncsink.s3.availability import EQUAL_ERRORS
from asyncsink.sources.directory import DirectorySource
from tests.support.quirky_s3 import QuirkyS3, Request, StoredObject, error, quirky_s3

pytestmark = pytest.mark.anyio
FILES = 300
AT_ONCE = 4
QUICK = asyncsink.RetryPolicy(attempts=2, backoff_seconds_base=0.01)


@pytest.fixture
def many(tmp_path: Path, dummy_keys: None) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"f{number:03}").write_bytes(os.urandom(100))
    return folder


async def export(folder: Path, server: QuirkyS3, **options: Any) -> asyncsink.Report:
    given = {"region": "us-east-1", "journal": False, "retry": QUICK, "concurrency": AT_ONCE, **options}
    return await asyncsink.export_directory(folder, "s3://tryout/p", endpoint_url=server.url, **given)


def is_put(r: Request) -> bool:
    return r.method == "PUT" and bool(r.key)


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error(400, "InvalidStorageClass", "The storage class you specified is not valid"), "InvalidStorageClass"),
        (error(400, "KMS.NotFoundException", "Key 'arn:x' does not exist"), "KMS.NotFoundException"),
        (error(403, "AccessDenied", "not authorized to perform: s3:PutObjectTagging"), "PutObjectTagging"),
        (error(403, "InvalidAccessKeyId", "The key does not exist"), "InvalidAccessKeyId"),
    ],
    ids=["storage class", "KMS key", "tagging", "credentials"],
)
async def test_what_every_object_gets_stops_the_run(many: Path, lane: str, answer: Any, words: str) -> None:
    with quirky_s3(lambda r: answer if is_put(r) else None) as server:
        report = await export(many, server, transport=lane)
        assert len(server.requests("PUT")) <= 3 * EQUAL_ERRORS + AT_ONCE  # some are under way when the tenth is refused
    assert words in report.stop_reason
    assert report.interrupted
    assert 0 < report.objects_failed <= EQUAL_ERRORS + AT_ONCE
    assert report.objects_failed + report.objects_unfinished == FILES
    assert words in report.summary().splitlines()[0]
    with pytest.raises(asyncsink.ExportFailed, match=r"stopped: .* not sent; run it again"):
        report.raise_for_failures()


@pytest.mark.parametrize(
    "answer", [error(404, "NoSuchBucket"), error(403, "InvalidAccessKeyId"), error(403, "AccessDenied")]
)
async def test_what_happens_to_the_bucket_in_mid_run_stops_it(many: Path, answer: Any) -> None:
    puts = 0

    def quirk(r: Request) -> Any:
        nonlocal puts
        puts += is_put(r)
        return answer if puts > 50 else None

    with quirky_s3(quirk) as server:
        report = await export(many, server)
    assert report.objects_uploaded == 50
    assert report.objects_failed <= 2 * EQUAL_ERRORS + AT_ONCE
    assert report.objects_uploaded + report.objects_failed + report.objects_unfinished == FILES


async def test_one_folder_that_may_not_be_written_to_stops_nothing(many: Path) -> None:
    def quirk(r: Request) -> Any:
        return error(403, "AccessDenied") if is_put(r) and r.key.startswith("p/f1") else None

    with quirky_s3(quirk) as server:
        report = await export(many, server)
    assert (report.objects_uploaded, report.objects_failed, report.stop_reason) == (FILES - 100, 100, "")


async def test_one_folder_stops_nothing_while_others_are_under_way(many: Path) -> None:
    """What a batch has stored counts as soon as it is stored, not when its last file is."""
    release, refused = threading.Event(), threading.Event()
    failures = itertools.count(1)
    for path in sorted(many.iterdir())[128:]:
        path.unlink()

    def observe(event: Event) -> None:
        if isinstance(event, Finished) and isinstance(event.outcome, Failure) and next(failures) == EQUAL_ERRORS:
            refused.set()

    def quirk(r: Request) -> Any:
        if not is_put(r):
            return None
        if r.key < "p/f064":
            # The first batch; the answers to the second are there before.
            release.wait(30)
            return error(403, "AccessDenied")
        if r.key == "p/f127":
            release.set()
            assert refused.wait(30)  # the second batch ends after the first
        return None

    with quirky_s3(quirk) as server:
        given = {"region": "us-east-1", "journal": False, "retry": QUICK, "concurrency": 128}
        settings = parse_options("s3://tryout/p", {**given, "endpoint_url": server.url})
        report = await run_source(settings, DirectorySource(many, symlinks="inside"), observe=observe)
    assert (report.objects_uploaded, report.objects_failed, report.stop_reason) == (64, 64, "")


async def test_large_files_too(many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(2 * EQUAL_ERRORS):
        (folder / f"l{number:02}").write_bytes(bytes(6 << 20))

    def quirk(r: Request) -> Any:
        return error(400, "InvalidStorageClass") if r.method == "POST" and "uploads" in r.query else None

    with quirky_s3(quirk) as server:
        report = await export(folder, server, part_size_bytes="5MiB")
    assert "InvalidStorageClass" in report.stop_reason
    assert report.objects_unfinished >= 1


def test_the_command_says_so_and_ends_with_1(many: Path, tmp_path: Path, run_inside: Any) -> None:
    with quirky_s3(lambda r: error(400, "InvalidStorageClass") if is_put(r) else None) as server:
        ended = run_inside(
            "export", many, "s3://tryout/p", "--storage-class", "GLACIR", env=server.environment(tmp_path)
        )
    assert ended.returncode == 1
    said = ended.stdout.decode()
    assert said.startswith("Stopped: 10 objects in a row were refused for one cause")
    assert re.search(r"\d+ not tried", said)
    assert ended.stderr.decode().count("InvalidStorageClass") <= 60


def failing(times: int, which: str) -> Any:
    """A quirk: the server cannot store these keys so many times."""
    seen: Counter[str] = Counter()

    def quirk(r: Request) -> Any:
        if not (is_put(r) and which in r.key):
            return None
        seen[r.key] += 1
        return error(500, "InternalError") if seen[r.key] <= times else None

    return quirk


async def test_what_failed_for_a_cause_that_passes_is_tried_once_more(many: Path) -> None:
    with quirky_s3(failing(QUICK.attempts, "f00")) as server:
        report = await export(many, server)
        assert len(server.bodies()) == FILES
    assert (report.objects_uploaded, report.objects_failed, report.objects_total) == (FILES, 0, FILES)
    assert len({receipt.key for receipt in report.receipts}) == FILES


async def test_retries_0_is_one_round(many: Path) -> None:
    with quirky_s3(failing(QUICK.attempts, "f00")) as server:
        report = await export(many, server, retries=0)
    assert (report.objects_uploaded, report.objects_failed) == (FILES - 10, 10)


async def test_what_fails_in_every_round_is_a_failure_once(many: Path) -> None:
    with quirky_s3(failing(1000, "f00")) as server:
        report = await export(many, server, retries=2)
        rounds = max(Counter(r.key for r in server.requests("PUT")).values())
    assert (report.objects_uploaded, report.objects_failed) == (FILES - 10, 10)
    assert len({failure.key for failure in report.failures}) == 10
    assert rounds == 3 * QUICK.attempts


async def test_a_grab_has_further_rounds_too(many: Path, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    def quirk(r: Request) -> Any:
        if r.method != "GET" or not r.key or "f00" not in r.key:
            return None
        seen[r.key] += 1
        return error(500, "InternalError") if seen[r.key] <= QUICK.attempts else None

    with quirky_s3() as server:
        (await export(many, server)).raise_for_failures()
        server.quirk = quirk
        grabber = asyncsink.S3Grabber(
            "s3://tryout/p", tmp_path / "here", endpoint_url=server.url, region="us-east-1", retry=QUICK
        )
        progress = Progress()
        report = await grabber.run(progress=progress)
    report.raise_for_failures()
    assert report.ok
    assert len(report.receipts) == FILES
    # What failed in the first round only has not failed, and displays see the requests that the report counts.
    assert progress.bytes_failed == 0
    assert (progress.traffic.requests, progress.traffic.retries) == (report.requests, report.retries)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"retries": -1}, "retries=-1 is out of range"),
        ({"retries": "x"}, "retries='x' is no number"),
        ({"give_up_after_seconds": "soon"}, "give_up_after_seconds='soon' is no duration"),
        ({"give_up_after_seconds": -5}, "give_up_after_seconds=-5 is no duration"),
        ({"abort_on_interrupt": "perhaps"}, "abort_on_interrupt"),
    ],
)
async def test_wrong_values_are_refused(many: Path, option: dict[str, Any], words: str) -> None:
    with pytest.raises(asyncsink.ConfigError, match=re.escape(words)):
        await asyncsink.export_directory(many, "s3://tryout/p", **option)
    with pytest.raises(asyncsink.ConfigError):
        asyncsink.S3Grabber("s3://tryout/p", "x", **{**option, "retries": -1})  # type: ignore[arg-type]


def test_wrong_values_are_refused_in_the_words_of_the_command(many: Path, tmp_path: Path, run_inside: Any) -> None:
    with quirky_s3() as server:
        env = server.environment(tmp_path)
        for words, said in (
            (("--give-up-after", "soon"), "--give-up-after soon is no duration"),
            (("--retries", "many"), "--retries many is no number"),
        ):
            ended = run_inside("export", many, "s3://tryout/p", *words, env=env)
            assert ended.returncode == 2
            assert said in ended.stderr.decode()
        assert server.log == []


async def test_a_further_round_that_is_stopped_loses_no_failure(many: Path) -> None:
    files, tried = 40, Counter[str]()

    def quirk(r: Request) -> Any:
        if not is_put(r):
            return None
        tried[r.key] += 1
        # The second attempt of the first round is the last that fails for a passing cause.
        return error(500, "InternalError") if tried[r.key] <= 2 else error(400, "InvalidStorageClass")

    for path in sorted(many.iterdir())[files:]:
        path.unlink()
    with quirky_s3(quirk) as server:
        report = await export(many, server)
    assert "InvalidStorageClass" in report.stop_reason
    # Each file has an end: that of the further round, or of the first one where that was stopped on the way.
    assert (report.objects_uploaded, report.objects_failed, report.objects_unfinished) == (0, files, 0)
    assert len({failure.key for failure in report.failures}) == files


async def test_a_further_round_of_a_grab_that_is_stopped_loses_no_failure(many: Path, tmp_path: Path) -> None:
    files, tried = 40, Counter[str]()

    def quirk(r: Request) -> Any:
        if r.method != "GET" or not r.key:
            return None
        tried[r.key] += 1
        return error(500, "InternalError") if tried[r.key] <= 2 else error(403, "AccessDenied")

    with quirky_s3(quirk) as server:
        server.objects["tryout"] = {f"p/f{number:03}": StoredObject(b"x") for number in range(files)}
        given = {"region": "us-east-1", "retry": QUICK, "concurrency": AT_ONCE, "endpoint_url": server.url}
        report = await asyncsink.grab("s3://tryout/p", tmp_path / "back", **given)
    assert "AccessDenied" in report.stop_reason
    assert len({failure.key for failure in report.failures}) == files
