"""An answer that says 200 is no proof: a captive portal, a proxy or a broken gateway says it too."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import AsyncSinkError
from asyncsink.options.settings import RetryPolicy
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject, error, quirky_s3

pytestmark = pytest.mark.anyio
BARE: Answer = (200, {}, b"")
PAGE: Answer = (200, {"Content-Type": "text/html"}, b"<html><body>Please log in to this network.</body></html>")
SMALL, MIDDLE, LARGE = 1000, 2 << 20, 20 << 20
"""Sizes in bytes of a file of a batch, of one for a lane thread, and of one in parts."""
QUICK = RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.001)
KMS = {"x-amz-server-side-encryption": "aws:kms"}


@pytest.fixture(params=["wire", "aioboto3"])
def options(request: pytest.FixtureRequest, dummy_keys: None) -> dict[str, Any]:
    return {"region": "us-east-1", "transport": request.param, "journal": False, "retry": QUICK}


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Makes a directory with one file of each size, named f0, f1, …"""

    def make(*sizes: int) -> Path:
        root = tmp_path / "tree"
        root.mkdir(exist_ok=True)
        for number, size in enumerate(sizes):
            (root / f"f{number}").write_bytes(bytes([number + 1]) * size)
        return root

    return make


async def export(s3: QuirkyS3, root: Path, options: dict[str, Any], **more: Any) -> Any:
    return await asyncsink.export_directory(root, "s3://tryout/p", endpoint_url=s3.url, **options, **more)


def is_put(r: Request, key: str = "") -> bool:
    return r.method == "PUT" and "partNumber" not in r.query and r.key.endswith(key)


def put_times(s3: QuirkyS3, key: str) -> int:
    return len([r for r in s3.log if is_put(r, key)])


def crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def completed(etag: str) -> bytes:
    return f"<CompleteMultipartUploadResult><ETag>&quot;{etag}&quot;</ETag></CompleteMultipartUploadResult>".encode()


# -- a PUT that never arrived ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [BARE, PAGE])
@pytest.mark.parametrize("size", [SMALL, MIDDLE])
@pytest.mark.parametrize("known", ["checksum", "etag"])
async def test_an_older_object_of_the_same_size_is_no_success(
    tree: Callable[..., Path], options: dict[str, Any], size: int, answer: Answer, known: str
) -> None:
    """The object that is looked at tells by its checksum, or by its ETag alone, that it is another one."""
    old = StoredObject(bytes(size), {"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="} if known == "checksum" else {})
    if known == "checksum":
        old.etag = '"opaque"'
    with quirky_s3(lambda r: answer if is_put(r) else None, checksums=known == "checksum") as s3:
        s3.objects["tryout"]["p/f0"] = old
        report = await export(s3, tree(size), options)
    assert [each.error for each in report.failures] == ["IntegrityError"]
    assert not report.receipts
    assert s3.bodies() == {"p/f0": bytes(size)}


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_nothing_under_the_key_is_no_success(
    tree: Callable[..., Path], options: dict[str, Any], size: int
) -> None:
    with quirky_s3(lambda r: BARE if is_put(r) else None) as s3:
        report = await export(s3, tree(size), options)
    (failure,) = report.failures
    assert (failure.error, report.receipts) == ("IntegrityError", [])
    assert "not there" in failure.message


@pytest.mark.parametrize("size", [0, SMALL, MIDDLE])
async def test_a_portal_that_answers_everything_proves_nothing(
    tree: Callable[..., Path], options: dict[str, Any], size: int
) -> None:
    """Also for an empty file, which an answer without a body looks like."""
    root = tree(size)
    for answer in (BARE, PAGE):
        with quirky_s3(lambda r, a=answer: a if r.key else None) as s3:
            report = await export(s3, root, options)
        assert (len(report.failures), list(report.receipts), list(report.skips)) == (1, [], [])


