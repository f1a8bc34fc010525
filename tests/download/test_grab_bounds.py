"""What a grab may have: the keys it asked for and no others, and a key itself where nothing may be listed."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

import asyncsink
from asyncsink.engine.recording.recorder import Recorder
from asyncsink.errors import AccessDenied, SourceMissing
from asyncsink.options.settings import RetryPolicy
from tests.support.files import content_of
from tests.support.quirky_s3 import Answer, Request, StoredObject, error, quirky_s3, run_command

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("dummy_keys")]


@pytest.fixture(params=["wire", "aioboto3"])
def lane(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Options that choose a lane, with no pauses between attempts."""
    return {"transport": request.param, "region": "us-east-1"}


def listing(*keys: str) -> Answer:
    """A listing with objects of three bytes, whatever was asked for."""
    rows = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2024-01-01T00:00:00Z</LastModified>"
        f'<ETag>"900150983cd24fb0d6963f7d28e17f72"</ETag><Size>3</Size></Contents>'
        for key in keys
    )
    document = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
    return 200, {"Content-Type": "application/xml"}, document.encode()


def lists(*keys: str) -> Callable[[Request], Answer | None]:
    return lambda r: listing(*keys) if r.method == "GET" and not r.key else None


def no_listing(r: Request) -> Answer | None:
    return error(403, "AccessDenied", "Access Denied") if not r.key else None


async def test_keys_outside_the_source_are_failures_and_never_written(lane: dict[str, Any], tmp_path: Path) -> None:
    keys = ("p/a", "q/a", "p2/a", "a", "p", "P/a")
    with quirky_s3(lists(*keys)) as server:
        server.objects["tryout"] = {key: StoredObject(b"abc" if key == "p/a" else b"xyz") for key in keys[1:]}
        server.objects["tryout"]["p/a"] = StoredObject(b"abc")
        report = await asyncsink.grab("s3://tryout/p/", tmp_path, endpoint_url=server.url, **lane)
        asked = {r.key for r in server.log if r.key}
    assert content_of(tmp_path)["a"] == b"abc"
    assert set(content_of(tmp_path)) <= {"a", "p"}  # "p" is the object that the source can also name
    assert sorted(failure.key for failure in report.failures) == sorted(set(keys) - {"p/a"})
    assert all("was not asked for" in failure.message and len(failure.message) < 500 for failure in report.failures)
    assert asked <= {"p/a", "p"}


async def test_keys_outside_a_templates_literal_prefix_are_failures(lane: dict[str, Any], tmp_path: Path) -> None:
    with quirky_s3(lists("p/sub-01/T1", "p/other/T1", "elsewhere")) as server:
        server.objects["tryout"] = {key: StoredObject(b"abc") for key in ("p/sub-01/T1", "p/other/T1", "elsewhere")}
        report = await asyncsink.grab("s3://tryout/p", tmp_path, template="sub-.*/T1", endpoint_url=server.url, **lane)
    assert [receipt.key for receipt in report.receipts] == ["p/sub-01/T1"]
    assert sorted(failure.key for failure in report.failures) == ["elsewhere", "p/other/T1"]
    assert report.outputs == {"outfiles": f"{tmp_path}/sub-01/T1"}


async def test_a_listing_with_nothing_but_other_keys_finds_nothing(lane: dict[str, Any], tmp_path: Path) -> None:
    with quirky_s3(lists("q/a")) as server, pytest.raises(SourceMissing, match="holds no objects"):
        await asyncsink.grab("s3://tryout/p", tmp_path, endpoint_url=server.url, **lane)


async def test_an_object_named_by_its_key_needs_no_right_to_list(lane: dict[str, Any], tmp_path: Path) -> None:
    with quirky_s3(no_listing) as server:
        server.objects["tryout"]["p/sub-01/T1w.nii.gz"] = StoredObject(b"abc")
        report = await asyncsink.grab("s3://tryout/p/sub-01/T1w.nii.gz", tmp_path, endpoint_url=server.url, **lane)
    assert (report.objects_fetched, len(report.failures)) == (1, 0)
    assert content_of(tmp_path) == {"T1w.nii.gz": b"abc"}