@pytest.mark.parametrize("answer", [BARE, PAGE])
async def test_a_listing_that_is_none_starts_no_run(
    tree: Callable[..., Path], options: dict[str, Any], answer: Answer
) -> None:
    with quirky_s3(lambda r: answer) as s3:
        with pytest.raises(AsyncSinkError, match="check that"):
            await export(s3, tree(SMALL), options)
        assert not any(r.method == "PUT" for r in s3.log)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_an_answer_without_proof_is_sent_once_more_where_others_had_one(
    tree: Callable[..., Path], options: dict[str, Any], size: int
) -> None:
    """Before anything is believed: the object under the key is not even looked at."""
    bent: list[str] = []

    def once(r: Request) -> Answer | None:
        if is_put(r, "f1") and not bent:
            bent.append(r.key)
            return BARE
        return None

    with quirky_s3(once) as s3:
        report = await export(s3, tree(size, size), options | {"concurrency": 1})
        assert (len(report.receipts), report.failures) == (2, [])
        assert (put_times(s3, "f0"), put_times(s3, "f1")) == (1, 2)
        assert not s3.requests("HEAD")
        assert {each.confirmed_by for each in report.receipts} == {"server-checksum"}


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_what_a_look_proves_is_told(tree: Callable[..., Path], options: dict[str, Any], size: int) -> None:
    """A server that answers nothing to a PUT, and everything to a HEAD."""
    with quirky_s3() as s3:

        def silent(r: Request) -> Answer | None:
            if not is_put(r):
                return None
            s3.ordinary(r)
            return BARE

        s3.quirk = silent
        report = await export(s3, tree(size, size), options)
    assert [each.confirmed_by for each in report.receipts] == ["server-checksum"] * 2, report.failures
    assert all(each.etag for each in report.receipts)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_credentials_that_may_not_look_believe_no_bare_answer(
    tree: Callable[..., Path], options: dict[str, Any], size: int
) -> None:
    def quirk(r: Request) -> Answer | None:
        if r.method == "HEAD" and r.key:
            return error(403, "AccessDenied")
        return BARE if is_put(r) else None

    with quirky_s3(quirk) as s3:
        report = await export(s3, tree(size), options)
    assert [each.error for each in report.failures] == ["IntegrityError"]


# -- checksums and ETags of other kinds ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("looked", [False, True])
async def test_a_checksum_that_was_not_asked_for_counts(
    tree: Callable[..., Path], options: dict[str, Any], size: int, wrong: bool, looked: bool
) -> None:
    """Nothing is sent along, and the server computes one of its own; its ETag is none that says anything."""
    with quirky_s3(checksums=False) as s3:

        def quirk(r: Request) -> Answer | None:
            if not is_put(r):
                return None
            s3.ordinary(r)
            stored = s3.objects["tryout"][r.key]
            stored.headers["x-amz-checksum-crc32"] = crc32(r.body + b"!" * wrong)
            stored.etag = '"opaque"'
            return 200, {"ETag": stored.etag} | ({} if looked else stored.headers), b""

        s3.quirk = quirk
        report = await export(s3, tree(size), options, checksum="none")
    if wrong:
        assert ([each.error for each in report.failures], list(report.receipts)) == (["IntegrityError"], [])
    else:
        assert [each.confirmed_by for each in report.receipts] == ["server-checksum"], report.failures


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
async def test_the_etag_that_was_listed_before_is_no_success(
    tree: Callable[..., Path], options: dict[str, Any], size: int
) -> None:
    """The server repeats what was sent, and shows the object that was there before, of another size."""
    with quirky_s3() as s3:

        def quirk(r: Request) -> Answer | None:
            status, headers, body = s3.ordinary(r)
            if is_put(r):
                headers |= {"ETag": '"before"'}
            if r.method == "POST" and "uploadId" in r.query:
                etag = s3.objects["tryout"][r.key].etag.encode()
                body = body.replace(etag, b'"before"')
                s3.objects["tryout"][r.key].etag = '"before"'
            return status, headers, body

        s3.objects["tryout"]["p/f0"] = StoredObject(b"old", etag='"before"')
        s3.quirk = quirk
        report = await export(s3, tree(size), options)
    assert [each.error for each in report.failures] == ["IntegrityError"]
    assert "before" in report.failures[0].message


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_the_object_that_is_looked_at_is_the_one_that_was_answered(
    tree: Callable[..., Path], options: dict[str, Any], size: int
) -> None:
    """Neither the answer nor the look has a checksum; the ETags are no MD5s, and differ."""

    def quirk(r: Request) -> Answer | None:
        if is_put(r):
            return 200, {"ETag": '"one"', **KMS}, b""
        if r.method == "HEAD" and r.key:
            told = {"ETag": '"two"', "Content-Length": str(size), "Last-Modified": "Mon, 30 Nov 2026 00:00:00 GMT"}
            return 200, told | KMS, b""
        return None

    with quirky_s3(quirk, checksums=False) as s3:
        report = await export(s3, tree(size), options, sse="aws:kms")
    assert [each.error for each in report.failures] == ["IntegrityError"]


# -- in parts --------------------------------------------------------------------------------------------------------


async def test_no_step_of_a_multipart_upload_believes_a_bare_answer(
    tree: Callable[..., Path], options: dict[str, Any]
) -> None:
    steps: dict[str, Callable[[Request], bool]] = {
        "create": lambda r: r.method == "POST" and "uploads" in r.query,
        "part": lambda r: r.method == "PUT" and r.query.get("partNumber") == "2",
        "complete": lambda r: r.method == "POST" and "uploadId" in r.query,
    }
    root = tree(LARGE)
    for step, bends in steps.items():
        for answer in (BARE, PAGE):
            bent: list[int] = []

            def once(
                r: Request, bends: Callable[[Request], bool] = bends, answer: Answer = answer, bent: list[int] = bent
            ) -> Answer | None:
                if bends(r) and not bent:
                    bent.append(r.number)
                    return answer
                return None

            with quirky_s3(once) as s3:
                report = await export(s3, root, options)
                assert bent, step
                assert [each.message for each in report.failures] == [], step
                assert len(report.receipts) == 1
                assert s3.bodies() == {"p/f0": bytes([1]) * LARGE}
                assert not s3.uploads


async def test_a_complete_that_shows_another_object_is_none(tree: Callable[..., Path], options: dict[str, Any]) -> None:
    """No checksum is sent, parts have no MD5 for an ETag, and an older object of the same size stays where it is."""

    def quirk(r: Request) -> Answer | None:
        if r.method == "PUT" and "partNumber" in r.query:
            s3.ordinary(r)
            return 200, {"ETag": f'"part-{r.query["partNumber"]}"'}, b""
        if r.method == "POST" and "uploadId" in r.query:
            s3.uploads.pop(r.query["uploadId"])
            return 200, {}, completed("new-3")
        return None

    with quirky_s3(quirk, checksums=False) as s3:
        for etag in ('"old-3"', '"new-3"'):
            s3.objects["tryout"]["p/f0"] = StoredObject(bytes(LARGE), etag=etag)
            report = await export(s3, tree(LARGE), options, checksum="none", overwrite="always")
            assert [each.error for each in report.failures] == ["IntegrityError"], etag


@pytest.mark.parametrize("wrong", [False, True])
async def test_a_composite_checksum_counts(tree: Callable[..., Path], options: dict[str, Any], wrong: bool) -> None:
    """SHA-256 has no value for a whole multipart object: what the server joins from the parts is compared."""
    root = tree(LARGE)
    with quirky_s3(checksums=False) as s3:

        def quirk(r: Request) -> Answer | None:
            status, headers, body = s3.ordinary(r)
            if r.method == "PUT" and "partNumber" in r.query:
                return status, {"ETag": f'"part-{r.query["partNumber"]}"'}, body
            if r.method == "POST" and "uploadId" in r.query:
                whole = bytes([1]) * LARGE + b"!" * wrong
                pieces = [whole[start : start + (8 << 20)] for start in range(0, LARGE, 8 << 20)]
                joined = hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).digest()
                told = f"{base64.b64encode(joined).decode()}-{len(pieces)}"
                if wrong:
                    told = "A" + told[1:]
                stored = s3.objects["tryout"][r.key]
                stored.headers |= {"x-amz-checksum-sha256": told, "x-amz-checksum-type": "COMPOSITE"}
                stored.etag = '"whole-3"'
                body = completed("whole-3")
            return status, headers, body

        s3.quirk = quirk
        report = await export(s3, root, options, checksum="SHA256")
    if wrong:
        assert ([each.error for each in report.failures], list(report.receipts)) == (["IntegrityError"], [])
    else:
        assert [each.confirmed_by for each in report.receipts] == ["server-checksum"], report.failures