@pytest.mark.parametrize("size", [0, 1, 100, 20 << 20])
async def test_an_object_that_may_be_read_and_neither_listed_nor_looked_at(
    lane: dict[str, Any], tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    denied = error(403, "AccessDenied")
    with quirky_s3(lambda r: denied if not r.key else (403, {}, b"") if r.method == "HEAD" else None) as server:
        server.objects["tryout"]["p/x.nii"] = StoredObject(content)
        report = await asyncsink.grab("s3://tryout/p/x.nii", tmp_path, endpoint_url=server.url, **lane)
        assert [failure.message for failure in report.failures] == []
        assert content_of(tmp_path) == {"x.nii": content}
        with pytest.raises(AccessDenied, match="ListObjectsV2"):
            await asyncsink.grab("s3://tryout/p/absent/x/", tmp_path, endpoint_url=server.url, **lane)


@pytest.mark.parametrize("syntax", ["regex", "glob"])
async def test_templates_that_name_whole_keys_need_no_right_to_list(
    lane: dict[str, Any], syntax: Literal["regex", "glob"], tmp_path: Path
) -> None:
    keys = {f"p/sub-0{number}/T1w.nii.gz": StoredObject(b"abc") for number in (1, 2, 3)}
    with quirky_s3(no_listing) as server:
        server.objects["tryout"] |= keys
        report = await asyncsink.grab(
            "s3://tryout/p",
            tmp_path,
            template="sub-%s/T1w.nii.gz",
            template_syntax=syntax,
            infields={"subject": ["03", "01"]},
            endpoint_url=server.url,
            **lane,
        )
    assert report.outputs == {"outfiles": [f"{tmp_path}/sub-03/T1w.nii.gz", f"{tmp_path}/sub-01/T1w.nii.gz"]}
    assert set(content_of(tmp_path)) == {"sub-01/T1w.nii.gz", "sub-03/T1w.nii.gz"}
    assert "may not be listed" in report.notices[0]


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("s3://tryout/p/x/", {}, "whole key"),
        ("s3://tryout", {}, "whole key"),
        ("s3://tryout/p/absent", {}, "'p/absent' itself"),
        ("s3://tryout/p", {"template": "sub-.*"}, "whole key"),
        ("s3://tryout/p", {"template": "x|y"}, "whole key"),
    ],
)
async def test_a_refused_listing_without_such_a_key_names_both(
    lane: dict[str, Any], source: str, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with quirky_s3(no_listing) as server:
        server.objects["tryout"]["p/x"] = StoredObject(b"abc")
        with pytest.raises(AccessDenied, match="ListObjectsV2") as caught:
            await asyncsink.grab(source, tmp_path / "d", endpoint_url=server.url, **options, **lane)
    assert told in str(caught.value)
    assert not (tmp_path / "d").exists()


async def test_a_template_for_an_absent_key_finds_nothing_where_that_is_allowed(
    lane: dict[str, Any], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"template": "sub-%s", "infields": {"subject": ["1", "2"]}, **lane}
    with quirky_s3(no_listing) as server:
        server.objects["tryout"]["p/sub-2"] = StoredObject(b"abc")
        with pytest.raises(SourceMissing, match="may not be listed, and has no object 'sub-1'"):
            await asyncsink.grab("s3://tryout/p", tmp_path, endpoint_url=server.url, **given)
        report = await asyncsink.grab("s3://tryout/p", tmp_path, raise_on_empty=False, endpoint_url=server.url, **given)
    assert report.outputs == {"outfiles": [None, f"{tmp_path}/sub-2"]}


@pytest.mark.parametrize("extra", [(), ("--anonymous",)])
def test_the_command_grabs_one_key_that_it_may_not_list(extra: tuple[str, ...], tmp_path: Path) -> None:
    with quirky_s3(no_listing) as server:
        server.objects["tryout"]["p/sub-01/T1w.nii.gz"] = StoredObject(b"abc")
        ended = run_command(
            "grab", "s3://tryout/p/sub-01/T1w.nii.gz", tmp_path / "d", *extra, env=server.environment(tmp_path)
        )
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["T1w.nii.gz"]


async def test_a_stopped_grab_does_not_wait_without_end_for_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def hang(*_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Recorder, "_write", hang)
    with quirky_s3() as server:
        server.objects["tryout"]["a"] = StoredObject(b"abc")
        retry = RetryPolicy(abort_seconds=0.05)
        grabbing = asyncio.create_task(
            asyncsink.grab("s3://tryout", tmp_path, endpoint_url=server.url, region="us-east-1", retry=retry)
        )
        await reached.wait()
        grabbing.cancel()
        done, _ = await asyncio.wait([grabbing], timeout=30)
    assert done
    with pytest.raises((asyncsink.errors.JournalError, asyncio.CancelledError)):
        await grabbing


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EMFILE, "ulimit -n"), (errno.ENOMEM, "no memory"), (errno.EIO, "")]
)
async def test_a_fault_of_the_system_is_worded_for_a_grab(
    number: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with quirky_s3() as server:
        server.objects["tryout"]["a"] = StoredObject(b"abc")
        monkeypatch.setattr(os, "pwrite", fail)
        report = await asyncsink.grab("s3://tryout", tmp_path, endpoint_url=server.url, region="us-east-1")
    (failure,) = report.failures
    assert os.strerror(number) in failure.message
    assert told in failure.message
    assert "export" not in failure.message