# -- what is there already, and what is verified and fetched ---------------------------------------------------------


async def test_a_bare_look_is_not_an_empty_object_that_is_there_already(
    tree: Callable[..., Path], options: dict[str, Any]
) -> None:
    """The listing may not be read, and the HEAD of an empty file's key is answered by somebody else."""

    def quirk(r: Request) -> Answer | None:
        if not r.key and r.method == "GET":
            return error(403, "AccessDenied")
        if r.query.get("partNumber"):
            return error(404, "NoSuchUpload")
        return BARE if r.method == "HEAD" else None

    with quirky_s3(quirk) as s3:
        report = await export(s3, tree(0), options)
    assert not [skip for skip in report.skips if skip.already_there]
    assert report.receipts or report.failures


async def test_verify_believes_no_bare_answer(
    tree: Callable[..., Path], options: dict[str, Any], tmp_path: Path
) -> None:
    from asyncsink.maintenance.verify import verify_manifest

    manifest = tmp_path / "m.jsonl"
    with quirky_s3() as s3:
        await export(s3, tree(0, SMALL), options, manifest=manifest)
        for answer in (BARE, PAGE):
            s3.quirk = lambda r, a=answer: a if r.key else None
            report = await verify_manifest(manifest, options={"retry": QUICK, "endpoint_url": s3.url})
            assert (report.ok, report.problems_total, dict(report.confirmed_by)) == (False, 2, {})


@pytest.mark.parametrize("key", ["p/f0", "p"])
async def test_grab_believes_no_bare_answer(options: dict[str, Any], tmp_path: Path, key: str) -> None:
    with quirky_s3() as s3:
        s3.objects["tryout"]["p/f0"] = StoredObject(b"")
        for answer in (BARE, PAGE):
            s3.quirk = lambda r, a=answer: a if r.key else None
            how = {"endpoint_url": s3.url, "region": "us-east-1", "transport": options["transport"], "retry": QUICK}
            try:
                report = await asyncsink.grab(f"s3://tryout/{key}", tmp_path / "out", **how)
            except AsyncSinkError:
                continue
            assert (report.objects_fetched, len(report.failures)) == (0, 1)


@pytest.mark.parametrize("size", [SMALL, MIDDLE])
async def test_the_listed_etag_of_other_content_is_no_proof_where_everything_is_replaced(
    tree: Callable[..., Path], options: dict[str, Any], size: int
) -> None:
    """An answer that repeats the request's checksum beside the ETag of the object before, which is still there."""

    def quirk(r: Request) -> Answer | None:
        if not is_put(r) or not r.key:
            return None
        told = {name: value for name, value in r.headers.items() if name.startswith("x-amz-checksum-")}
        return 200, {"ETag": s3.objects["tryout"][r.key].etag, **told}, b""

    with quirky_s3(quirk) as s3:
        s3.objects["tryout"]["p/f0"] = StoredObject(b"the object before")
        report = await export(s3, tree(size), options, overwrite="always")
        assert [failure.error for failure in report.failures] == ["IntegrityError"]
        assert not report.receipts
        s3.quirk = None
        again = await export(s3, tree(size), options, overwrite="always")
        assert (len(again.receipts), len(again.failures)) == (1, 0)
